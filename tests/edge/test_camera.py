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
    """Records its delays."""

    def __init__(self, *, first_s: float, limit_s: float) -> None:
        super().__init__(first_s=first_s, limit_s=limit_s)
        self.delays_s: list[float] = []

    def delay_s(self, *, at_most_s: float = math.inf) -> float:
        self.delays_s.append(super().delay_s(at_most_s=at_most_s))
        return self.delays_s[-1]


class Watched:
    """A worker with a scripted source, and the statuses it reported."""

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
def running(watched: Watched) -> Iterator[Watched]:
    """Starts the worker, and stops it at the end, which must succeed."""
    watched.worker.start()
    try:
        yield watched
    finally:
        watched.worker.stop()
        watched.worker.join(PATIENCE_S)
        assert watched.worker.finished


def makes_progress(worker: CameraWorker, *, within_s: float = PATIENCE_S) -> bool:
    """Whether the thread makes progress within that time; a healthy one does every half second."""
    last_s, give_up_s = time.monotonic() - worker.unresponsive_s, time.monotonic() + within_s
    while not (there := time.monotonic() - worker.unresponsive_s > last_s + 0.01) and time.monotonic() < give_up_s:
        time.sleep(0.01)
    return there


def test_a_recording_is_processed_to_its_end() -> None:
    """Every frame of a file is processed, then the worker is finished."""
    source = ScriptedSource([[*map(frame, range(5)), EOFError()]])
    with running(Watched(source)) as watched:
        wait_until(lambda: watched.worker.finished)
    assert watched.frames == [0, 1, 2, 3, 4]
    assert watched.statuses == [Status.OFFLINE, Status.ONLINE, Status.OFFLINE]
    assert source.opened == source.closed == 1


def test_a_camera_that_fails_is_opened_again_until_it_works() -> None:
    """The worker survives an unplugged camera, counts the faults, and reports the status."""
    source = ScriptedSource(
        [[frame(0), SourceLost("gone")], SourceUnavailable("not there"), SourceUnavailable("not there"), [frame(7)]]
    )
    with running(Watched(source)) as watched:
        # The status is reported after the first frame.
        wait_until(lambda: watched.statuses == [Status.OFFLINE, Status.ONLINE, Status.OFFLINE, Status.ONLINE])
        assert watched.frames == [0, 7]
        assert watched.worker.faults == 3


def test_the_pauses_between_attempts_grow_to_ten_seconds() -> None:
    """A camera that was unplugged briefly is back quickly, and any other within ten seconds."""
    worker = CameraWorker(
        name="door",
        source=ScriptedSource([]),
        pipeline=Rig(ScriptedDetector(lambda _: [])).pipeline,
        on_status=lambda _name, _status: None,
    )
    pauses_s: list[float] = []

    def note(seconds: float) -> None:
        pauses_s.append(seconds)
        if len(pauses_s) == 6:
            worker.stop()

    worker._wait = note  # type: ignore[method-assign]
    worker.start()
    worker.join(PATIENCE_S)
    for pause_s, whole_s in zip(pauses_s, (1, 2, 4, 8, 10, 10), strict=True):
        assert whole_s / 2 <= pause_s <= whole_s


