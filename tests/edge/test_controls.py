"""What the commands do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.camera import CameraWorker
from edge.contract.errors import UserError
from edge.controls import Controls
from edge.payloads import CommandRequest, Status
from edge.state import DeviceState
from tests.edge.test_pipeline import Rig
from tests.fakes import ScriptedDetector, ScriptedSource
from tests.mosquitto import wait_until


@pytest.fixture
def workers() -> Iterator[dict[str, CameraWorker]]:
    """Two cameras at work."""
    made = {name: _worker(name) for name in ("door", "hall")}
    for worker in made.values():
        worker.start()
    yield made
    for worker in made.values():
        worker.stop()
        worker.join(5)


def _worker(name: str) -> CameraWorker:
    pipeline = Rig(ScriptedDetector(lambda _: [])).pipeline
    return CameraWorker(name=name, source=ScriptedSource([[]] * 9), pipeline=pipeline, on_status=lambda *_: None)


@pytest.fixture
def controls(workers: dict[str, CameraWorker], tmp_path: Path) -> Iterator[Controls]:
    """The commands of an agent with these cameras."""
    with DeviceState(tmp_path) as state:
        yield Controls(workers=workers, state=state)


def ask(controls: Controls, name: str, **fields: object) -> object:
    """Sends a request and returns its result."""
    return controls.handlers[name](CommandRequest.model_validate({"id": 1, **fields}))


def test_pausing_one_camera_leaves_the_other(controls: Controls, workers: dict[str, CameraWorker]) -> None:
    """Only the camera that is meant stops looking, and the answer says which are paused."""
    assert ask(controls, "pause", camera="door") == {"paused": ["door"]}
    wait_until(lambda: workers["door"].status is Status.PAUSED)
    assert workers["hall"].status is not Status.PAUSED
    assert ask(controls, "resume", camera="door") == {"paused": []}
    wait_until(lambda: workers["door"].status is not Status.PAUSED)


def test_a_switch_pauses_and_resumes_through_one_topic(controls: Controls) -> None:
    """Home Assistant's switch sends `pause` with true and false."""
    assert ask(controls, "pause", camera="hall", value=True) == {"paused": ["hall"]}
    assert ask(controls, "pause", camera="hall", value=False) == {"paused": []}


def test_without_a_camera_all_are_meant_and_an_unknown_one_is_an_error(controls: Controls) -> None:
    """A typo pauses nothing; the error names the cameras that there are."""
    assert ask(controls, "pause") == {"paused": ["door", "hall"]}
    with pytest.raises(UserError, match="door, hall"):
        ask(controls, "resume", camera="dor")


def test_a_pause_is_remembered(controls: Controls, tmp_path: Path) -> None:
    """Whoever paused a camera finds it paused after a power cut."""
    ask(controls, "pause", camera="door")
    assert '"door"' in (tmp_path / "state.json").read_text()


def test_report_and_restart_reach_the_agent(controls: Controls) -> None:
    """Both come through at once."""
    heard: list[str] = []
    controls.on_report = lambda: heard.append("report")
    controls.on_restart = lambda: heard.append("restart")
    ask(controls, "report")
    ask(controls, "restart")
    assert heard == ["report", "restart"]
