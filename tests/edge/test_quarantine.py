"""Attribution of dropped connections to operations, and their quarantine."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from edge.mqtt.packets import Operation
from edge.mqtt.quarantine import Quarantine

EVENT = Operation("emotion/hall/door/event")
STATUS = Operation("emotion/hall/status")
RESPONSE = Operation("emotion/hall/cmd/+/response", response=True)
SUBSCRIPTION = Operation("emotion/hall/status", subscribe=True)


def serial_quarantine() -> Quarantine:
    """Returns a quarantine in serial mode, after two connections that dropped early."""
    quarantine = Quarantine()
    for _ in range(2):
        quarantine.connected()
        assert not quarantine.needs_serial
        assert quarantine.connection_dropped([EVENT, STATUS], serial=False, lifetime_s=0.1) is None
    assert quarantine.needs_serial
    return quarantine


def drop(quarantine: Quarantine, *unacknowledged: Operation, acknowledged: Operation | None = None) -> Operation | None:
    """Drops a connection in serial mode, and returns the offender."""
    quarantine.connected()
    if acknowledged is not None:
        quarantine.acknowledged(acknowledged)
    return quarantine.connection_dropped(unacknowledged, serial=True, lifetime_s=0.1)


def test_two_drops_over_an_operation_put_it_into_quarantine() -> None:
    """One is not enough, as networks fail too; other operations, also on the same topic, are not held."""
    quarantine = serial_quarantine()
    assert [drop(quarantine, operation) for operation in (EVENT, STATUS, EVENT)] == [None, None, EVENT]
    assert quarantine.held_topics == {EVENT.topic}
    assert drop(quarantine, STATUS) == STATUS
    assert not quarantine.holds(SUBSCRIPTION)


def test_operations_accepted_before_over_the_same_connection_are_no_suspects() -> None:
    """An event in flight does not hide the response to a command over which the connection is dropped."""
    quarantine = Quarantine()
    for unacknowledged, expected in ([EVENT, RESPONSE], None), ([RESPONSE, EVENT], RESPONSE):
        quarantine.connected()
        quarantine.acknowledged(EVENT)
        assert quarantine.connection_dropped(unacknowledged, serial=False, lifetime_s=30.0) == expected


def test_a_single_unacknowledged_operation_is_a_suspect_without_serial_mode() -> None:
    """A response may cause a drop long after everything else was acknowledged, and is not retried."""
    quarantine = Quarantine()
    for expected in (None, RESPONSE):
        quarantine.connected()
        quarantine.acknowledged(STATUS)
        quarantine.all_acknowledged()
        assert quarantine.connection_dropped([RESPONSE], serial=False, lifetime_s=3600.0) == expected
    assert quarantine.holds(RESPONSE)
    assert not quarantine.held_topics


def test_an_acknowledgement_clears_a_suspect() -> None:
    """An operation that is in flight whenever a bad network fails, but acknowledged later, is no offender."""
    quarantine = Quarantine()
    for _ in range(3):
        assert quarantine.connection_dropped([RESPONSE], serial=False, lifetime_s=3600.0) is None
        quarantine.connected()
        quarantine.acknowledged(RESPONSE)
        quarantine.connected()


def test_drops_caused_by_another_client_quarantine_nothing() -> None:
    """Another client with the same client id disconnects this one again and again while it sends events."""
    quarantine = serial_quarantine()
    assert [drop(quarantine, EVENT, acknowledged=EVENT) for _ in range(5)] == [None] * 5


def test_an_early_drop_with_nothing_unacknowledged_releases_everything() -> None:
    """A starting broker drops connections whatever is sent; afterwards nothing is held back for long."""
    quarantine = serial_quarantine()
    for operation in (SUBSCRIPTION, STATUS):
        assert [drop(quarantine, operation) for _ in range(2)] == [None, operation]
    quarantine.connection_dropped([], serial=False, lifetime_s=0.1)
    assert not quarantine.holds(SUBSCRIPTION)
    assert not quarantine.held_topics


def test_the_first_acknowledgement_of_an_unresponsive_broker_releases_everything() -> None:
    """After an hour in which it accepted connections but acknowledged nothing, nothing is held any longer."""
    quarantine = serial_quarantine()
    for operation in (STATUS, STATUS, EVENT, EVENT):
        quarantine.connected()
        quarantine.connection_dropped([operation], serial=True, lifetime_s=60.0, unresponsive=True)
    assert quarantine.held_topics == {STATUS.topic, EVENT.topic}
    quarantine.connected()
    quarantine.acknowledged(SUBSCRIPTION)
    assert not quarantine.held_topics


def test_memory_is_bounded_whatever_the_number_of_topics() -> None:
    """A client that requests each response on a new topic does not fill the memory over the months."""
    quarantine = Quarantine()
    for number in range(3_000):
        quarantine.acknowledged(Operation(f"responses/{number}"))
    tracemalloc.start()
    for number in range(3_000):
        quarantine.acknowledged(Operation(f"responses/{number + 3_000}"))
    grown_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown_bytes < 300_000
    assert quarantine.connection_dropped([Operation("responses/5999")], serial=True, lifetime_s=0.1) is None


def test_the_holdoffs_of_a_response_grow_though_it_is_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requesting a report every two minutes causes drops less and less often, and no serial mode."""
    clock_s = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock_s[0])
    quarantine, drops = Quarantine(), 0
    for _ in range(60):
        clock_s[0] += 120
        quarantine.all_acknowledged()
        assert not quarantine.needs_serial
        if not quarantine.holds(RESPONSE):
            quarantine.connected()
            quarantine.connection_dropped([RESPONSE], serial=False, lifetime_s=120.0)
            drops += 1
    assert drops <= 10


def test_the_holdoffs_grow_until_an_acknowledgement(monkeypatch: pytest.MonkeyPatch) -> None:
    """An offender is retried alone, in serial mode, where one more drop is enough."""
    clock_s = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock_s[0])
    quarantine = serial_quarantine()
    drop(quarantine, EVENT)
    assert drop(quarantine, EVENT) == EVENT
    quarantine.all_acknowledged()
    holdoffs_s = []
    for _ in range(12):
        started_s = clock_s[0]
        assert quarantine.held_topics == {EVENT.topic}
        while quarantine.held_topics:
            clock_s[0] += 1
        holdoffs_s.append(clock_s[0] - started_s)
        assert quarantine.needs_serial
        assert drop(quarantine, EVENT) == EVENT
    assert 30 <= holdoffs_s[0] <= 61
    assert 1800 <= holdoffs_s[-1] <= 3601
    quarantine.acknowledged(EVENT)
    quarantine.all_acknowledged()
    assert not quarantine.needs_serial
