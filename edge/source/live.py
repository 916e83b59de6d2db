"""Live cameras and streams through OpenCV: a thread grabs all frames and keeps the newest one."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, Self

import cv2

from edge.domain import Frame
from edge.errors import DriverHangs, SourceLost, SourceUnavailable
from edge.rate_limit import RateLimiter
from edge.source.newest import NewestFrame
from edge.source.opencv import as_bgr

log = logging.getLogger(__name__)

_JOIN_TIMEOUT_S = 0.75
"""Several frames long, but shorter than the agent's stop timeout."""
_REMEDY = "Check its cable, power and network"


class Capture(Protocol):
    """The part of `cv2.VideoCapture` that a live source uses."""

    def grab(self) -> bool: ...
    def retrieve(self) -> tuple[bool, Any]: ...
    def get(self, prop_id: int, /) -> float: ...
    def release(self) -> None: ...


class LiveSource:
    """A camera or stream. All OpenCV calls that may hang run in a thread, which is waited for with a timeout only.

    Args:
        label: Name for errors and logs, without credentials.
        open_capture: Opens the capture; may raise `SourceUnavailable`.
        limiter: How often frames will be read. Frames that are not due are not retrieved, which saves decoding them
            for a camera, but not for a stream.
        open_timeout_s: Time limit for opening.
        stall_timeout_s: Time without a frame after which the source is lost.
    """

    def __init__(
        self,
        *,
        label: str,
        open_capture: Callable[[], Capture],
        limiter: RateLimiter | None = None,
        open_timeout_s: float = 10.0,
        stall_timeout_s: float = 10.0,
    ) -> None:
        self._label = label
        self._open_capture = open_capture
        self._limiter = limiter or RateLimiter()
        self._open_timeout_s = open_timeout_s
        self._stall_timeout_s = stall_timeout_s
        self._grabber: _Grabber | None = None
        self._described = ""

    def __enter__(self) -> Self:
        if self._grabber is not None and self._grabber.is_alive():  # another thread would hang as well
            raise DriverHangs(where=self._label, remedy=_REMEDY)
        self._grabber = _Grabber(self._label, self._open_capture, self._limiter)
        self._grabber.start()
        try:
            description = self._grabber.opened.result(self._open_timeout_s)
        except TimeoutError as error:
            self._grabber.stop()
            raise SourceUnavailable(
                f"did not open within {self._open_timeout_s:g} s", where=self._label, remedy=_REMEDY
            ) from error
        if description != self._described:  # not logged again at every retry
            log.info("%s is open: %s", self._label, description)
            self._described = description
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._grabber is None:
            return
        self._grabber.stop()
        self._grabber.join(_JOIN_TIMEOUT_S)
        if self._grabber.is_alive():
            log.debug("%s: the driver hangs; the capture is released once it returns", self._label)

    def read(self, timeout_s: float) -> Frame | None:
        if self._grabber is None:
            raise SourceLost("is not open", where=self._label)
        grabber = self._grabber
        left_s = grabber.newest_s + self._stall_timeout_s - time.monotonic()
        frame = grabber.newest.take(max(0.0, min(timeout_s, left_s)))
        if frame is not None:
            return frame
        if grabber.newest.closed:
            raise SourceLost("stopped delivering frames", where=self._label, remedy=_REMEDY)
        if time.monotonic() >= grabber.newest_s + self._stall_timeout_s:
            raise SourceLost(f"no frame for {self._stall_timeout_s:g} s", where=self._label, remedy=_REMEDY)
        return None

    @property
    def dropped(self) -> int:
        return self._grabber.newest.dropped if self._grabber is not None else 0


class _Grabber(threading.Thread):
    """Thread that owns one capture from opening to release, because OpenCV fails if another thread releases it.

    Attributes:
        opened: Resolves to a description of the capture once it is open.
        newest: The newest retrieved frame.
        newest_s: Time of the newest frame, whether or not it was retrieved.
    """

    def __init__(self, label: str, open_capture: Callable[[], Capture], limiter: RateLimiter) -> None:
        super().__init__(name=f"grab-{label}", daemon=True)
        self.opened: Future[str] = Future()
        self.newest = NewestFrame()
        self.newest_s = 0.0
        self._limiter = limiter
        self._open_capture = open_capture
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        try:
            capture = self._open_capture()
        except Exception as error:  # noqa: BLE001  # re-raised in the opening thread
            self.opened.set_exception(error)
            return
        try:
            self.newest_s = time.monotonic()
            self.opened.set_result(_describe(capture))
            self._grab_from(capture)
        finally:
            capture.release()
            self.newest.close()

    def _grab_from(self, capture: Capture) -> None:
        before_s = float("-inf")
        for index in itertools.count():
            if self._stopping.is_set() or not capture.grab():
                return
            time_s = time.monotonic()
            gap_s, before_s = time_s - before_s, time_s
            if self._limiter.wait_s(time_s) > gap_s:  # the next frame will still arrive in time
                self.newest.skip()
                self.newest_s = time_s
                continue
            ok, image = capture.retrieve()
            image_bgr = as_bgr(image) if ok else None
            if image_bgr is not None:
                self.newest.put(Frame(image_bgr=image_bgr, index=index, time_s=time_s, mono_s=time_s))
                self.newest_s = time_s


def _describe(capture: Capture) -> str:
    width, height = (round(capture.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    return f"{width}x{height} at {capture.get(cv2.CAP_PROP_FPS):g} fps"
