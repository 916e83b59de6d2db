"""The machine's state becomes a level, and the cameras obey it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from edge import system
from edge.adapt import LADDER
from edge.camera import CameraWorker, Work
from edge.governor import Governor
from tests.edge.test_pipeline import Rig
from tests.fakes import ScriptedDetector, ScriptedSource, frame


@pytest.fixture
def thermometer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file from which the machine's temperature is read; 50 °C, and no Raspberry Pi."""
    path = tmp_path / "temp"
    path.write_text("50000\n")
    monkeypatch.setattr(system, "_THERMAL", path)
    monkeypatch.setattr(system, "_PLATFORM", tmp_path / "none")
    return path


class CountedWorker(CameraWorker):
    """A camera whose work the test says."""

    done = Work(0.0, 0, 0)

    @property
    def work(self) -> Work:
        return self.done


class Watched:
    """A governor over one camera, and the time that passes for it."""

    def __init__(self) -> None:
        self.rig = Rig(ScriptedDetector(lambda _: []), detection_interval_s=0.25)
        self.worker = CountedWorker(
            name="door", source=ScriptedSource([]), pipeline=self.rig.pipeline, on_status=lambda *_: None
        )
        self.governor = Governor(workers={"door": self.worker}, hot_c=78, cool_c=72)
        self._now_s = time.monotonic()

    def wait(self, seconds: int, *, busy: float = 0.0, frames: int = 0, dropped: int = 0) -> list[bool]:
        """Lets time pass in which the camera works so much a second; returns at which seconds the level changed."""
        changes = []
        for _ in range(seconds):
            self._now_s += 1
            done = self.worker.done
            self.worker.done = Work(done.busy_s + busy, done.frames + frames, done.dropped + dropped)
            changes.append(self.governor.look(self._now_s))
        return changes


@pytest.fixture
def watched(thermometer: Path) -> Watched:  # noqa: ARG001 - what it reads must be there first
    """A camera that is watched over."""
    return Watched()


def test_a_hot_device_does_less_and_says_so(
    watched: Watched, thermometer: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Faces are looked for more seldom, then fewer frames are taken; one log line tells each change."""
    caplog.set_level("INFO", "edge.governor")
    thermometer.write_text("81000\n")
    assert watched.wait(11).count(True) == 1
    for index in range(20):  # at ten frames a second
        watched.rig.pipeline.process(frame(index))
    assert watched.rig.detector.calls == 4
    assert watched.worker.max_fps is None
    watched.wait(120)
    assert watched.worker.max_fps == LADDER[-1].max_fps
    report = watched.governor.report()
    assert (report.level, report.reasons, report.max_fps) == (len(LADDER) - 1, ("hot",), LADDER[-1].max_fps)
    assert [record.message for record in caplog.records][:1] == [
        "level 1 of 5: faces are looked for 2 times more seldom (hot, 81 °C)"
    ]
    assert len(caplog.records) == len(LADDER) - 1


def test_a_cooled_device_does_all_again(watched: Watched, thermometer: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The way back is told too, and ends where it was configured; a limit that somebody set still holds."""
    caplog.set_level("INFO", "edge.governor")
    watched.worker.limit(15.0)
    thermometer.write_text("81000\n")
    watched.wait(60)
    assert watched.worker.max_fps == LADDER[-1].max_fps
    thermometer.write_text("60000\n")
    watched.wait(400)
    assert watched.worker.max_fps == 15.0
    assert (watched.governor.report().level, watched.governor.report().reasons) == (0, ())
    assert caplog.records[-1].message == "level 0 of 5: all as configured (the device is well again, 60 °C)"


def test_a_camera_that_outruns_the_device_counts_as_strain(watched: Watched) -> None:
    """Frames that are lost because there is no time for them lead down the ladder."""
    watched.wait(30, busy=1.0, frames=5, dropped=20)
    assert watched.governor.report().reasons == ("behind",)


@pytest.mark.parametrize(("busy", "frames", "dropped"), [(1.0, 30, 0), (0.1, 5, 20)])
def test_recordings_and_limits_do_not(watched: Watched, busy: float, frames: int, dropped: int) -> None:
    """A recording at full speed drops nothing, and a camera with a limit has time to spare."""
    watched.wait(120, busy=busy, frames=frames, dropped=dropped)
    assert watched.governor.report().level == 0
