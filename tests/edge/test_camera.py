"""One camera at work, through failures of its source."""

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
from edge.pace import Pace
from edge.payloads import Status
from tests.edge.test_pipeline import Rig
from tests.fakes import ScriptedDetector, ScriptedSource, frame, one_face
from tests.mosquitto import PATIENCE_S, wait_until


class NotingBackoff(Backoff):
    """Notes the waiting times that it gives."""

    def __init__(self, *, first_s: float, limit_s: float) -> None:
        super().__init__(first_s=first_s, limit_s=limit_s)
        self.delays_s: list[float] = []

    def delay_s(self, *, at_most_s: float = math.inf) -> float:
        self.delays_s.append(super().delay_s(at_most_s=at_most_s))
        return self.delays_s[-1]


class Watched:
    """A worker on a scripted source, with what it said of its status."""

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
        self.backoff = NotingBackoff(first_s=retry_s, limit_s=5 * retry_s)
        self.worker = CameraWorker(
            name="door",
            source=source,
            pipeline=self.rig.pipeline,
            paused=paused,
            pace=Pace(max_fps),
            backoff=self.backoff,
            on_status=lambda _, status: self.statuses.append(status),
        )


@contextmanager
def running(watched: Watched) -> Iterator[Watched]:
    """The worker at work; it must stop when it is told to."""
    watched.worker.start()
    try:
        yield watched
    finally:
        watched.worker.stop()
        watched.worker.join(PATIENCE_S)
        assert watched.worker.finished


def gives_signs_of_life(worker: CameraWorker, *, within_s: float = PATIENCE_S) -> bool:
    """Whether another comes in that time; a thread that is well has one every half second."""
    last_s, give_up_s = time.monotonic() - worker.stuck_s, time.monotonic() + within_s
    while not (there := time.monotonic() - worker.stuck_s > last_s + 0.01) and time.monotonic() < give_up_s:
        time.sleep(0.01)
    return there


def test_a_recording_is_seen_to_its_end() -> None:
    """Every frame of a file is analysed, then the worker is done."""
    source = ScriptedSource([[*map(frame, range(5)), EOFError()]])
    with running(Watched(source)) as watched:
        wait_until(lambda: watched.worker.finished)
    assert watched.frames == [0, 1, 2, 3, 4]
    assert watched.statuses == [Status.OFFLINE, Status.ONLINE, Status.OFFLINE]
    assert source.opened == source.closed == 1


def test_a_camera_that_fails_is_opened_again_until_it_works() -> None:
    """Unplugged, absent, plugged in again: the worker outlives it, counts it, and says what the status is."""
    source = ScriptedSource(
        [[frame(0), SourceLost("gone")], SourceUnavailable("not there"), SourceUnavailable("not there"), [frame(7)]]
    )
    with running(Watched(source)) as watched:
        # The status is told after the frame that shows it.
        wait_until(lambda: watched.statuses == [Status.OFFLINE, Status.ONLINE, Status.OFFLINE, Status.ONLINE])
        assert watched.frames == [0, 7]
        assert watched.worker.faults == 3


def test_the_pauses_between_attempts_grow_to_ten_seconds() -> None:
    """A camera that was unplugged shortly is back at once, and one that was away for long within ten seconds."""
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
    """A bad cable does not fill the log and the topics; once the camera has held for a while, it is as good as new."""

    def flaky() -> ScriptedSource:
        visit: list[Frame | Exception] = [frame(0), SourceLost("gone")]
        return ScriptedSource([*([visit] * 6), [frame(1)]])

    with running(Watched(flaky())) as watched:
        wait_until(lambda: watched.frames == [0] * 6 + [1])
        assert watched.backoff.delays_s[-1] >= 0.05 / 2
        assert [record.message for record in caplog.records].count("camera door: gone. Trying again") == 1
    monkeypatch.setattr(camera, "_STEADY_S", 0.0)
    with running(Watched(flaky())) as watched:
        wait_until(lambda: watched.frames == [0] * 6 + [1])
        assert max(watched.backoff.delays_s) <= 0.01


def test_a_lost_camera_ends_the_emotions_that_it_saw() -> None:
    """No visitor stays for ever because the cable was pulled."""
    source = ScriptedSource([[*map(frame, range(10)), SourceLost("gone")], []])
    with running(Watched(source)) as watched:
        wait_until(lambda: ("end", "happy") in watched.rig.events())
    assert watched.rig.events() == [("start", "happy"), ("end", "happy")]


