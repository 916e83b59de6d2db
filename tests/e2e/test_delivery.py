"""Nothing is lost: the whole agent through a dead broker and its own death, counted by an independent subscriber."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.e2e.process import Edge
from tests.mosquitto import PROGRAM, Listener, Mosquitto, wait_until

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="mosquitto is not installed")

OUTAGE_EVENTS = int(os.environ.get("TEST_OUTAGE_EVENTS", "40"))
"""How many events are to pile up in each half of the outage; about six come a second."""


@pytest.fixture
def visitors(tmp_path: Path, astronaut_path: Path) -> Path:
    """A folder of pictures in which somebody comes and goes all the time."""
    folder = tmp_path / "visitors"
    folder.mkdir()
    for number in range(3):
        shutil.copy(astronaut_path, folder / f"{number}.png")
        cv2.imwrite(str(folder / f"{number + 3}.png"), np.full((512, 512, 3), 90, np.uint8))
    return folder


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker that forgets everything when it dies."""
    with Mosquitto(tmp_path) as broker:
        yield broker


@pytest.fixture
def config(tmp_path: Path, bundle_path: Path, broker: Mosquitto, visitors: Path) -> Path:
    """A device `hall` whose camera sees a start and an end in every round through the folder."""
    path = tmp_path / "config.toml"
    path.write_text(f"""
[device]
name = "hall"
state_dir = "state"

[model]
path = "{bundle_path}"

[mqtt]
port = {broker.port}

[detector]
interval_s = 0

[tracking]
max_gap_s = 0.15

[smoothing]
min_dwell_s = 0

[adaptation]
enabled = false

[[camera]]
name = "door"
source = "{visitors}"
fps = 20
realtime = true
loop = true
""")
    return path


def waiting(state: Path) -> list[dict[str, Any]]:
    """The events in the outbox, oldest first."""
    with sqlite3.connect(state / "outbox.sqlite") as database:
        return [json.loads(payload) for (payload,) in database.execute("SELECT payload FROM outbox ORDER BY id")]


def test_no_event_is_lost_when_broker_and_agent_die(config: Path, broker: Mosquitto, tmp_path: Path) -> None:
    """Both are killed with events flowing; every event reaches the subscriber, in order, late ones marked as such."""
    state = tmp_path / "state"
    with Listener(broker.port) as listener:

        def events() -> list[dict[str, Any]]:
            return [json.loads(message.payload) for message in listener.on("emotion/hall/door/event")]

        with Edge("run", "--config", config) as first:
            listener.wait_for(lambda: len(events()) >= 6, timeout_s=60)
            broker.kill()
            wait_until(lambda: len(waiting(state)) >= OUTAGE_EVENTS, timeout_s=120)
            first.process.send_signal(signal.SIGKILL)
            first.process.wait()
        left_by_first = waiting(state)
        with Edge("run", "--config", config) as second:
            wait_until(lambda: len(waiting(state)) >= len(left_by_first) + OUTAGE_EVENTS, timeout_s=120)
            broker.start()
            listener.wait_for(lambda: events()[-1]["session"] == 2 and not events()[-1]["historical"], timeout_s=60)
            listener.wait_for(lambda: listener.on("emotion/hall/status")[-1].payload == "online")
            assert second.stop() == 0, second.output
        assert waiting(state) == []
        _require_all(events(), 1, last=left_by_first[-1]["seq"])
        _require_all(events(), 2, last=max(event["seq"] for event in events() if event["session"] == 2))
        late = {(event["session"], event["seq"]) for event in events() if event["historical"]}
        assert {(event["session"], event["seq"]) for event in left_by_first} <= late


def _require_all(events: list[dict[str, Any]], session: int, *, last: int) -> None:
    """Every event of a session from 1 to `last` arrived, first arrivals in order, and each track's story is whole."""
    arrived = list(dict.fromkeys(event["seq"] for event in events if event["session"] == session))
    assert arrived == list(range(1, last + 1))
    by_seq = {event["seq"]: event for event in events if event["session"] == session}
    for track in {event["track_id"] for event in by_seq.values()}:
        story = [by_seq[seq]["event"] for seq in arrived if by_seq[seq]["track_id"] == track]
        assert story[0] == "start"
        assert all(kind != "end" for kind, _ in pairwise(story))
