"""The handlers of MQTT commands."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import pytest

from edge.camera import CameraWorker
from edge.contract.errors import UserError
from edge.controls import Controls
from edge.domain import Instant
from edge.payloads import CommandRequest, Status
from edge.state import DeviceState
from tests.edge.test_pipeline import Rig
from tests.fakes import ManualClock, ScriptedDetector, ScriptedSource, frame
from tests.mosquitto import wait_until


@pytest.fixture
def workers() -> Iterator[dict[str, CameraWorker]]:
    """Two running cameras."""
    running = {name: _worker(name) for name in ("door", "hall")}
    for worker in running.values():
        worker.start()
    yield running
    for worker in running.values():
        worker.stop()
        worker.join(5)


def _worker(name: str) -> CameraWorker:
    pipeline = Rig(ScriptedDetector(lambda _: [])).pipeline
    return CameraWorker(name=name, source=ScriptedSource([[]] * 9), pipeline=pipeline, on_status=lambda *_: None)


class MakeControls(Protocol):
    """Creates the command handlers, with everything disabled except for the given arguments."""

    def __call__(
        self,
        *,
        now: Callable[[], Instant] = ...,
        snapshots: bool = ...,
        on_report: Callable[[], None] = ...,
        on_restart: Callable[[], None] = ...,
        on_update: Callable[[], None] = ...,
    ) -> Controls: ...


@pytest.fixture
def make_controls(workers: dict[str, CameraWorker], tmp_path: Path) -> Iterator[MakeControls]:
    """Creates command handlers whose device state is in a temporary folder."""
    with DeviceState(tmp_path) as state:

        def make_controls(**changes: Any) -> Controls:
            arguments: dict[str, Any] = {
                "now": ManualClock().now,
                "snapshots": False,
                "on_report": lambda: None,
                "on_restart": lambda: None,
                "on_update": None,
            }
            return Controls(workers=workers, state=state, **arguments | changes)

        yield make_controls


@pytest.fixture
def controls(make_controls: MakeControls) -> Controls:
    """Command handlers with everything optional disabled."""
    return make_controls()


def execute(controls: Controls, name: str, **fields: object) -> object:
    """Executes a command and returns the result of its handler."""
    return controls.handlers[name](CommandRequest.model_validate({"id": 1, **fields}))


def test_pausing_one_camera_does_not_affect_the_others(controls: Controls, workers: dict[str, CameraWorker]) -> None:
    """Only the named camera is paused, and the response lists the paused ones."""
    assert execute(controls, "pause", camera="door") == {"paused": ["door"]}
    wait_until(lambda: workers["door"].status is Status.PAUSED)
    assert workers["hall"].status is not Status.PAUSED
    assert execute(controls, "resume", camera="door") == {"paused": []}
    wait_until(lambda: workers["door"].status is not Status.PAUSED)


def test_pause_accepts_true_and_false(controls: Controls) -> None:
    """Home Assistant's switch pauses and resumes through the topic of `pause`, with true and false."""
    assert execute(controls, "pause", camera="hall", value=True) == {"paused": ["hall"]}
    assert execute(controls, "pause", camera="hall", value=False) == {"paused": []}


@pytest.mark.parametrize("value", ["off", "false", 0, "on"])
def test_an_invalid_pause_value_is_an_error(controls: Controls, value: object) -> None:
    """A custom switch that sends other values never does the opposite of what was intended."""
    with pytest.raises(UserError, match="is neither true nor false"):
        execute(controls, "pause", camera="hall", value=value)
    assert execute(controls, "pause", camera="door") == {"paused": ["door"]}


def test_a_command_without_a_camera_applies_to_all_and_an_unknown_camera_is_an_error(controls: Controls) -> None:
    """A misspelled camera changes nothing, and the error lists the existing cameras."""
    assert execute(controls, "pause") == {"paused": ["door", "hall"]}
    with pytest.raises(UserError, match="door, hall"):
        execute(controls, "resume", camera="dor")


