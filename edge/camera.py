"""The thread of one camera: reads its source into the pipeline, and reopens the source after a failure."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from edge.adapt import Level
from edge.backoff import Backoff
from edge.domain import Frame
from edge.errors import DriverHangs, SourceError
from edge.payloads import Status
from edge.pipeline import Pipeline
from edge.ports import Source
from edge.rate_limit import RateLimiter

log = logging.getLogger(__name__)

_READ_TIMEOUT_S = 0.5
_FPS_OVER_FRAMES = 50
_STALE_S = 10.0
_STABLE_AFTER_S = 10.0
"""A source that has delivered frames for this long has recovered: the backoff and the logged faults are reset."""
_MAX_RETRY_DELAY_S = 10.0
_MAX_LOGGED_FAULTS = 100
"""Messages remembered as logged. A message may contain an address or a time, and so differ each time."""
_MAX_DRIVER_HANG_S = 600.0
"""How long a hung driver is waited for. After that the thread counts as hung, as only a restart may help."""


@dataclass(frozen=True, slots=True)
class WorkStats:
    """Counters of a camera thread.

    Attributes:
        busy_s: Time spent processing frames since the start.
        frames: Frames processed since the start.
        dropped: Frames dropped since the source was opened.
    """

    busy_s: float
    frames: int
    dropped: int


class CameraWorker:
    """A thread that processes the frames of one camera until it is stopped or the recording ends.

    Args:
        name: The camera's name.
        source: The source of its frames.
        pipeline: Processes the frames.
        on_status: Called with name and status when the camera goes online or offline, or is paused.
        paused: Whether the camera starts paused.
        limiter: Limits the frame rate, and may be shared with the source; None for no limit at first.
        backoff: Delay between attempts to reopen the source; reset once the source is stable.
    """

    def __init__(
        self,
        *,
        name: str,
        source: Source,
        pipeline: Pipeline,
        on_status: Callable[[str, Status], None],
        paused: bool = False,
        limiter: RateLimiter | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self.name = name
        self.pipeline = pipeline
        self._paused = paused
        self.status = self._idle_status
        self.faults = 0
        self._source = source
        self._on_status = on_status
        self._backoff = backoff or Backoff(limit_s=_MAX_RETRY_DELAY_S)
        self._hangs_since_s: float | None = None
        self._opened_s = 0.0
        self._logged: set[str] = set()
        self._stopping = threading.Event()
        self._active = threading.Event()
        if not paused:
            self._active.set()
        self._frame_times_s: deque[float] = deque(maxlen=_FPS_OVER_FRAMES)
        self._limiter = limiter or RateLimiter()
        self._busy_s = 0.0
        self._frames_processed = 0
        self._progress_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"camera-{name}", daemon=True)

    def start(self) -> None:
        """Starts the thread, after replacing retained messages that a killed agent may have left behind."""
        self.pipeline.publish_empty()
        self._on_status(self.name, self.status)
        self._thread.start()

    def stop(self) -> None:
        """Tells the thread to end, without waiting for it. Does not resume a paused camera."""
        self._stopping.set()
        self._active.set()

    def join(self, timeout_s: float) -> None:
        """Waits up to `timeout_s` for the thread to end."""
        self._thread.join(timeout_s)

    def pause(self) -> None:
        """Closes the camera until `resume`."""
        self._paused = True
        self._active.clear()

    def resume(self) -> None:
        """Opens the camera again."""
        self._paused = False
        self._active.set()

    def limit(self, max_fps: float | None) -> None:
        """Limits the frames processed per second; None lifts the limit.

        Between frames the thread sleeps. A live source drops the frames that arrive meanwhile; a recording waits, so
        it takes longer and loses no frame.
        """
        self._limiter.requested_fps = max_fps
        self._frame_times_s.clear()  # earlier times do not reflect the new rate

    def adapt(self, level: Level) -> None:
        """Applies an adaptation level. A limit set with `limit` stays in force."""
        self._limiter.adapted_fps = level.max_fps
        self.pipeline.adapt(level)

    @property
    def max_fps(self) -> float | None:
        """The frame rate limit in force; None for no limit."""
        return self._limiter.max_fps

    @property
    def stats(self) -> WorkStats:
        """What the thread has done so far."""
        return WorkStats(self._busy_s, self._frames_processed, self.dropped)

    @property
    def finished(self) -> bool:
        """Whether the thread has ended."""
        return self._thread.ident is not None and not self._thread.is_alive()

    @property
    def unresponsive_s(self) -> float:
        """Time since the thread last made progress.

        Waiting for a lost or paused camera counts as progress; waiting for a hung driver does for ten minutes.
        """
        return time.monotonic() - self._progress_s

    @property
    def dropped(self) -> int:
        """Frames dropped since the source was opened."""
        return self._source.dropped

    @property
    def fps(self) -> float:
        """Frames processed per second, over the last fifty since the source was opened."""
        times, max_fps = list(self._frame_times_s), self.max_fps
        stale_s = max(_STALE_S, 2 / max_fps if max_fps else 0.0)
        if len(times) < 2 or time.monotonic() - times[-1] > stale_s:
            return 0.0
        fps = (len(times) - 1) / max(times[-1] - times[0], 1e-9)
        return min(fps, max_fps) if max_fps else fps  # a new limit takes effect at once

    def _run(self) -> None:
        while not self._stopping.is_set():
            if not self._active.is_set():
                self._wait_while_paused()
                continue
            try:
                self._process_frames()
            except EOFError:
                log.info("camera %s: end of the recording", self.name)
                break
            except Exception as fault:  # noqa: BLE001 - a pipeline error too: later frames may be fine
                self._handle_fault(fault)
        self._set_status(self._idle_status)

    def _process_frames(self) -> None:
        """Opens the source and processes its frames until the thread is paused or stopped.

        Raises:
            SourceError: The source failed.
            EOFError: The recording has ended.
        """
        with self._source:
            self._opened_s = time.monotonic()
            self._hangs_since_s = None
            self._frame_times_s.clear()
            try:
                while not self._stopping.is_set() and self._active.is_set():
                    if not self._wait_until_due():
                        continue
                    frame = self._source.read(_READ_TIMEOUT_S)
                    self._progress_s = time.monotonic()
                    if frame is not None:
                        self._process(frame, self._progress_s)
            finally:
                self.pipeline.finish()  # before closing the source, which may take longer than the stop timeout

    def _handle_fault(self, fault: Exception) -> None:
        """Counts and logs a fault of the source or the pipeline, then waits before the next attempt."""
        self.faults += 1
        if not isinstance(fault, DriverHangs):
            self._hangs_since_s = None
        elif self._hangs_since_s is None:
            self._hangs_since_s = time.monotonic()
        self._log_fault(fault)
        self._set_status(Status.OFFLINE)
        self._wait(self._backoff.delay_s())

    def _log_fault(self, fault: Exception) -> None:
        """Logs a fault once until the camera is stable again, and a limited number of different ones."""
        if str(fault) in self._logged or len(self._logged) >= _MAX_LOGGED_FAULTS:
            return
        self._logged.add(str(fault))
        if isinstance(fault, SourceError):
            log.warning("camera %s: %s Retrying", self.name, fault)
        else:
            log.error("camera %s: the pipeline failed. Retrying", self.name, exc_info=fault)

    def _wait_until_due(self) -> bool:
        """Returns whether the next frame is due. If not, first sleeps briefly, as a pause or a new limit may come."""
        self._progress_s = now_s = time.monotonic()
        wait_s = self._limiter.wait_s(now_s)
        if wait_s > 0:
            self._stopping.wait(min(wait_s, _READ_TIMEOUT_S))
        return wait_s <= 0

    def _process(self, frame: Frame, started_s: float) -> None:
        self._limiter.frame_taken(started_s)
        self.pipeline.process(frame)
        done_s = time.monotonic()
        self._busy_s += done_s - started_s
        self._frames_processed += 1
        self._frame_times_s.append(done_s)
        self._set_status(Status.ONLINE)
        if done_s - self._opened_s >= _STABLE_AFTER_S:
            self._backoff.reset()
            self._logged.clear()

    def _wait_while_paused(self) -> None:
        self._set_status(self._idle_status)
        while not self._stopping.is_set() and not self._active.wait(_READ_TIMEOUT_S):
            self._progress_s = time.monotonic()
        self._set_status(self._idle_status)

    def _wait(self, seconds: float) -> None:
        """Sleeps until the time is over, or the thread is stopped or paused."""
        until_s = time.monotonic() + seconds
        while self._active.is_set() and (left_s := until_s - time.monotonic()) > 0:
            if self._hangs_since_s is None or time.monotonic() - self._hangs_since_s < _MAX_DRIVER_HANG_S:
                self._progress_s = time.monotonic()
            if self._stopping.wait(min(left_s, _READ_TIMEOUT_S)):
                return

    @property
    def _idle_status(self) -> Status:
        return Status.PAUSED if self._paused else Status.OFFLINE

    def _set_status(self, status: Status) -> None:
        if status is not self.status:
            self.status = status
            self._on_status(self.name, status)
            log.info("camera %s is %s", self.name, status)
