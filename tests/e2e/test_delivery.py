"""Nothing is lost: the whole agent through a dead broker and its own death, counted by an independent subscriber."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from edge.payloads import timestamp
from tests.e2e import hall
from tests.e2e.process import Edge, frozen
from tests.mosquitto import Listener, Mosquitto, wait_until

LEFT = 30
"""How many events the agent of each session has kept before the next thing happens: five seconds' worth."""
RIGHT_WITHIN_S = 40
"""How soon after the broker's return the state topics are to be right."""

Payload = dict[str, Any]


@pytest.fixture
def config(tmp_path: Path, bundle_path: Path, astronaut_path: Path, broker: Mosquitto) -> Path:
    """A device whose camera sees a start and an end in every round through a folder, about six events a second."""
    pictures = hall.visitors(tmp_path, astronaut_path)
    camera = f'source = "{pictures}"\nfps = 20\nrealtime = true\nloop = true'
    return hall.configure(tmp_path, bundle=bundle_path, port=broker.port, camera=camera, more=hall.RESTLESS)


def waiting(config: Path) -> list[Payload]:
    """The events in the outbox, oldest first."""
    with closing(sqlite3.connect(config.parent / "state" / "outbox.sqlite")) as database:
        return [json.loads(payload) for (payload,) in database.execute("SELECT payload FROM outbox ORDER BY id")]


def await_waiting(config: Path, session: int) -> list[Payload]:
    """The events of a session in the outbox, once they are enough."""

    def left() -> list[Payload]:
        return [event for event in waiting(config) if event["session"] == session]

    wait_until(lambda: len(left()) >= LEFT)
    return left()


def heard(listener: Listener, topic: str) -> list[Payload]:
    """The JSON payloads that arrived on a topic, in order."""
    return [json.loads(message.payload) for message in listener.on(topic)]


def test_no_event_is_lost_when_broker_and_agent_die(config: Path, broker: Mosquitto) -> None:
    """Both are killed with events flowing; every event reaches the subscriber, in order, late ones marked as such."""
    with Listener(broker.port) as listener:

        def events() -> list[Payload]:
            return heard(listener, "emotion/hall/door/event")

        def states() -> list[Payload]:
            return heard(listener, "emotion/hall/door/emotion")

        with Edge("run", "--config", config) as first:
            listener.wait_for(lambda: len(events()) >= 6)
            broker.kill()
            await_waiting(config, session=hall.session(1))
            first.stop(signal.SIGKILL)
        left_by_first = waiting(config)
        with Edge("run", "--config", config) as second:
            left_by_second = await_waiting(config, session=hall.session(2))
            with frozen(second.process.pid):
                broker.start_again(listener)
            _require_right_states(broker)
            listener.wait_for(lambda: events()[-1]["session"] == hall.session(2) and not events()[-1]["historical"])
            # A state a second, and nobody there for half of the time: the one with a face may take a while.
            listener.wait_for(lambda: any(state["face_count"] for state in states()))
            assert second.stop() == 0, second.output
        wait_until(lambda: listener.on("emotion/hall/status")[-1].payload == "offline")
    told = events() + waiting(config)  # the newest may wait still: a stopping agent does not wait long for the broker
    _require_all(told, session=hall.session(1))
    _require_all(told, session=hall.session(2))
    late = {(event["session"], event["seq"]) for event in events() if event["historical"]}
    assert {(event["session"], event["seq"]) for event in left_by_first + left_by_second} <= late
    _require_true(states(), told)


def _require_right_states(broker: Mosquitto) -> None:
    """Who looks in after the broker's return finds each state topic there and true to the present."""
    since = timestamp(time.time())
    with Listener(broker.port) as newcomer:

        def right() -> bool:
            names = ("status", "door/status", "info", "health", "door/emotion")
            found = [newcomer.on(f"emotion/hall/{name}") for name in names]
            if not all(found) or not newcomer.on("homeassistant/device/emotion_hall/config"):
                return False
            device, camera, *reports = (messages[-1].payload for messages in found)
            info, health, emotion = map(json.loads, reports)
            sessions = {report["session"] for report in (info, health, emotion)}
            return device == camera == "online" and sessions == {hall.session(2)} and bool(emotion["ts"] > since)

        newcomer.wait_for(right, timeout_s=RIGHT_WITHIN_S)


def _require_all(events: list[Payload], session: int) -> None:
    """The events of a session are there from the first to the last, in order, and each track's story is whole."""
    arrived = list(dict.fromkeys(event["seq"] for event in events if event["session"] == session))
    assert arrived == list(range(1, len(arrived) + 1))
    by_seq = {event["seq"]: event for event in events if event["session"] == session}
    for track in {event["track_id"] for event in by_seq.values()}:
        story = [by_seq[seq]["event"] for seq in arrived if by_seq[seq]["track_id"] == track]
        assert story[0] == "start"
        assert all(kind != "end" for kind, _ in pairwise(story))


def _require_true(states: list[Payload], events: list[Payload]) -> None:
    """Each face of each state shows what the newest event of its track said, up to the event that the state names."""
    assert any(state["face_count"] for state in states)
    for state in states:
        known = [event for event in events if event["session"] == state["session"] and event["seq"] <= state["seq"]]
        newest = {event["track_id"]: event for event in sorted(known, key=lambda event: event["seq"])}
        for face in state["faces"]:
            event = newest[face["track_id"]]
            assert (event["event"] != "end", event["emotion"]) == (True, face["emotion"])
