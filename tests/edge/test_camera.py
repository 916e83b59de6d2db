"""Camera threads, including failures of their source."""

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from edge import camera
from edge.adapt import AS_CONFIGURED, Level
from edge.backoff import Backoff
from edge.camera import CameraWorker
from edge.domain import Frame
from edge.errors import DriverHangs, SourceLost, SourceUnavailable
from edge.payloads import Status
from edge.rate_limit import RateLimiter
from tests.edge.test_pipeline import Rig
from tests.fakes import ScriptedDetector, ScriptedSource, frame, one_face
from tests.mosquitto import PATIENCE_S, wait_until


class RecordingBackoff(Backoff):
    """A backoff that records its delays."""

    def __init__(self, *, first_s: float, limit_s: float) -> None:
        super().__init__(first_s=first_s, limit_s=limit_s)
        self.delays_s: list[float] = []

    def delay_s(self, *, at_most_s: float = math.inf) -> float:
        self.delays_s.append(super().delay_s(at_most_s=at_most_s))
        return self.delays_s[-1]


class WorkerHarness:
    """A worker with a scripted source, the statuses it reported, and the frames it processed."""

    def __init__(
        self,
        source: ScriptedSource,
        *,
        on_frame: Callable[[int], None] = lambda _: None,
        paused: bool = False,
        max_fps: float | None = None,
        retry_s: float = 0.01,
    ) -> None:
        self.statuses: list[Status] = []
        self.frames: list[int] = []
        self.rig = Rig(ScriptedDetector(lambda _: [one_face()]))
        process = self.rig.pipeline.process

        def counted(picture: Frame) -> None:
            self.frames.append(picture.index)
            on_frame(picture.index)
            process(picture)

        self.rig.pipeline.process = counted  # type: ignore[method-assign, assignment]
        self.backoff = RecordingBackoff(first_s=retry_s, limit_s=5 * retry_s)
        self.worker = CameraWorker(
            name="door",
            source=source,
            pipeline=self.rig.pipeline,
            paused=paused,
            limiter=RateLimiter(max_fps),
            backoff=self.backoff,
            on_status=lambda _, status: self.statuses.append(status),
        )


@contextmanager
def running(harness: WorkerHarness) -> Iterator[WorkerHarness]:
    """Starts the worker, and stops it at the end; fails if it does not stop."""
    harness.worker.start()
    try:
        yield harness
    finally:
        harness.worker.stop()
        harness.worker.join(PATIENCE_S)
        assert harness.worker.finished


def makes_progress(worker: CameraWorker, *, within_s: float = PATIENCE_S) -> bool:
    """Returns whether the thread makes progress within that time; a healthy one does every half second."""
    last_s, give_up_s = time.monotonic() - worker.unresponsive_s, time.monotonic() + within_s
    while not (progressed := time.monotonic() - worker.unresponsive_s > last_s + 0.01) and time.monotonic() < give_up_s:
        time.sleep(0.01)
    return progressed


def test_a_recording_is_processed_to_its_end() -> None:
    """Every frame of a file is processed, then the worker is finished."""
    source = ScriptedSource([[*map(frame, range(5)), EOFError()]])
    with running(WorkerHarness(source)) as harness:
        wait_until(lambda: harness.worker.finished)
    assert harness.frames == [0, 1, 2, 3, 4]
    assert harness.statuses == [Status.OFFLINE, Status.ONLINE, Status.OFFLINE]
    assert source.opened == source.closed == 1


def test_a_camera_that_fails_is_opened_again_until_it_works() -> None:
    """The worker survives an unplugged camera, counts the faults, and reports the status."""
    source = ScriptedSource(
        [[frame(0), SourceLost("gone")], SourceUnavailable("not there"), SourceUnavailable("not there"), [frame(7)]]
    )
    with running(WorkerHarness(source)) as harness:
        # The status is reported after the first frame.
        wait_until(lambda: harness.statuses == [Status.OFFLINE, Status.ONLINE, Status.OFFLINE, Status.ONLINE])
        assert harness.frames == [0, 7]
        assert harness.worker.faults == 3