def test_what_began_ends_though_the_camera_does_not_close() -> None:
    """A stop waits for no driver: what is to be said comes before the camera is closed."""

    class Hanging(ScriptedSource):
        let_go = threading.Event()

        def __exit__(self, *exc_info: object) -> None:
            self.let_go.wait(30)
            super().__exit__(*exc_info)

    source = Hanging([map(frame, range(10))])
    with running(Watched(source)) as watched:
        wait_until(lambda: len(watched.frames) == 10)
        watched.worker.stop()
        wait_until(lambda: watched.rig.events() == [("start", "happy"), ("end", "happy")])
        assert source.closed == 0
        source.let_go.set()


def test_a_fault_is_logged_once_until_the_camera_works_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A camera that is away for a month does not fill the journal; after each return, its next fault is told."""
    monkeypatch.setattr(camera, "_STEADY_S", 0.0)
    absent, silent = SourceUnavailable("not there"), SourceLost("gave no frame")
    away = (absent, [silent]) * 3
    with running(Watched(ScriptedSource([*away, [frame(0), silent], *away]))) as watched:
        wait_until(lambda: watched.worker.faults >= 13)
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told[:4] == [f"camera door: {fault} Trying again" for fault in (absent, silent, silent, absent)]


def test_a_camera_whose_faults_are_all_different_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """A text with an address or a time in it is new each time; after the first hundred, only the count goes on."""
    faults = [SourceLost(f"no frame since {number}") for number in range(150)]
    with running(Watched(ScriptedSource([*faults]), retry_s=0.0)) as watched:
        wait_until(lambda: watched.worker.faults > 150)
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told == [f"camera door: {fault} Trying again" for fault in faults[:100]]


def test_a_pipeline_that_never_works_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The traceback of a fault that comes with every frame stands in the journal once, and the camera is offline."""

    def fail(_index: int) -> None:
        raise ZeroDivisionError

    source = ScriptedSource([[frame(number)] for number in range(5)])
    with running(Watched(source, on_frame=fail)) as watched:
        wait_until(lambda: watched.worker.faults > 5)
    assert [record.exc_info is not None for record in caplog.records if record.levelname == "ERROR"] == [True]
    assert watched.statuses == [Status.OFFLINE]


def test_an_error_of_the_pipeline_does_not_end_the_worker() -> None:
    """One frame that breaks something costs that frame, not the agent."""

    def fail_on_second(index: int) -> None:
        if index == 1:
            raise ZeroDivisionError

    source = ScriptedSource([map(frame, range(2)), map(frame, range(2, 4))])
    with running(Watched(source, on_frame=fail_on_second)) as watched:
        wait_until(lambda: watched.frames == [0, 1, 2, 3])
    assert watched.worker.faults == 1


def test_pausing_closes_the_camera_and_resuming_opens_it() -> None:
    """While it is paused the camera is free for others, and the status says so."""
    source = ScriptedSource([map(frame, range(3)), map(frame, range(3, 6))])
    with running(Watched(source)) as watched:
        wait_until(lambda: len(watched.frames) == 3)
        watched.worker.pause()
        wait_until(lambda: watched.worker.status is Status.PAUSED)
        assert source.closed == 1
        watched.worker.resume()
        wait_until(lambda: len(watched.frames) == 6)
    assert watched.worker.faults == 0


def test_a_pause_is_told_at_once() -> None:
    """Neither a camera that works nor one that is waited for makes the status late."""
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
    """A command that comes while the agent stops or reloads leaves nobody behind."""
    watched = Watched(ScriptedSource([[]]))
    tell = watched.worker._on_status

    def stop_and_pause(name: str, status: Status) -> None:
        tell(name, status)
        if status is Status.PAUSED:
            watched.worker.stop()
            watched.worker.pause()

    watched.worker._on_status = stop_and_pause
    with running(watched):
        watched.worker.pause()
        watched.worker.join(PATIENCE_S)
        assert watched.worker.finished
    assert watched.statuses[-1] is Status.PAUSED


def test_a_camera_may_begin_paused() -> None:
    """A pause outlives a restart, at which nothing else is said of the camera: nobody has resumed it."""
    source = ScriptedSource([[frame(0)]])
    with running(Watched(source, paused=True)) as watched:
        assert gives_signs_of_life(watched.worker)
        assert source.opened == 0
    assert set(watched.statuses) == {Status.PAUSED}


