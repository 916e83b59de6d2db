"""The governor: the condition of the device determines the adaptation level of the cameras."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from edge import system
from edge.adapt import LADDER
from edge.camera import CameraWorker, WorkStats
from edge.governor import Governor
from tests.edge.test_pipeline import Rig
from tests.fakes import ScriptedDetector, ScriptedSource, frame


@pytest.fixture
def temperature_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file with the temperature of the machine: 50 °C, and not a Raspberry Pi."""
    path = tmp_path / "temp"
    path.write_text("50000\n")
    monkeypatch.setattr(system, "_THERMAL", path)
    monkeypatch.setattr(system, "_PLATFORM", tmp_path / "none")
    return path


class FakeStatsWorker(CameraWorker):
    """A camera whose statistics are set by the test."""

    fake_stats = WorkStats(0.0, 0, 0)

    @property
    def stats(self) -> WorkStats:
        return self.fake_stats


class GovernorHarness:
    """A governor of one camera with simulated statistics and a simulated clock."""

    def __init__(self) -> None:
        self.rig = Rig(ScriptedDetector(lambda _: []), detection_interval_s=0.25)
        self.worker = FakeStatsWorker(
            name="door", source=ScriptedSource([]), pipeline=self.rig.pipeline, on_status=lambda *_: None
        )
        self.governor = Governor(workers={"door": self.worker}, hot_c=78, cool_c=72)
        self._now_s = time.monotonic()

    def simulate(self, seconds: int, *, busy: float = 0.0, frames: int = 0, dropped: int = 0) -> list[bool]:
        """Simulates this work for some seconds; returns for each second whether the level changed."""
        changes = []
        for _ in range(seconds):
            self._now_s += 1
            before = self.worker.fake_stats
            self.worker.fake_stats = WorkStats(before.busy_s + busy, before.frames + frames, before.dropped + dropped)
            changes.append(self.governor.update(self._now_s))
        return changes


@pytest.fixture
def harness(temperature_file: Path) -> GovernorHarness:  # noqa: ARG001 - must be set up before
    """A governor of one camera on a machine at 50 °C."""
    return GovernorHarness()


def test_a_hot_device_reduces_its_load_and_logs_it(
    harness: GovernorHarness, temperature_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Faces are detected less often, then fewer frames are processed; each change is logged."""
    caplog.set_level("INFO", "edge.governor")
    temperature_file.write_text("81000\n")
    assert harness.simulate(11).count(True) == 1
    for index in range(20):  # at ten frames per second
        harness.rig.pipeline.process(frame(index))
    assert harness.rig.detector.calls == 4
    assert harness.worker.max_fps is None
    harness.simulate(120)
    assert harness.worker.max_fps == LADDER[-1].max_fps
    report = harness.governor.report()
    assert (report.level, report.reasons, report.max_fps) == (len(LADDER) - 1, ("hot",), LADDER[-1].max_fps)
    assert [record.message for record in caplog.records][:1] == [
        "adaptation level 1 of 5: detecting faces 2 times less often (hot, 81 °C)"
    ]
    assert len(caplog.records) == len(LADDER) - 1


def test_a_cooled_device_restores_its_load(
    harness: GovernorHarness, temperature_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Restoring is logged too, and ends at the configured load; a requested limit still applies."""
    caplog.set_level("INFO", "edge.governor")
    harness.worker.limit(15.0)
    temperature_file.write_text("81000\n")
    harness.simulate(60)
    assert harness.worker.max_fps == LADDER[-1].max_fps
    temperature_file.write_text("60000\n")
    harness.simulate(400)
    assert harness.worker.max_fps == 15.0
    assert (harness.governor.report().level, harness.governor.report().reasons) == (0, ())
    assert (
        caplog.records[-1].message == "adaptation level 0 of 5: running as configured (the device has recovered, 60 °C)"
    )


def test_a_camera_that_is_too_fast_for_the_device_is_an_overload(harness: GovernorHarness) -> None:
    """Frames dropped because processing is too slow reduce the load."""
    harness.simulate(30, busy=1.0, frames=5, dropped=20)
    assert harness.governor.report().reasons == ("behind",)


@pytest.mark.parametrize(("busy", "frames", "dropped"), [(1.0, 30, 0), (0.1, 5, 20)])
def test_recordings_and_limited_cameras_are_not_an_overload(
    harness: GovernorHarness, busy: float, frames: int, dropped: int
) -> None:
    """A recording at full speed drops no frames, and a limited camera has headroom."""
    harness.simulate(120, busy=busy, frames=frames, dropped=dropped)
    assert harness.governor.report().level == 0
