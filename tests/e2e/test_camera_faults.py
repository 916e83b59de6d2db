"""Camera faults of all kinds with the whole agent: they are reported, recovered from, and leak no resources."""

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
from tests.e2e.hall import ResourceUsage
from tests.e2e.process import Edge
from tests.http_camera import HttpCamera
from tests.mosquitto import Listener, Mosquitto, free_port, wait_until
from tests.rtsp_camera import RtspCamera

FAILED_ATTEMPTS = 5
"""Failed attempts before the camera works again, so that the retry delay has grown."""
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


class CameraMonitor:
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
        """Waits for a state with this number of faces, without a further status of the camera."""

        def matches() -> bool:
            return bool(json.loads(self._listener.on(EMOTION)[-1].payload)["face_count"] == faces)

        self._listener.wait_for(matches)
        assert len(self._listener.on(STATUS)) == self._checked

    def expect_faults(self, faults: int) -> None:
        """Waits for a health report with at least this number of faults."""
        self._listener.wait_for(lambda: _camera_health(self._listener)["faults"] >= faults)


@contextmanager
def running_agent(config: Path, listener: Listener) -> Iterator[Edge]:
    """Runs an agent whose camera works and which reports its health every second.

    At the end, it must have no more threads and file descriptors than at the start, neither a traceback nor the
    camera's password in its log, and it must stop cleanly.
    """
    with Edge("run", "--config", config) as agent:
        listener.wait_for(lambda: listener.on(HEALTH) and _camera_health(listener)["fps"] > 0)
        before = ResourceUsage.of(agent.process.pid)
        yield agent
        wait_until(lambda: _no_more_than(before, ResourceUsage.of(agent.process.pid)))
        assert agent.stop() == 0, agent.output
    log = "\n".join(agent.output)
    assert "Traceback" not in log
    assert "hunter2" not in log


def _camera_health(listener: Listener) -> dict[str, Any]:
    """Returns the camera's part of the newest health report."""
    health: dict[str, Any] = json.loads(listener.on(HEALTH)[-1].payload)["cameras"]["door"]
    return health


def _no_more_than(before: ResourceUsage, now: ResourceUsage) -> bool:
    return now.threads <= before.threads and now.files <= before.files


def test_http_camera_that_fails_in_every_way(
    tmp_path: Path, bundle_path: Path, astronaut_path: Path, broker: Mosquitto, listener: Listener
) -> None:
    """An unreachable or hung camera, and invalid, truncated or resized images, are reported and recovered from."""
    scene, monitor, running_camera = Scene(astronaut_path), CameraMonitor(listener), ExitStack()
    camera = running_camera.enter_context(HttpCamera(scene=scene, port=free_port()))
    config = hall.configure(
        tmp_path,
        bundle=bundle_path,
        port=broker.port,
        camera=f'source = "{camera.url}"',
        more=REPORTING,
    )
    with running_camera, running_agent(config, listener) as agent:
        monitor.expect_status("offline")  # until the first frame
        monitor.expect_status("online")
        monitor.expect_faces(1)
        running_camera.close()
        agent.wait_for("camera door: http://***@127.0.0.1")
        monitor.expect_status("offline")
        monitor.expect_faults(faults=FAILED_ATTEMPTS)
        camera = running_camera.enter_context(HttpCamera(scene=scene, port=camera.server_port))
        monitor.expect_status("online")
        camera.hang()
        agent.wait_for("no frame for 10 s")
        monitor.expect_status("offline")
        monitor.expect_status("online")
        camera.behavior = "headers"
        monitor.expect_status("offline")
        camera.behavior = "send"
        monitor.expect_status("online")
        camera.behavior = "truncate"
        time.sleep(2)
        camera.behavior, scene.person_in_view, scene.side = "send", False, 768
        monitor.expect_faces(0)
        scene.person_in_view = True
        monitor.expect_faces(1)


def test_rtsp_camera_that_freezes_and_dies(
    tmp_path: Path, bundle_path: Path, broker: Mosquitto, listener: Listener
) -> None:
    """A suspended and a killed camera are reported as offline, and recovered from."""
    if reason := rtsp.missing_packages():
        pytest.skip(reason)
    monitor, running_camera = CameraMonitor(listener), ExitStack()
    camera = running_camera.enter_context(RtspCamera(port=free_port()))
    config = hall.configure(
        tmp_path, bundle=bundle_path, port=broker.port, camera=f'source = "{camera.url}"', more=REPORTING
    )
    with running_camera, running_agent(config, listener) as agent:
        monitor.expect_status("offline")
        monitor.expect_status("online")
        camera.process.send_signal(signal.SIGSTOP)
        agent.wait_for("camera door: rtsp://***@127.0.0.1")
        monitor.expect_status("offline")
        camera.process.send_signal(signal.SIGCONT)
        monitor.expect_status("online")
        running_camera.close()
        agent.wait_for("camera door: rtsp://***@127.0.0.1")
        monitor.expect_status("offline")
        running_camera.enter_context(RtspCamera(port=camera.port))
        monitor.expect_status("online")


def test_a_stop_while_the_camera_stalls_ends_open_emotions(
    tmp_path: Path, bundle_path: Path, astronaut_path: Path, broker: Mosquitto, listener: Listener
) -> None:
    """The emotion of a face that was in view when the stream stalled gets an end event at the stop."""
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
    """Whether another message arrives on a topic within a duration."""
    before, give_up_s = len(listener.on(topic)), time.monotonic() + within_s
    wait_until(lambda: len(listener.on(topic)) > before or time.monotonic() > give_up_s)
    return len(listener.on(topic)) > before