def test_a_limited_recording_takes_longer_and_loses_nothing() -> None:
    """Every frame of a file is analysed, with pauses between them."""
    source = ScriptedSource([[*map(frame, range(5)), EOFError()]])
    started_s = time.monotonic()
    with running(Watched(source, max_fps=20)) as watched:
        wait_until(lambda: watched.worker.finished)
    assert watched.frames == [0, 1, 2, 3, 4]
    assert time.monotonic() - started_s >= 4 / 20
    assert watched.worker.work.frames == 5
    assert 0 < watched.worker.work.busy_s < time.monotonic() - started_s


def test_a_limited_camera_hears_at_once_what_it_is_told() -> None:
    """At a frame in ten seconds, a pause, a resumption and a lifted limit do not wait for the next frame."""
    source = ScriptedSource([map(frame, range(2)), map(frame, range(2, 5))])
    with running(Watched(source, max_fps=0.1)) as watched:
        wait_until(lambda: watched.frames == [0])
        watched.worker.pause()
        wait_until(lambda: watched.worker.status is Status.PAUSED)
        watched.worker.limit(None)
        watched.worker.resume()
        wait_until(lambda: watched.frames == [0, 2, 3, 4])
        assert watched.worker.max_fps is None


def test_a_spared_device_keeps_the_limit_that_was_set() -> None:
    """Of two limits the lower one holds, and the other comes back when the device is well."""
    watched = Watched(ScriptedSource([]), max_fps=5)
    watched.worker.adapt(Level(4, 2.0))
    assert watched.worker.max_fps == 2.0
    watched.worker.adapt(AS_CONFIGURED)
    assert watched.worker.max_fps == 5


def test_the_rate_that_is_told_is_that_of_now() -> None:
    """A health report follows each adaptation at once; and a pause is no part of what was seen before and after it."""
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


def test_waiting_for_a_camera_is_no_hang() -> None:
    """A camera that is away for long, which the agent handles, brings no watchdog."""
    with running(Watched(ScriptedSource([]), retry_s=600)) as watched:
        wait_until(lambda: watched.worker.faults == 1)
        assert gives_signs_of_life(watched.worker)


def test_a_pause_is_no_hang() -> None:
    """A camera that nobody wants brings no watchdog."""
    with running(Watched(ScriptedSource([]), paused=True)) as watched:
        wait_until(lambda: watched.worker.status is Status.PAUSED)
        assert gives_signs_of_life(watched.worker)


def test_a_limit_is_no_hang() -> None:
    """A frame an hour brings no watchdog."""
    with running(Watched(ScriptedSource([map(frame, range(2))]), max_fps=1 / 3600)) as watched:
        wait_until(lambda: watched.worker.work.frames == 1)
        assert gives_signs_of_life(watched.worker)


def test_a_pipeline_that_stands_still_is_a_hang() -> None:
    """What the agent cannot handle is left to the watchdog."""
    release = threading.Event()
    source = ScriptedSource([[frame(0)]])
    with running(Watched(source, on_frame=lambda _: wait_until(release.is_set))) as watched:
        wait_until(lambda: watched.frames)
        assert not gives_signs_of_life(watched.worker, within_s=2)
        release.set()


def hangs() -> DriverHangs:
    """What a source says whose driver has not come back."""
    return DriverHangs(where="/dev/video0", remedy="Check its cable")


def test_a_driver_that_never_returns_is_left_to_the_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    """For ten minutes waiting for it is no hang, so that the other cameras go on; then a restart is to help."""
    with running(Watched(ScriptedSource([hangs()]), retry_s=600)) as watched:
        wait_until(lambda: watched.worker.faults == 1)
        assert gives_signs_of_life(watched.worker)
        monkeypatch.setattr(camera, "_HANG_PATIENCE_S", 0.0)
        assert not gives_signs_of_life(watched.worker, within_s=2)
        watched.worker.pause()
        wait_until(lambda: watched.worker.status is Status.PAUSED)
        assert gives_signs_of_life(watched.worker)


def test_a_driver_that_has_come_back_is_waited_for_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that hangs now and then does not add up to ten minutes."""
    monkeypatch.setattr(camera, "_HANG_PATIENCE_S", 0.0)
    source = ScriptedSource([hangs(), [frame(0), SourceLost("gone")], hangs(), SourceUnavailable("not there")])
    with running(Watched(source)) as watched:
        wait_until(lambda: watched.worker.faults > 4)
        assert gives_signs_of_life(watched.worker)
    with running(Watched(ScriptedSource([hangs(), [frame(0)]]))) as watched:
        wait_until(lambda: watched.frames == [0])
        assert watched.worker._hangs_since_s is None
