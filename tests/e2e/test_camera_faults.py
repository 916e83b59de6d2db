"""Camera failures of all kinds, with the whole agent: they are reported, recovered from, and leak nothing."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests import rtsp_camera as rtsp
from tests.e2e import hall
from tests.e2e.hall import Vitals
from tests.e2e.process import Edge
from tests.http_camera import HttpCamera
from tests.mosquitto import Listener, Mosquitto, free_port, wait_until
from tests.rtsp_camera import RtspCamera

FAILED_ATTEMPTS = 5
"""Failed attempts before the camera is back, so that the retry delay has grown."""
STATUS = "emotion/hall/door/status"
EMOTION = "emotion/hall/door/emotion"
EVENT = "emotion/hall/door/event"
HEALTH = "emotion/hall/health"
REPORTING = "[publish]\nhealth_interval_s = 1"


class Scene:
    """The images of the camera: with or without a person, in one of two sizes."""

    def __init__(self, photograph: Path) -> None:
        person = cv2.imread(str(photograph))
        assert person is not None
        self._images = {True: person, False: np.full_like(person, 90)}
        self.person_in_view = True
        self.side = 512

    def __call__(self, _number: int) -> NDArray[np.uint8]:
        return np.asarray(cv2.resize(self._images[self.person_in_view], (self.side, self.side)), np.uint8)


class Watch:
    """Checks what the agent publishes about its camera."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._checked = 0

    def expect_status(self, status: str) -> None:
        """Waits for the next status of the camera, which must be this one."""
        self._listener.wait_for(lambda: len(self._listener.on(STATUS)) > self._checked)
        assert self._listener.on(STATUS)[self._checked].payload == status
        self._checked += 1

    def expect_faces(self, faces: int) -> None:
        """Waits for a state with this number of faces, without another status of the camera."""

        def seen() -> bool:
            return bool(json.loads(self._listener.on(EMOTION)[-1].payload)["face_count"] == faces)

        self._listener.wait_for(seen)
        assert len(self._listener.on(STATUS)) == self._checked

    def expect_faults(self, faults: int) -> None:
        """Waits for a health report with at least this number of faults."""
        self._listener.wait_for(lambda: _camera_health(self._listener)["faults"] >= faults)


@contextmanager
def running_agent(config: Path, listener: Listener) -> Iterator[Edge]:
    """Runs an agent whose camera works and which reports its health every second.

    At the end, it must have no more threads and descriptors than at the start, no traceback and no password of the
    camera in its log, and it must stop cleanly.
    """
    with Edge("run", "--config", config) as agent:
        listener.wait_for(lambda: listener.on(HEALTH) and _camera_health(listener)["fps"] > 0)
        before = Vitals.of(agent.process.pid)
        yield agent
        wait_until(lambda: _no_more_than(before, Vitals.of(agent.process.pid)))
        assert agent.stop() == 0, agent.output
    log = "\n".join(agent.output)
    assert "Traceback" not in log
    assert "hunter2" not in log


def _camera_health(listener: Listener) -> dict[str, Any]:
    """The camera in the newest health report."""
    health: dict[str, Any] = json.loads(listener.on(HEALTH)[-1].payload)["cameras"]["door"]
    return health


def _no_more_than(before: Vitals, now: Vitals) -> bool:
    return now.threads <= before.threads and now.files <= before.files


def test_http_camera_that_fails_in_every_way(
    tmp_path: Path, bundle_path: Path, astronaut_path: Path, broker: Mosquitto, listener: Listener
) -> None:
    """Unreachable, hung, or with invalid, truncated or resized images: the agent reports it and recovers."""
    scene, watch, power = Scene(astronaut_path), Watch(listener), ExitStack()
    camera = power.enter_context(HttpCamera(scene=scene, port=free_port()))
    config = hall.configure(
        tmp_path,
        bundle=bundle_path,
        port=broker.port,
        camera=f'source = "{camera.url}"',
        more=REPORTING,
    )
    with power, running_agent(config, listener) as agent:
        watch.expect_status("offline")  # until the first frame
        watch.expect_status("online")
        watch.expect_faces(1)
        power.close()
        agent.wait_for("camera door: http://***@127.0.0.1")
        watch.expect_status("offline")
        watch.expect_faults(faults=FAILED_ATTEMPTS)
        camera = power.enter_context(HttpCamera(scene=scene, port=camera.server_port))
        watch.expect_status("online")
        camera.hang()
        agent.wait_for("no frame for 10 s")
        watch.expect_status("offline")
        watch.expect_status("online")
        camera.behavior = "headers"
        watch.expect_status("offline")
        camera.behavior = "send"
        watch.expect_status("online")
        camera.behavior = "truncate"
        time.sleep(2)
        camera.behavior, scene.person_in_view, scene.side = "send", False, 768
        watch.expect_faces(0)
        scene.person_in_view = True
        watch.expect_faces(1)


def test_rtsp_camera_that_freezes_and_dies(
    tmp_path: Path, bundle_path: Path, broker: Mosquitto, listener: Listener
) -> None:
    """A frozen and a dead camera are reported, and work again afterwards."""
    if reason := rtsp.missing_packages():
        pytest.skip(reason)
    watch, power = Watch(listener), ExitStack()
    camera = power.enter_context(RtspCamera(port=free_port()))
    config = hall.configure(
        tmp_path, bundle=bundle_path, port=broker.port, camera=f'source = "{camera.url}"', more=REPORTING
    )
    with power, running_agent(config, listener) as agent:
        watch.expect_status("offline")
        watch.expect_status("online")
        camera.process.send_signal(signal.SIGSTOP)
        agent.wait_for("camera door: rtsp://***@127.0.0.1")
        watch.expect_status("offline")
        camera.process.send_signal(signal.SIGCONT)
        watch.expect_status("online")
        power.close()
        agent.wait_for("camera door: rtsp://***@127.0.0.1")
        watch.expect_status("offline")
        power.enter_context(RtspCamera(port=camera.port))
        watch.expect_status("online")


def test_a_stop_while_the_camera_stalls_ends_open_emotions(
    tmp_path: Path, bundle_path: Path, astronaut_path: Path, broker: Mosquitto, listener: Listener
) -> None:
    """The emotion of a face in view when the stream froze does not stay open after the stop."""
    with HttpCamera(scene=Scene(astronaut_path)) as camera:
        config = hall.configure(
            tmp_path,
            bundle=bundle_path,
            port=broker.port,
            camera=f'source = "{camera.url}"',
            more="[publish]\nheartbeat_s = 1",
        )
        with Edge("run", "--config", config) as agent:
            listener.wait_for(lambda: listener.on(EVENT))
            camera.hang()
            wait_until(lambda: not _receives_more(listener, EMOTION, within_s=3))
            assert agent.stop() == 0, agent.output
    listener.wait_for(lambda: json.loads(listener.on(EVENT)[-1].payload)["event"] == "end")
    assert json.loads(listener.on(EMOTION)[-1].payload)["face_count"] == 0
    assert not [line for line in agent.output if "did not stop in time" in line]


def _receives_more(listener: Listener, topic: str, within_s: float) -> bool:
    """Whether another message arrives on a topic within that time."""
    before, give_up_s = len(listener.on(topic)), time.monotonic() + within_s
    wait_until(lambda: len(listener.on(topic)) > before or time.monotonic() > give_up_s)
    return len(listener.on(topic)) > before
