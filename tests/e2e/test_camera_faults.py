"""A camera that fails in every way, before the whole agent: reported, recovered in time, and nothing left behind."""

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

TRIES = 5
"""How often the agent tries a camera in vain before it returns: its pauses between the tries have grown by then."""
STATUS = "emotion/hall/door/status"
EMOTION = "emotion/hall/door/emotion"
EVENT = "emotion/hall/door/event"
HEALTH = "emotion/hall/health"
REPORTING = "[publish]\nhealth_interval_s = 1"


class Scene:
    """What the camera films: a person, or nobody, in one of two sizes."""

    def __init__(self, photograph: Path) -> None:
        person = cv2.imread(str(photograph))
        assert person is not None
        self._pictures = {True: person, False: np.full_like(person, 90)}
        self.somebody = True
        self.side = 512

    def __call__(self, _number: int) -> NDArray[np.uint8]:
        return np.asarray(cv2.resize(self._pictures[self.somebody], (self.side, self.side)), np.uint8)


class Watch:
    """What the agent says of its camera."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._heeded = 0

    def says(self, status: str) -> None:
        """The next word on the camera's status topic is this one."""
        self._listener.wait_for(lambda: len(self._listener.on(STATUS)) > self._heeded)
        assert self._listener.on(STATUS)[self._heeded].payload == status
        self._heeded += 1

    def sees(self, faces: int) -> None:
        """The state comes to say how many are there, while nothing more is said of the camera's status."""

        def seen() -> bool:
            return bool(json.loads(self._listener.on(EMOTION)[-1].payload)["face_count"] == faces)

        self._listener.wait_for(seen)
        assert len(self._listener.on(STATUS)) == self._heeded

    def counts(self, faults: int) -> None:
        """The health report comes to count this many faults, or more."""
        self._listener.wait_for(lambda: _camera_health(self._listener)["faults"] >= faults)


@contextmanager
def seeing(config: Path, listener: Listener) -> Iterator[Edge]:
    """An agent that sees something, and reports every second.

    In the end it holds no more threads and descriptors than at the beginning, its log is without a traceback and
    without the camera's password, and it stops in order.
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
    """The newest report on the camera."""
    health: dict[str, Any] = json.loads(listener.on(HEALTH)[-1].payload)["cameras"]["door"]
    return health


def _no_more_than(before: Vitals, now: Vitals) -> bool:
    return now.threads <= before.threads and now.files <= before.files


def test_http_camera_that_fails_in_every_way(
    tmp_path: Path, bundle_path: Path, astronaut_path: Path, broker: Mosquitto, listener: Listener
) -> None:
    """Gone, hung, sending scraps, half pictures or another size: each time the agent tells, and sees again."""
    scene, watch, power = Scene(astronaut_path), Watch(listener), ExitStack()
    camera = power.enter_context(HttpCamera(scene=scene, port=free_port()))
    config = hall.configure(
        tmp_path,
        bundle=bundle_path,
        port=broker.port,
        camera=f'source = "{camera.url}"',
        more=REPORTING,
    )
    with power, seeing(config, listener) as agent:
        watch.says("offline")  # until the first picture
        watch.says("online")
        watch.sees(1)
        power.close()
        agent.wait_for("camera door: http://***@127.0.0.1")
        watch.says("offline")
        watch.counts(faults=TRIES)
        camera = power.enter_context(HttpCamera(scene=scene, port=camera.server_port))
        watch.says("online")
        camera.hang()
        agent.wait_for("gave no frame for 10 s")
        watch.says("offline")
        watch.says("online")
        camera.behaviour = "headers"
        watch.says("offline")
        camera.behaviour = "send"
        watch.says("online")
        camera.behaviour = "truncate"
        time.sleep(2)
        camera.behaviour, scene.somebody, scene.side = "send", False, 768
        watch.sees(0)
        scene.somebody = True
        watch.sees(1)


def test_rtsp_camera_that_freezes_and_dies(
    tmp_path: Path, bundle_path: Path, broker: Mosquitto, listener: Listener
) -> None:
    """A camera whose computer freezes, and one that loses its power, are told of, and work again."""
    if reason := rtsp.why_not():
        pytest.skip(reason)
    watch, power = Watch(listener), ExitStack()
    camera = power.enter_context(RtspCamera(port=free_port()))
    config = hall.configure(
        tmp_path, bundle=bundle_path, port=broker.port, camera=f'source = "{camera.url}"', more=REPORTING
    )
    with power, seeing(config, listener) as agent:
        watch.says("offline")
        watch.says("online")
        camera.process.send_signal(signal.SIGSTOP)
        agent.wait_for("camera door: rtsp://***@127.0.0.1")
        watch.says("offline")
        camera.process.send_signal(signal.SIGCONT)
        watch.says("online")
        power.close()
        agent.wait_for("camera door: rtsp://***@127.0.0.1")
        watch.says("offline")
        power.enter_context(RtspCamera(port=camera.port))
        watch.says("online")


def test_a_stop_while_the_camera_stalls_ends_what_began(
    tmp_path: Path, bundle_path: Path, astronaut_path: Path, broker: Mosquitto, listener: Listener
) -> None:
    """Whoever was in view when the stream froze and the agent was stopped does not stay for ever."""
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
            wait_until(lambda: not _news(listener, EMOTION, within_s=3))
            assert agent.stop() == 0, agent.output
    listener.wait_for(lambda: json.loads(listener.on(EVENT)[-1].payload)["event"] == "end")
    assert json.loads(listener.on(EMOTION)[-1].payload)["face_count"] == 0
    assert not [line for line in agent.output if "leaving it behind" in line]


def _news(listener: Listener, topic: str, within_s: float) -> bool:
    """Whether anything more comes on a topic in that time."""
    before, give_up_s = len(listener.on(topic)), time.monotonic() + within_s
    wait_until(lambda: len(listener.on(topic)) > before or time.monotonic() > give_up_s)
    return len(listener.on(topic)) > before