def test_the_retry_delays_grow_to_ten_seconds() -> None:
    """A camera that was unplugged briefly works again quickly, and any other within ten seconds."""
    worker = CameraWorker(
        name="door",
        source=ScriptedSource([]),
        pipeline=Rig(ScriptedDetector(lambda _: [])).pipeline,
        on_status=lambda _name, _status: None,
    )
    delays_s: list[float] = []

    def record_delay(seconds: float) -> None:
        delays_s.append(seconds)
        if len(delays_s) == 6:
            worker.stop()

    worker._wait = record_delay  # type: ignore[method-assign]
    worker.start()
    worker.join(PATIENCE_S)
    for delay_s, full_s in zip(delays_s, (1, 2, 4, 8, 10, 10), strict=True):
        assert full_s / 2 <= delay_s <= full_s


def test_a_camera_that_fails_after_each_frame_is_retried_less_and_less_often(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad cable does not flood the log and the topics; after a stable time, delays start over."""

    def flaky() -> ScriptedSource:
        script: list[Frame | Exception] = [frame(0), SourceLost("gone")]
        return ScriptedSource([*([script] * 6), [frame(1)]])

    with running(WorkerHarness(flaky())) as harness:
        wait_until(lambda: harness.frames == [0] * 6 + [1])
        assert harness.backoff.delays_s[-1] >= 0.05 / 2
        assert [record.message for record in caplog.records].count("camera door: gone. Retrying") == 1
    monkeypatch.setattr(camera, "_STABLE_AFTER_S", 0.0)
    with running(WorkerHarness(flaky())) as harness:
        wait_until(lambda: harness.frames == [0] * 6 + [1])
        assert max(harness.backoff.delays_s) <= 0.01


def test_a_lost_camera_ends_its_emotions() -> None:
    """No emotion stays open when the camera is unplugged."""
    source = ScriptedSource([[*map(frame, range(10)), SourceLost("gone")], []])
    with running(WorkerHarness(source)) as harness:
        wait_until(lambda: ("end", "happy") in harness.rig.events())
    assert harness.rig.events() == [("start", "happy"), ("end", "happy")]


def test_emotions_end_even_if_closing_the_camera_hangs() -> None:
    """The final events are published before the camera is closed."""

    class Hanging(ScriptedSource):
        released = threading.Event()

        def __exit__(self, *exc_info: object) -> None:
            self.released.wait(30)
            super().__exit__(*exc_info)

    source = Hanging([map(frame, range(10))])
    with running(WorkerHarness(source)) as harness:
        wait_until(lambda: len(harness.frames) == 10)
        harness.worker.stop()
        wait_until(lambda: harness.rig.events() == [("start", "happy"), ("end", "happy")])
        assert source.closed == 0
        source.released.set()


def test_a_fault_is_logged_once_until_the_camera_works_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A camera that is missing for a month does not flood the journal; after each recovery, faults are logged again."""
    monkeypatch.setattr(camera, "_STABLE_AFTER_S", 0.0)
    missing, stalled = SourceUnavailable("not there"), SourceLost("gave no frame")
    outage = (missing, [stalled]) * 3
    with running(WorkerHarness(ScriptedSource([*outage, [frame(0), stalled], *outage]))) as harness:
        wait_until(lambda: harness.worker.faults >= 13)
    logged = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert logged[:4] == [f"camera door: {fault} Retrying" for fault in (missing, stalled, stalled, missing)]


def test_a_camera_whose_faults_are_all_different_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Messages that contain an address or a time differ each time; only the first hundred are logged."""
    faults = [SourceLost(f"no frame since {number}") for number in range(150)]
    with running(WorkerHarness(ScriptedSource([*faults]), retry_s=0.0)) as harness:
        wait_until(lambda: harness.worker.faults > 150)
    logged = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert logged == [f"camera door: {fault} Retrying" for fault in faults[:100]]


def test_a_pipeline_that_never_works_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The traceback of an error on every frame is logged once, and the camera is offline."""

    def fail(_index: int) -> None:
        raise ZeroDivisionError

    source = ScriptedSource([[frame(number)] for number in range(5)])
    with running(WorkerHarness(source, on_frame=fail)) as harness:
        wait_until(lambda: harness.worker.faults > 5)
    assert [record.exc_info is not None for record in caplog.records if record.levelname == "ERROR"] == [True]
    assert harness.statuses == [Status.OFFLINE]


def test_an_error_of_the_pipeline_does_not_end_the_worker() -> None:
    """A frame that causes an error is lost; the agent keeps running."""

    def fail_on_second(index: int) -> None:
        if index == 1:
            raise ZeroDivisionError

    source = ScriptedSource([map(frame, range(2)), map(frame, range(2, 4))])
    with running(WorkerHarness(source, on_frame=fail_on_second)) as harness:
        wait_until(lambda: harness.frames == [0, 1, 2, 3])
    assert harness.worker.faults == 1


def test_pausing_closes_the_camera_and_resuming_opens_it() -> None:
    """While paused, the camera is available to other programs, and the status shows it."""
    source = ScriptedSource([map(frame, range(3)), map(frame, range(3, 6))])
    with running(WorkerHarness(source)) as harness:
        wait_until(lambda: len(harness.frames) == 3)
        harness.worker.pause()
        wait_until(lambda: harness.worker.status is Status.PAUSED)
        assert source.closed == 1
        harness.worker.resume()
        wait_until(lambda: len(harness.frames) == 6)
    assert harness.worker.faults == 0


def test_a_pause_is_reported_at_once() -> None:
    """The status changes without delay, both for a working camera and during a retry delay."""
    source = ScriptedSource([[frame(0)], SourceUnavailable("not there")])
    with running(WorkerHarness(source, retry_s=600)) as harness:
        wait_until(lambda: harness.frames == [0])
        harness.worker.pause()
        wait_until(lambda: harness.worker.status is Status.PAUSED)
        harness.worker.resume()
        wait_until(lambda: harness.worker.faults == 1)
        harness.worker.pause()
        wait_until(lambda: harness.worker.status is Status.PAUSED)


def test_a_pause_during_a_stop_does_not_keep_the_thread_alive() -> None:
    """A command during a stop or reload does not keep the thread from ending."""
    harness = WorkerHarness(ScriptedSource([[]]))
    report = harness.worker._on_status

    def stop_and_pause(name: str, status: Status) -> None:
        report(name, status)
        if status is Status.PAUSED:
            harness.worker.stop()
            harness.worker.pause()

    harness.worker._on_status = stop_and_pause
    with running(harness):
        harness.worker.pause()
        harness.worker.join(PATIENCE_S)
        assert harness.worker.finished
    assert harness.statuses[-1] is Status.PAUSED


def test_a_camera_may_start_paused() -> None:
    """A pause survives a restart; no other status is reported, as the camera is not resumed."""
    source = ScriptedSource([[frame(0)]])
    with running(WorkerHarness(source, paused=True)) as harness:
        assert makes_progress(harness.worker)
        assert source.opened == 0
    assert set(harness.statuses) == {Status.PAUSED}


def test_a_limited_recording_takes_longer_and_loses_no_frame() -> None:
    """Every frame of a file is processed, with delays in between."""
    source = ScriptedSource([[*map(frame, range(5)), EOFError()]])
    started_s = time.monotonic()
    with running(WorkerHarness(source, max_fps=20)) as harness:
        wait_until(lambda: harness.worker.finished)
    assert harness.frames == [0, 1, 2, 3, 4]
    assert time.monotonic() - started_s >= 4 / 20
    assert harness.worker.stats.frames == 5
    assert 0 < harness.worker.stats.busy_s < time.monotonic() - started_s


def test_a_limited_camera_reacts_to_commands_at_once() -> None:
    """At 0.1 frames per second, pausing, resuming and lifting the limit do not wait for the next frame."""
    source = ScriptedSource([map(frame, range(2)), map(frame, range(2, 5))])
    with running(WorkerHarness(source, max_fps=0.1)) as harness:
        wait_until(lambda: harness.frames == [0])
        harness.worker.pause()
        wait_until(lambda: harness.worker.status is Status.PAUSED)
        harness.worker.limit(None)
        harness.worker.resume()
        wait_until(lambda: harness.frames == [0, 2, 3, 4])
        assert harness.worker.max_fps is None


def test_an_adaptation_level_keeps_the_requested_limit() -> None:
    """The lower limit applies, and the requested one again after the device has recovered."""
    harness = WorkerHarness(ScriptedSource([]), max_fps=5)
    harness.worker.adapt(Level(4, 2.0))
    assert harness.worker.max_fps == 2.0
    harness.worker.adapt(AS_CONFIGURED)
    assert harness.worker.max_fps == 5


def test_the_reported_frame_rate_is_the_current_one() -> None:
    """The rate follows each adaptation at once, and a pause does not count."""
    source = ScriptedSource([map(frame, itertools.count()), map(frame, itertools.count())])
    with running(WorkerHarness(source, max_fps=20)) as harness:
        wait_until(lambda: len(harness.frames) >= 10)
        harness.worker.adapt(Level(2))
        assert harness.worker.fps > 2
        harness.worker.adapt(Level(4, 2.0))
        assert harness.worker.fps == 2.0
        harness.worker.pause()
        harness.worker.adapt(AS_CONFIGURED)
        time.sleep(6)
        seen = len(harness.frames)
        harness.worker.resume()
        wait_until(lambda: len(harness.frames) >= seen + 4)
        assert harness.worker.fps > 4


def test_waiting_for_a_camera_is_not_a_hang() -> None:
    """A camera that is missing for a long time does not trigger the watchdog."""
    with running(WorkerHarness(ScriptedSource([]), retry_s=600)) as harness:
        wait_until(lambda: harness.worker.faults == 1)
        assert makes_progress(harness.worker)


def test_a_pause_is_not_a_hang() -> None:
    """A paused camera does not trigger the watchdog."""
    with running(WorkerHarness(ScriptedSource([]), paused=True)) as harness:
        wait_until(lambda: harness.worker.status is Status.PAUSED)
        assert makes_progress(harness.worker)


def test_a_limit_is_not_a_hang() -> None:
    """One frame per hour does not trigger the watchdog."""
    with running(WorkerHarness(ScriptedSource([map(frame, range(2))]), max_fps=1 / 3600)) as harness:
        wait_until(lambda: harness.worker.stats.frames == 1)
        assert makes_progress(harness.worker)


def test_a_blocked_pipeline_is_a_hang() -> None:
    """The agent cannot recover from a blocked pipeline, so the watchdog must restart it."""
    release = threading.Event()
    source = ScriptedSource([[frame(0)]])
    with running(WorkerHarness(source, on_frame=lambda _: wait_until(release.is_set))) as harness:
        wait_until(lambda: harness.frames)
        assert not makes_progress(harness.worker, within_s=2)
        release.set()


def driver_hangs() -> DriverHangs:
    """Returns the error of a source whose driver still hangs."""
    return DriverHangs(where="/dev/video0", remedy="Check its cable")


def test_a_driver_that_never_returns_is_a_hang_after_ten_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then the other cameras keep working; after that, the watchdog restarts the agent."""
    with running(WorkerHarness(ScriptedSource([driver_hangs()]), retry_s=600)) as harness:
        wait_until(lambda: harness.worker.faults == 1)
        assert makes_progress(harness.worker)
        monkeypatch.setattr(camera, "_MAX_DRIVER_HANG_S", 0.0)
        assert not makes_progress(harness.worker, within_s=2)
        harness.worker.pause()
        wait_until(lambda: harness.worker.status is Status.PAUSED)
        assert makes_progress(harness.worker)


def test_the_times_of_separate_driver_hangs_do_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a hang is reset when the driver returns."""
    monkeypatch.setattr(camera, "_MAX_DRIVER_HANG_S", 0.0)
    source = ScriptedSource(
        [driver_hangs(), [frame(0), SourceLost("gone")], driver_hangs(), SourceUnavailable("not there")]
    )
    with running(WorkerHarness(source)) as harness:
        wait_until(lambda: harness.worker.faults > 4)
        assert makes_progress(harness.worker)
    with running(WorkerHarness(ScriptedSource([driver_hangs(), [frame(0)]]))) as harness:
        wait_until(lambda: harness.frames == [0])
        assert harness.worker._hangs_since_s is None