def test_a_pause_is_stored(controls: Controls, tmp_path: Path) -> None:
    """A camera stays paused after a power failure."""
    execute(controls, "pause", camera="door")
    assert '"door"' in (tmp_path / "state.json").read_text()


def test_a_rate_limits_one_camera_or_all(controls: Controls, workers: dict[str, CameraWorker], tmp_path: Path) -> None:
    """The response lists the limit of each camera; 0 and null lift it, and limits are stored."""
    assert execute(controls, "rate", camera="door", value=5) == {"max_fps": {"door": 5.0, "hall": None}}
    assert (workers["door"].max_fps, workers["hall"].max_fps) == (5.0, None)
    assert '"rates":{"door":5.0}' in (tmp_path / "state.json").read_text()
    assert execute(controls, "rate", value=1) == {"max_fps": {"door": 1.0, "hall": 1.0}}
    assert execute(controls, "rate", camera="hall", value=0) == {"max_fps": {"door": 1.0, "hall": None}}
    assert execute(controls, "rate") == {"max_fps": {"door": None, "hall": None}}
    assert workers["door"].max_fps is None


@pytest.mark.parametrize("value", [-1, 0.05, "5", "fast", True, False])
def test_an_invalid_rate_is_an_error(controls: Controls, workers: dict[str, CameraWorker], value: object) -> None:
    """The error explains valid rates, and the old limit is kept."""
    execute(controls, "rate", value=7)
    with pytest.raises(
        UserError, match=r"is not a valid frame rate\. Set `value` to frames per second, at least 0\.1, or to 0"
    ):
        execute(controls, "rate", value=value)
    assert workers["door"].max_fps == 7


def test_snapshots_are_rejected_unless_they_are_enabled(controls: Controls) -> None:
    """The error names the key that enables them."""
    with pytest.raises(
        UserError, match=r"publish\.snapshots: snapshots are disabled on this device\. Set this key to true"
    ):
        execute(controls, "snapshot", camera="door")


def test_a_snapshot_is_the_newest_frame_of_one_camera(
    workers: dict[str, CameraWorker], make_controls: MakeControls
) -> None:
    """If enabled, it is returned as a JPEG; if there are several cameras, one must be named."""
    clock = ManualClock()
    controls = make_controls(now=clock.now, snapshots=True)
    workers["door"].pipeline.process(frame(3))
    response = execute(controls, "snapshot", camera="door")
    assert isinstance(response, dict)
    jpeg = np.frombuffer(base64.b64decode(response.pop("jpeg")), np.uint8)
    picture = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (360, 640, 3)
    assert response == {"camera": "door", "ts": "2023-11-14T22:13:20.300Z", "width": 640, "height": 360}
    clock.instant = Instant(wall_s=1_700_086_405.0, mono_s=5.0, synced=True)  # the clock is set forward by a day
    later = execute(controls, "snapshot", camera="door")
    assert isinstance(later, dict)
    assert later["ts"] == "2023-11-15T22:13:20.300Z"
    with pytest.raises(UserError, match="Name one as `camera`: door, hall"):
        execute(controls, "snapshot")
    with pytest.raises(UserError, match="camera hall has no current frame"):
        execute(controls, "snapshot", camera="hall")


def test_an_update_requires_an_update_server(make_controls: MakeControls) -> None:
    """Without an update server, the error names the key to set."""
    with pytest.raises(UserError, match=r"^update\.url: no update server is configured on this device\. Set this key"):
        execute(make_controls(), "update")
    called: list[str] = []
    assert execute(make_controls(on_update=lambda: called.append("update")), "update") is None
    assert called == ["update"]


def test_report_and_restart_call_the_agent(make_controls: MakeControls) -> None:
    """Both commands call the callbacks of the agent at once."""
    called: list[str] = []
    controls = make_controls(on_report=lambda: called.append("report"), on_restart=lambda: called.append("restart"))
    execute(controls, "report")
    execute(controls, "restart")
    assert called == ["report", "restart"]