def test_a_camera_that_fails_after_each_frame_is_tried_less_and_less_often(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad cable does not flood the log and the topics; a camera that was stable for a while starts over."""

    def flaky() -> ScriptedSource:
        visit: list[Frame | Exception] = [frame(0), SourceLost("gone")]
        return ScriptedSource([*([visit] * 6), [frame(1)]])

    with running(Watched(flaky())) as watched:
        wait_until(lambda: watched.frames == [0] * 6 + [1])
        assert watched.backoff.delays_s[-1] >= 0.05 / 2
        assert [record.message for record in caplog.records].count("camera door: gone. Retrying") == 1
    monkeypatch.setattr(camera, "_STABLE_AFTER_S", 0.0)
    with running(Watched(flaky())) as watched:
        wait_until(lambda: watched.frames == [0] * 6 + [1])
        assert max(watched.backoff.delays_s) <= 0.01


def test_a_lost_camera_ends_its_emotions() -> None:
    """No emotion stays open because the cable was unplugged."""
    source = ScriptedSource([[*map(frame, range(10)), SourceLost("gone")], []])
    with running(Watched(source)) as watched:
        wait_until(lambda: ("end", "happy") in watched.rig.events())
    assert watched.rig.events() == [("start", "happy"), ("end", "happy")]


def test_emotions_end_even_if_closing_the_camera_hangs() -> None:
    """The final events are published before the camera is closed."""

    class Hanging(ScriptedSource):
        released = threading.Event()

        def __exit__(self, *exc_info: object) -> None:
            self.released.wait(30)
            super().__exit__(*exc_info)

    source = Hanging([map(frame, range(10))])
    with running(Watched(source)) as watched:
        wait_until(lambda: len(watched.frames) == 10)
        watched.worker.stop()
        wait_until(lambda: watched.rig.events() == [("start", "happy"), ("end", "happy")])
        assert source.closed == 0
        source.released.set()


def test_a_fault_is_logged_once_until_the_camera_works_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A camera that is missing for a month does not flood the journal; after each recovery, faults are logged again."""
    monkeypatch.setattr(camera, "_STABLE_AFTER_S", 0.0)
    absent, silent = SourceUnavailable("not there"), SourceLost("gave no frame")
    away = (absent, [silent]) * 3
    with running(Watched(ScriptedSource([*away, [frame(0), silent], *away]))) as watched:
        wait_until(lambda: watched.worker.faults >= 13)
    logged = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert logged[:4] == [f"camera door: {fault} Retrying" for fault in (absent, silent, silent, absent)]


def test_a_camera_whose_faults_are_all_different_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Messages with an address or a time differ each time; only the first hundred are logged."""
    faults = [SourceLost(f"no frame since {number}") for number in range(150)]
    with running(Watched(ScriptedSource([*faults]), retry_s=0.0)) as watched:
        wait_until(lambda: watched.worker.faults > 150)
    logged = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert logged == [f"camera door: {fault} Retrying" for fault in faults[:100]]


def test_a_pipeline_that_never_works_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The traceback of an error on every frame is logged once, and the camera is offline."""

    def fail(_index: int) -> None:
        raise ZeroDivisionError

    source = ScriptedSource([[frame(number)] for number in range(5)])
    with running(Watched(source, on_frame=fail)) as watched:
        wait_until(lambda: watched.worker.faults > 5)
    assert [record.exc_info is not None for record in caplog.records if record.levelname == "ERROR"] == [True]
    assert watched.statuses == [Status.OFFLINE]


def test_an_error_of_the_pipeline_does_not_end_the_worker() -> None:
    """A frame that causes an error is lost; the agent keeps running."""

    def fail_on_second(index: int) -> None:
        if index == 1:
            raise ZeroDivisionError

    source = ScriptedSource([map(frame, range(2)), map(frame, range(2, 4))])
    with running(Watched(source, on_frame=fail_on_second)) as watched:
        wait_until(lambda: watched.frames == [0, 1, 2, 3])
    assert watched.worker.faults == 1


def test_pausing_closes_the_camera_and_resuming_opens_it() -> None:
    """While paused, the camera is available to other programs, and the status shows it."""
    source = ScriptedSource([map(frame, range(3)), map(frame, range(3, 6))])
    with running(Watched(source)) as watched:
        wait_until(lambda: len(watched.frames) == 3)
        watched.worker.pause()
        wait_until(lambda: watched.worker.status is Status.PAUSED)
        assert source.closed == 1
        watched.worker.resume()
        wait_until(lambda: len(watched.frames) == 6)
    assert watched.worker.faults == 0


def test_a_pause_is_reported_at_once() -> None:
    """The status changes without delay, both for a working camera and during a retry delay."""
    source = ScriptedSource([[frame(0)], SourceUnavailable("not there")])
    with running(Watched(source, retry_s=600)) as watched:
        wait_until(lambda: watched.frames == [0])
        watched.worker.pause()
        wait_until(lambda: watched.worker.status is Status.PAUSED)
        watched.worker.resume()
        wait_until(lambda: watched.worker.faults == 1)
        watched.worker.pause()
        wait_until(lambda: watched.worker.status is Status.PAUSED)


def test_a_pause_at_a_stop_does_not_keep_the_thread() -> None:
    """A command during a stop or reload does not keep the thread from ending."""
    watched = Watched(ScriptedSource([[]]))
    report = watched.worker._on_status

    def stop_and_pause(name: str, status: Status) -> None:
        report(name, status)
        if status is Status.PAUSED:
            watched.worker.stop()
            watched.worker.pause()

    watched.worker._on_status = stop_and_pause
    with running(watched):
        watched.worker.pause()
        watched.worker.join(PATIENCE_S)
        assert watched.worker.finished
    assert watched.statuses[-1] is Status.PAUSED


def test_a_camera_may_start_paused() -> None:
    """A pause survives a restart; no other status is reported, as the camera was not resumed."""
    source = ScriptedSource([[frame(0)]])
    with running(Watched(source, paused=True)) as watched:
        assert makes_progress(watched.worker)
        assert source.opened == 0
    assert set(watched.statuses) == {Status.PAUSED}


def test_a_limited_recording_takes_longer_and_loses_no_frame() -> None:
    """Every frame of a file is processed, with pauses in between."""
    source = ScriptedSource([[*map(frame, range(5)), EOFError()]])
    started_s = time.monotonic()
    with running(Watched(source, max_fps=20)) as watched:
        wait_until(lambda: watched.worker.finished)
    assert watched.frames == [0, 1, 2, 3, 4]
    assert time.monotonic() - started_s >= 4 / 20
    assert watched.worker.stats.frames == 5
    assert 0 < watched.worker.stats.busy_s < time.monotonic() - started_s


def test_a_limited_camera_reacts_to_commands_at_once() -> None:
    """At 0.1 frames per second, pausing, resuming and lifting the limit do not wait for the next frame."""
    source = ScriptedSource([map(frame, range(2)), map(frame, range(2, 5))])
    with running(Watched(source, max_fps=0.1)) as watched:
        wait_until(lambda: watched.frames == [0])
        watched.worker.pause()
        wait_until(lambda: watched.worker.status is Status.PAUSED)
        watched.worker.limit(None)
        watched.worker.resume()
        wait_until(lambda: watched.frames == [0, 2, 3, 4])
        assert watched.worker.max_fps is None


def test_a_load_level_keeps_the_requested_limit() -> None:
    """The lower limit applies, and the requested one again after the device has recovered."""
    watched = Watched(ScriptedSource([]), max_fps=5)
    watched.worker.adapt(Level(4, 2.0))
    assert watched.worker.max_fps == 2.0
    watched.worker.adapt(AS_CONFIGURED)
    assert watched.worker.max_fps == 5


def test_the_reported_frame_rate_is_the_current_one() -> None:
    """The rate follows each adaptation at once, and a pause does not count."""
    source = ScriptedSource([map(frame, itertools.count()), map(frame, itertools.count())])
    with running(Watched(source, max_fps=20)) as watched:
        wait_until(lambda: len(watched.frames) >= 10)
        watched.worker.adapt(Level(2))
        assert watched.worker.fps > 2
        watched.worker.adapt(Level(4, 2.0))
        assert watched.worker.fps == 2.0
        watched.worker.pause()
        watched.worker.adapt(AS_CONFIGURED)
        time.sleep(6)
        seen = len(watched.frames)
        watched.worker.resume()
        wait_until(lambda: len(watched.frames) >= seen + 4)
        assert watched.worker.fps > 4


def test_waiting_for_a_camera_is_not_a_hang() -> None:
    """A camera that is missing for a long time does not trigger the watchdog."""
    with running(Watched(ScriptedSource([]), retry_s=600)) as watched:
        wait_until(lambda: watched.worker.faults == 1)
        assert makes_progress(watched.worker)


def test_a_pause_is_not_a_hang() -> None:
    """A paused camera does not trigger the watchdog."""
    with running(Watched(ScriptedSource([]), paused=True)) as watched:
        wait_until(lambda: watched.worker.status is Status.PAUSED)
        assert makes_progress(watched.worker)


def test_a_limit_is_not_a_hang() -> None:
    """One frame per hour does not trigger the watchdog."""
    with running(Watched(ScriptedSource([map(frame, range(2))]), max_fps=1 / 3600)) as watched:
        wait_until(lambda: watched.worker.stats.frames == 1)
        assert makes_progress(watched.worker)


def test_a_blocked_pipeline_is_a_hang() -> None:
    """The agent cannot recover from it, so the watchdog must."""
    release = threading.Event()
    source = ScriptedSource([[frame(0)]])
    with running(Watched(source, on_frame=lambda _: wait_until(release.is_set))) as watched:
        wait_until(lambda: watched.frames)
        assert not makes_progress(watched.worker, within_s=2)
        release.set()


def hangs() -> DriverHangs:
    """The error of a source whose driver is still hung."""
    return DriverHangs(where="/dev/video0", remedy="Check its cable")


def test_a_driver_that_never_returns_is_a_hang_after_ten_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then the other cameras keep working; after that, the watchdog restarts the agent."""
    with running(Watched(ScriptedSource([hangs()]), retry_s=600)) as watched:
        wait_until(lambda: watched.worker.faults == 1)
        assert makes_progress(watched.worker)
        monkeypatch.setattr(camera, "_MAX_DRIVER_HANG_S", 0.0)
        assert not makes_progress(watched.worker, within_s=2)
        watched.worker.pause()
        wait_until(lambda: watched.worker.status is Status.PAUSED)
        assert makes_progress(watched.worker)


def test_a_driver_that_returned_starts_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The times of separate hangs do not add up."""
    monkeypatch.setattr(camera, "_MAX_DRIVER_HANG_S", 0.0)
    source = ScriptedSource([hangs(), [frame(0), SourceLost("gone")], hangs(), SourceUnavailable("not there")])
    with running(Watched(source)) as watched:
        wait_until(lambda: watched.worker.faults > 4)
        assert makes_progress(watched.worker)
    with running(Watched(ScriptedSource([hangs(), [frame(0)]]))) as watched:
        wait_until(lambda: watched.frames == [0])
        assert watched.worker._hangs_since_s is None
