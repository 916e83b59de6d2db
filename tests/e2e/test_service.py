"""The agent itself as a service: the deployed unit, a real service manager, a real broker, a photograph as camera."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

from tests.e2e import service
from tests.e2e.nspawn import Machine
from tests.e2e.service import UNIT
from tests.mosquitto import Listener, Mosquitto

AGENT = "import sys\nfrom edge.cli import main\nsys.exit(main())\n"
STATUS = "emotion/hall/status"
EMOTION = "emotion/hall/door/emotion"
MODEL = "/opt/emotion-edge/models/ferplus"
FILM = "/srv/door.avi"
NEVER_OPENS = "/srv/pipe-that-nobody-writes-to"


@pytest.fixture
def unit(machine: Machine, broker: Mosquitto, bundle_path: Path, astronaut_path: Path) -> Iterator[Machine]:
    """The machine with the agent installed, ready to be started on a film of a face."""
    shutil.copytree(bundle_path, machine.root / MODEL[1:], dirs_exist_ok=True)
    film(astronaut_path, machine.root / FILM[1:])
    service.install(machine, program=AGENT, config=configuration(broker, source=FILM))
    yield machine
    service.remove(machine)


def configuration(broker: Mosquitto, *, source: str) -> str:
    """A configuration with one camera."""
    return f"""
        [device]
        name = "hall"
        [model]
        path = "{MODEL}"
        [mqtt]
        port = {broker.port}
        [[camera]]
        name = "door"
        source = "{source}"
        realtime = true
        loop = true
    """


def film(photograph: Path, path: Path) -> None:
    """A second of a photograph as a video."""
    picture = cv2.imread(str(photograph))
    assert picture is not None
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (picture.shape[1], picture.shape[0]))
    for _ in range(10):
        writer.write(picture)
    writer.release()


def statuses(listener: Listener) -> list[str]:
    """What the device has said of itself so far."""
    return [message.payload for message in listener.on(STATUS)]


def test_the_service_sees_and_tells(unit: Machine, listener: Listener) -> None:
    """Started by systemd, in its sandbox, the agent says that it is online and what the face in view shows."""
    service.start(unit)
    assert "1 camera" in unit.show(UNIT, "StatusText")
    listener.wait_for(lambda: any(json.loads(m.payload)["face_count"] == 1 for m in listener.on(EMOTION)))
    assert statuses(listener) == ["online"]


def test_stopping_the_service_says_so(unit: Machine, listener: Listener) -> None:
    """`systemctl stop` ends in a clean exit, and the last word on the retained status is `offline`."""
    service.start(unit)
    listener.wait_for(lambda: statuses(listener) == ["online"])
    unit.systemctl("stop", UNIT)
    assert unit.show(UNIT, "Result") == "success"
    listener.wait_for(lambda: statuses(listener) == ["online", "offline"])
    assert listener.on(STATUS)[-1].retain


def test_a_crash_is_told_by_the_last_will(unit: Machine, listener: Listener) -> None:
    """After a `kill -9` the broker itself says that the device is offline."""
    service.override(unit, "Restart=no\n")
    service.start(unit)
    listener.wait_for(lambda: statuses(listener) == ["online"])
    unit.systemctl("kill", "--signal=KILL", UNIT)
    listener.wait_for(lambda: statuses(listener) == ["online", "offline"])


def test_a_hung_camera_brings_the_watchdog(unit: Machine, broker: Mosquitto, listener: Listener) -> None:
    """A camera whose driver never returns ends in a kill and a new start, and the journal tells which camera it was."""
    unit.run("mkfifo", "--mode=644", NEVER_OPENS)
    service.configure(unit, configuration(broker, source=NEVER_OPENS))
    service.override(unit, "WatchdogSec=5\n")
    service.start(unit)
    unit.await_journal(UNIT, "Started", times=2)
    journal = unit.journal(UNIT)
    assert "no sign of life from camera door" in journal
    assert "Watchdog timeout" in journal
    listener.wait_for(lambda: statuses(listener).count("online") >= 2)
