"""One camera at work: opens its source, feeds its pipeline, and when the source fails closes it and tries again."""

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
from edge.pace import Pace
from edge.payloads import Status
from edge.pipeline import Pipeline
from edge.ports import Source

log = logging.getLogger(__name__)

_READ_TIMEOUT_S = 0.5
_FPS_OVER_FRAMES = 50
_STALE_S = 10.0
_STEADY_S = 10.0
"""A source that has given frames for so long works again; one that fails sooner is tried less and less often."""
_LONGEST_PAUSE_S = 10.0
_MOST_TOLD = 100
"""Faults of which it is remembered that they were told. A text may hold an address or a time, and never come again."""
_HANG_PATIENCE_S = 600.0
"""For so long a driver that hangs is waited for; from then on only a restart of the agent can help, if anything can."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a camera's thread has done since its start.

    Attributes:
        busy_s: Time that went into frames.
        frames: How many there were.
        dropped: How many were passed over since the source was opened.
    """

    busy_s: float
    frames: int
    dropped: int


class CameraWorker:
    """A thread that looks through one camera until it is stopped or the recording ends.

    Args:
        name: The camera's name.
        source: Where its frames come from.
        pipeline: What is done with them.
        on_status: Told when the camera comes online, goes offline or is paused.
        paused: Whether it begins paused.
        pace: How often it takes a frame, for a source that is to know it too; without, whenever there is time.
        backoff: How long to wait before it is opened again; anew when it has worked for a while.
    """

    def __init__(
        self,
        *,
        name: str,
        source: Source,
        pipeline: Pipeline,
        on_status: Callable[[str, Status], None],
        paused: bool = False,
        pace: Pace | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self.name = name
        self.pipeline = pipeline
        self._paused = paused
        self.status = self._status_unless_seeing
        self.faults = 0
        self._source = source
        self._on_status = on_status
        self._backoff = backoff or Backoff(limit_s=_LONGEST_PAUSE_S)
        self._hangs_since_s: float | None = None
        self._opened_s = 0.0
        self._told: set[str] = set()
        self._stopping = threading.Event()
        self._active = threading.Event()
        if not paused:
            self._active.set()
        self._frame_times_s: deque[float] = deque(maxlen=_FPS_OVER_FRAMES)
        self._pace = pace or Pace()
        self._busy_s = 0.0
        self._frames_seen = 0
        self._progress_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"camera-{name}", daemon=True)

    def start(self) -> None:
        """Begins to look. What an agent that was killed has said of this camera is taken back first."""
        self.pipeline.vacate()
        self._on_status(self.name, self.status)
        self._thread.start()

    def stop(self) -> None:
        """Asks the thread to end; does not wait for it. A camera that is paused stays so: nobody has resumed it."""
        self._stopping.set()
        self._active.set()

    def join(self, timeout_s: float) -> None:
        """Waits for the thread to end, `timeout_s` at the most."""
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
        """Analyses at most so many frames a second; None lifts the limit.

        Between frames the thread sleeps. A live source passes over what comes meanwhile; a recording waits, so that
        it takes longer and no frame of it is left out.
        """
        self._pace.wanted_fps = max_fps
        self._frame_times_s.clear()  # what came before says nothing of the new rate

    def adapt(self, level: Level) -> None:
        """Does as much as the device can bear at present; a limit that was set still holds."""
        self._pace.adapted_fps = level.max_fps
        self.pipeline.adapt(level)

    @property
    def max_fps(self) -> float | None:
        """Most frames that are analysed a second at present; None for no limit."""
        return self._pace.max_fps

    @property
    def work(self) -> Work:
        """What the thread has done so far."""
        return Work(self._busy_s, self._frames_seen, self.dropped)

    @property
    def finished(self) -> bool:
        """Whether the thread has ended."""
        return self._thread.ident is not None and not self._thread.is_alive()

    @property
    def stuck_s(self) -> float:
        """For how long the thread has shown no sign of life.

        Waiting for a lost or paused camera is one; waiting for a driver that hangs is one for ten minutes.
        """
        return time.monotonic() - self._progress_s

    @property
    def dropped(self) -> int:
        """Frames passed over since the source was opened."""
        return self._source.dropped

    @property
    def fps(self) -> float:
        """Frames analysed a second, over the newest fifty since the source was opened."""
        times, max_fps = list(self._frame_times_s), self.max_fps
        stale_s = max(_STALE_S, 2 / max_fps if max_fps else 0.0)
        if len(times) < 2 or time.monotonic() - times[-1] > stale_s:
            return 0.0
        fps = (len(times) - 1) / max(times[-1] - times[0], 1e-9)
        return min(fps, max_fps) if max_fps else fps  # a limit that was just set holds from now on

    def _run(self) -> None:
        while not self._stopping.is_set():
            if not self._active.is_set():
                self._rest()
                continue
            try:
                self._look()
            except EOFError:
                log.info("camera %s: the recording is at its end", self.name)
                break
            except Exception as fault:  # noqa: BLE001 - of the pipeline too: what follows may be sound
                self._fail(fault)
        self._set_status(self._status_unless_seeing)

    def _look(self) -> None:
        """Looks through the source until told otherwise.

        Raises:
            SourceError: It fails.
            EOFError: It is a recording and at its end.
        """
        with self._source:
            self._opened_s = time.monotonic()
            self._hangs_since_s = None
            self._frame_times_s.clear()
            try:
                while not self._stopping.is_set() and self._active.is_set():
                    if not self._due():
                        continue
                    frame = self._source.read(_READ_TIMEOUT_S)
                    self._progress_s = time.monotonic()
                    if frame is not None:
                        self._process(frame, self._progress_s)
            finally:
                self.pipeline.finish()  # before the source closes, which may take longer than there is time for

    def _fail(self, fault: Exception) -> None:
        """Counts a fault of the source or the pipeline, and waits before the next attempt."""
        self.faults += 1
        if not isinstance(fault, DriverHangs):
            self._hangs_since_s = None
        elif self._hangs_since_s is None:
            self._hangs_since_s = time.monotonic()
        self._tell(fault)
        self._set_status(Status.OFFLINE)
        self._wait(self._backoff.delay_s())

    def _tell(self, fault: Exception) -> None:
        """Logs a fault, once until the camera has worked for a while, and not faults without end."""
        if str(fault) in self._told or len(self._told) >= _MOST_TOLD:
            return
        self._told.add(str(fault))
        if isinstance(fault, SourceError):
            log.warning("camera %s: %s Trying again", self.name, fault)
        else:
            log.error("camera %s: the pipeline failed. Trying again", self.name, exc_info=fault)

    def _due(self) -> bool:
        """Whether it is the next frame's turn. If not, sleeps a little: a pause or another limit may come meanwhile."""
        self._progress_s = now_s = time.monotonic()
        left_s = self._pace.left_s(now_s)
        if left_s > 0:
            self._stopping.wait(min(left_s, _READ_TIMEOUT_S))
        return left_s <= 0

    def _process(self, frame: Frame, started_s: float) -> None:
        self._pace.take(started_s)
        self.pipeline.process(frame)
        done_s = time.monotonic()
        self._busy_s += done_s - started_s
        self._frames_seen += 1
        self._frame_times_s.append(done_s)
        self._set_status(Status.ONLINE)
        if done_s - self._opened_s >= _STEADY_S:
            self._backoff.reset()
            self._told.clear()

    def _rest(self) -> None:
        self._set_status(self._status_unless_seeing)
        while not self._stopping.is_set() and not self._active.wait(_READ_TIMEOUT_S):
            self._progress_s = time.monotonic()
        self._set_status(self._status_unless_seeing)

    def _wait(self, seconds: float) -> None:
        """Waits, unless the thread is to stop or to rest."""
        until_s = time.monotonic() + seconds
        while self._active.is_set() and (left_s := until_s - time.monotonic()) > 0:
            if self._hangs_since_s is None or time.monotonic() - self._hangs_since_s < _HANG_PATIENCE_S:
                self._progress_s = time.monotonic()
            if self._stopping.wait(min(left_s, _READ_TIMEOUT_S)):
                return

    @property
    def _status_unless_seeing(self) -> Status:
        return Status.PAUSED if self._paused else Status.OFFLINE

    def _set_status(self, status: Status) -> None:
        if status is not self.status:
            self.status = status
            self._on_status(self.name, status)
            log.info("camera %s is %s", self.name, status)
