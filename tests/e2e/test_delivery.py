"""No event is lost when the broker and the agent are killed, as counted by an independent subscriber."""

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
from tests.e2e.process import Edge, suspended
from tests.mosquitto import Listener, Mosquitto, wait_until

MIN_QUEUED = 30
"""Number of events that each session queues before the test continues: about five seconds."""
UP_TO_DATE_WITHIN_S = 40
"""Maximum time after the broker's restart until all retained messages are current."""

Payload = dict[str, Any]


@pytest.fixture
def config(tmp_path: Path, bundle_path: Path, astronaut_path: Path, broker: Mosquitto) -> Path:
    """A device whose camera loops over images with one start and one end event per loop: about six events a second."""
    images = hall.create_images(tmp_path, astronaut_path)
    camera = f'source = "{images}"\nfps = 20\nrealtime = true\nloop = true'
    return hall.configure(tmp_path, bundle=bundle_path, port=broker.port, camera=camera, more=hall.IMMEDIATE_EVENTS)


def queued_events(config: Path) -> list[Payload]:
    """Returns the events in the outbox, oldest first."""
    with closing(sqlite3.connect(config.parent / "state" / "outbox.sqlite")) as database:
        return [json.loads(payload) for (payload,) in database.execute("SELECT payload FROM outbox ORDER BY id")]


def await_queued_events(config: Path, session: int) -> list[Payload]:
    """Waits until the outbox has enough events of a session, and returns them."""

    def queued() -> list[Payload]:
        return [event for event in queued_events(config) if event["session"] == session]

    wait_until(lambda: len(queued()) >= MIN_QUEUED)
    return queued()


def payloads(listener: Listener, topic: str) -> list[Payload]:
    """Returns the JSON payloads received on a topic, in order."""
    return [json.loads(message.payload) for message in listener.on(topic)]


def test_no_event_is_lost_when_broker_and_agent_die(config: Path, broker: Mosquitto) -> None:
    """Both are killed while events are published; every event is received in order, queued ones as `historical`."""
    with Listener(broker.port) as listener:

        def events() -> list[Payload]:
            return payloads(listener, "emotion/hall/door/event")

        def states() -> list[Payload]:
            return payloads(listener, "emotion/hall/door/emotion")

        with Edge("run", "--config", config) as first:
            listener.wait_for(lambda: len(events()) >= 6)
            broker.kill()
            await_queued_events(config, session=hall.session(1))
            first.stop(signal.SIGKILL)
        queued_by_first = queued_events(config)
        with Edge("run", "--config", config) as second:
            queued_by_second = await_queued_events(config, session=hall.session(2))
            with suspended(second.process.pid):
                broker.start_again(listener)
            _require_current_retained_messages(broker)
            listener.wait_for(lambda: events()[-1]["session"] == hall.session(2) and not events()[-1]["historical"])
            # States are limited to one a second, and half of the images show no face, so this may take a while.
            listener.wait_for(lambda: any(state["face_count"] for state in states()))
            assert second.stop() == 0, second.output
        wait_until(lambda: listener.on("emotion/hall/status")[-1].payload == "offline")
    # The newest events may still be queued, because a stopping agent does not wait long for acknowledgements.
    all_events = events() + queued_events(config)
    _require_complete(all_events, session=hall.session(1))
    _require_complete(all_events, session=hall.session(2))
    historical = {(event["session"], event["seq"]) for event in events() if event["historical"]}
    assert {(event["session"], event["seq"]) for event in queued_by_first + queued_by_second} <= historical
    _require_consistent(states(), all_events)


def _require_current_retained_messages(broker: Mosquitto) -> None:
    """Asserts that a new subscriber receives each retained topic, with the state of the second session."""
    since = timestamp(time.time())
    with Listener(broker.port) as subscriber:

        def up_to_date() -> bool:
            names = ("status", "door/status", "info", "health", "door/emotion")
            found = [subscriber.on(f"emotion/hall/{name}") for name in names]
            if not all(found) or not subscriber.on("homeassistant/device/emotion_hall/config"):
                return False
            device, camera, *reports = (messages[-1].payload for messages in found)
            info, health, emotion = map(json.loads, reports)
            sessions = {report["session"] for report in (info, health, emotion)}
            return device == camera == "online" and sessions == {hall.session(2)} and bool(emotion["ts"] > since)

        subscriber.wait_for(up_to_date, timeout_s=UP_TO_DATE_WITHIN_S)


def _require_complete(events: list[Payload], session: int) -> None:
    """Asserts that no event of a session is missing or out of order.

    Each track must begin with a start event, and have none after its end event.
    """
    arrived = list(dict.fromkeys(event["seq"] for event in events if event["session"] == session))
    assert arrived == list(range(1, len(arrived) + 1))
    by_seq = {event["seq"]: event for event in events if event["session"] == session}
    for track in {event["track_id"] for event in by_seq.values()}:
        kinds = [by_seq[seq]["event"] for seq in arrived if by_seq[seq]["track_id"] == track]
        assert kinds[0] == "start"
        assert all(kind != "end" for kind, _ in pairwise(kinds))


def _require_consistent(states: list[Payload], events: list[Payload]) -> None:
    """Asserts that each face in a state matches the newest event of its track up to the `seq` of the state."""
    assert any(state["face_count"] for state in states)
    for state in states:
        known = [event for event in events if event["session"] == state["session"] and event["seq"] <= state["seq"]]
        newest = {event["track_id"]: event for event in sorted(known, key=lambda event: event["seq"])}
        for face in state["faces"]:
            event = newest[face["track_id"]]
            assert (event["event"] != "end", event["emotion"]) == (True, face["emotion"])
