"""Whom the agent suspects when a broker hangs up on it."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from edge.mqtt.caution import Caution
from edge.mqtt.packets import Said

EVENT = Said("emotion/hall/door/event")
STATUS = Said("emotion/hall/status")
ANSWER = Said("emotion/hall/cmd/+/response", reply=True)
LISTENING = Said("emotion/hall/status", listening=True)


def wary() -> Caution:
    """After two connections that broke off soon."""
    wary = Caution()
    for _ in range(2):
        wary.begin()
        assert not wary.needed
        assert wary.broken_off([EVENT, STATUS], careful=False, held_s=0.1) is None
    assert wary.needed
    return wary


def broken_off(caution: Caution, *unanswered: Said, answered: Said | None = None) -> Said | None:
    """Whom it blames after a careful connection."""
    caution.begin()
    if answered is not None:
        caution.answered(answered)
    return caution.broken_off(unanswered, careful=True, held_s=0.1)


def test_who_is_suspected_twice_is_left_alone() -> None:
    """Not at once: networks break, too. Nothing else is left alone, nor is the topic not to be listened to."""
    wary_one = wary()
    assert [broken_off(wary_one, said) for said in (EVENT, STATUS, EVENT)] == [None, None, EVENT]
    assert wary_one.left_alone == {EVENT.topic}
    assert broken_off(wary_one, STATUS) == STATUS
    assert not wary_one.shuns(LISTENING)


def test_who_is_unanswered_beside_what_was_answered_before_is_suspected() -> None:
    """An event on its way does not hide the answer to a command that broke the connection off."""
    calm = Caution()
    for unanswered, expected in ([EVENT, ANSWER], None), ([ANSWER, EVENT], ANSWER):
        calm.begin()
        calm.answered(EVENT)
        assert calm.broken_off(unanswered, careful=False, held_s=30.0) == expected


def test_who_alone_is_unanswered_is_suspected_without_caution() -> None:
    """An answer to a command breaks the connection off long after all else was said, and is not said again."""
    calm = Caution()
    for expected in (None, ANSWER):
        calm.begin()
        calm.answered(STATUS)
        calm.all_answered()
        assert calm.broken_off([ANSWER], careful=False, held_s=3600.0) == expected
    assert calm.shuns(ANSWER)
    assert not calm.left_alone


def test_what_is_answered_is_suspected_no_more() -> None:
    """A network that breaks now and then while the same thing is being said is blamed on nothing."""
    calm = Caution()
    for _ in range(3):
        assert calm.broken_off([ANSWER], careful=False, held_s=3600.0) is None
        calm.begin()
        calm.answered(ANSWER)
        calm.begin()


def test_what_was_answered_is_not_suspected() -> None:
    """Who has the same client id pushes this device out in the middle of its events, again and again."""
    wary_one = wary()
    assert [broken_off(wary_one, EVENT, answered=EVENT) for _ in range(5)] == [None] * 5


def test_a_connection_that_breaks_off_by_itself_clears_all() -> None:
    """A broker that is starting hangs up whatever is said; afterwards nothing waits for long."""
    wary_one = wary()
    for said in (LISTENING, STATUS):
        assert [broken_off(wary_one, said) for _ in range(2)] == [None, said]
    wary_one.broken_off([], careful=False, held_s=0.1)
    assert not wary_one.shuns(LISTENING)
    assert not wary_one.left_alone


def test_a_broker_that_was_mute_is_believed_when_it_speaks_again() -> None:
    """After an hour in which it let the device in and answered nothing, nothing is left alone for another."""
    wary_one = wary()
    for said in (STATUS, STATUS, EVENT, EVENT):
        wary_one.begin()
        wary_one.broken_off([said], careful=True, held_s=60.0, unanswering=True)
    assert wary_one.left_alone == {STATUS.topic, EVENT.topic}
    wary_one.begin()
    wary_one.answered(LISTENING)
    assert not wary_one.left_alone


def test_topics_without_end_take_no_room_without_end() -> None:
    """Who asks for an answer on a topic of its own each time does not fill the memory over the months."""
    caution = Caution()
    for number in range(3_000):
        caution.answered(Said(f"answers/{number}"))
    tracemalloc.start()
    for number in range(3_000):
        caution.answered(Said(f"answers/{number + 3_000}"))
    grown_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown_bytes < 300_000
    assert caution.broken_off([Said("answers/5999")], careful=True, held_s=0.1) is None


def test_the_pauses_of_an_answer_grow_though_it_is_not_said_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for a report every two minutes breaks the connection ever more seldom, and nothing is slow meanwhile."""
    clock_s = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock_s[0])
    calm, broken = Caution(), 0
    for _ in range(60):
        clock_s[0] += 120
        calm.all_answered()
        assert not calm.needed
        if not calm.shuns(ANSWER):
            calm.begin()
            calm.broken_off([ANSWER], careful=False, held_s=120.0)
            broken += 1
    assert broken <= 10


def test_the_pauses_grow_until_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was left alone is tried again by itself, and one hang-up is enough then."""
    clock_s = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock_s[0])
    wary_one = wary()
    broken_off(wary_one, EVENT)
    assert broken_off(wary_one, EVENT) == EVENT
    wary_one.all_answered()
    pauses_s = []
    for _ in range(12):
        began_s = clock_s[0]
        assert wary_one.left_alone == {EVENT.topic}
        while wary_one.left_alone:
            clock_s[0] += 1
        pauses_s.append(clock_s[0] - began_s)
        assert wary_one.needed
        assert broken_off(wary_one, EVENT) == EVENT
    assert 30 <= pauses_s[0] <= 61
    assert 1800 <= pauses_s[-1] <= 3601
    wary_one.answered(EVENT)
    wary_one.all_answered()
    assert not wary_one.needed
