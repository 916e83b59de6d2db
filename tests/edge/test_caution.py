"""Whom the agent suspects when a broker hangs up on it."""

from __future__ import annotations

import time

import pytest

from edge.mqtt.caution import Caution
from edge.mqtt.packets import Said

EVENT = Said("emotion/hall/door/event")
STATUS = Said("emotion/hall/status")
LISTENING = Said("emotion/hall/status", listening=True)


def wary() -> Caution:
    """After two connections that broke off soon."""
    wary = Caution()
    for _ in range(2):
        wary.begin()
        assert not wary.needed
        assert wary.broken_off(EVENT, careful=False, held_s=0.1) is None
    assert wary.needed
    return wary


def broken_off(caution: Caution, unanswered: Said | None, *, answered: Said | None = None) -> Said | None:
    """Whom it blames after a careful connection."""
    caution.begin()
    if answered is not None:
        caution.answered(answered)
    return caution.broken_off(unanswered, careful=True, held_s=0.1)


def test_who_is_suspected_twice_in_a_row_is_left_alone() -> None:
    """Not at once: networks break, too. Nothing else is left alone, nor is the topic not to be listened to."""
    wary_one = wary()
    assert [broken_off(wary_one, said) for said in (EVENT, STATUS, EVENT, EVENT)] == [None, None, None, EVENT]
    assert wary_one.left_alone.keys() == {EVENT.topic}
    assert [broken_off(wary_one, STATUS) for _ in range(2)] == [None, STATUS]
    assert not wary_one.shuns(LISTENING)


def test_what_was_answered_is_not_suspected() -> None:
    """Who has the same client id pushes this device out in the middle of its events, again and again."""
    wary_one = wary()
    assert [broken_off(wary_one, EVENT, answered=EVENT) for _ in range(5)] == [None] * 5


def test_a_connection_that_breaks_off_by_itself_clears_all() -> None:
    """A broker that is starting hangs up whatever is said; afterwards nothing waits for long."""
    wary_one = wary()
    for said in (LISTENING, STATUS):
        assert [broken_off(wary_one, said) for _ in range(2)] == [None, said]
    wary_one.broken_off(None, careful=False, held_s=0.1)
    assert not wary_one.shuns(LISTENING)
    assert not wary_one.left_alone


def test_the_pauses_grow_until_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was left alone is tried again by itself, and one hang-up is enough then."""
    clock_s = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock_s[0])
    wary_one = wary()
    broken_off(wary_one, EVENT)
    assert broken_off(wary_one, EVENT) == EVENT
    wary_one.all_answered()
    assert wary_one.left_alone.keys() == {EVENT.topic}
    pauses_s = []
    for _ in range(12):
        until_s = wary_one.left_alone[EVENT.topic]
        pauses_s.append(until_s - clock_s[0])
        clock_s[0] = until_s
        assert (wary_one.needed, wary_one.left_alone) == (True, {})
        assert broken_off(wary_one, EVENT) == EVENT
    assert 30 <= pauses_s[0] <= 60
    assert 1800 <= pauses_s[-1] <= 3600
    wary_one.answered(EVENT)
    wary_one.all_answered()
    assert not wary_one.needed
