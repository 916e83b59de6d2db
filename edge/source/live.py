"""Live pictures through OpenCV: a thread keeps up with the camera or stream and hands over its newest frame."""

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
from edge.pace import Pace
from edge.source.newest import NewestFrame
from edge.source.opencv import as_bgr

log = logging.getLogger(__name__)

_JOIN_TIMEOUT_S = 0.75
"""Less than a stopping agent waits for its cameras, and several frames long."""
_CHECK = "Check its cable, power and network"


class Capture(Protocol):
    """The part of `cv2.VideoCapture` that a live source uses."""

    def grab(self) -> bool: ...
    def retrieve(self) -> tuple[bool, Any]: ...
    def get(self, prop_id: int, /) -> float: ...
    def release(self) -> None: ...


class LiveSource:
    """A camera or stream. Whatever OpenCV may hang in happens in a thread that nobody waits for without a limit.

    Args:
        label: What to call it in errors and logs; no secrets.
        open_capture: Opens it; may raise `SourceUnavailable`.
        pace: How often it will be read. What comes too early to be taken is not even
            retrieved, which spares a camera's frames their decoding, but not those of a stream.
        open_timeout_s: After this time an attempt to open it is given up.
        stall_timeout_s: After this time without a frame it is lost.
    """

    def __init__(
        self,
        *,
        label: str,
        open_capture: Callable[[], Capture],
        pace: Pace | None = None,
        open_timeout_s: float = 10.0,
        stall_timeout_s: float = 10.0,
    ) -> None:
        self._label = label
        self._open_capture = open_capture
        self._pace = pace or Pace()
        self._open_timeout_s = open_timeout_s
        self._stall_timeout_s = stall_timeout_s
        self._grabber: _Grabber | None = None
        self._described = ""

    def __enter__(self) -> Self:
        if self._grabber is not None and self._grabber.is_alive():  # a second thread would only hang beside it
            raise DriverHangs(where=self._label, remedy=_CHECK)
        self._grabber = _Grabber(self._label, self._open_capture, self._pace)
        self._grabber.start()
        try:
            description = self._grabber.opened.result(self._open_timeout_s)
        except TimeoutError as error:
            self._grabber.stop()
            raise SourceUnavailable(
                f"did not open within {self._open_timeout_s:g} s", where=self._label, remedy=_CHECK
            ) from error
        if description != self._described:  # no news at every attempt with a camera that opens and gives no frames
            log.info("%s is open: %s", self._label, description)
            self._described = description
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._grabber is None:
            return
        self._grabber.stop()
        self._grabber.join(_JOIN_TIMEOUT_S)
        if self._grabber.is_alive():
            log.debug("%s hangs in its driver and closes when that lets go", self._label)

    def read(self, timeout_s: float) -> Frame | None:
        if self._grabber is None:
            raise SourceLost("is not open", where=self._label)
        grabber = self._grabber
        patience_s = grabber.newest_s + self._stall_timeout_s - time.monotonic()
        frame = grabber.newest.take(max(0.0, min(timeout_s, patience_s)))
        if frame is not None:
            return frame
        if grabber.newest.closed:
            raise SourceLost("gives no more frames", where=self._label, remedy=_CHECK)
        if time.monotonic() >= grabber.newest_s + self._stall_timeout_s:
            raise SourceLost(f"gave no frame for {self._stall_timeout_s:g} s", where=self._label, remedy=_CHECK)
        return None

    @property
    def dropped(self) -> int:
        return self._grabber.newest.dropped if self._grabber is not None else 0


class _Grabber(threading.Thread):
    """Owns one capture from opening to release, because OpenCV breaks when another thread releases it.

    Attributes:
        opened: What the capture gives, once it is open.
        newest: Its newest frame, if it is wanted.
        newest_s: When that came, wanted or not.
    """

    def __init__(self, label: str, open_capture: Callable[[], Capture], pace: Pace) -> None:
        super().__init__(name=f"grab-{label}", daemon=True)
        self.opened: Future[str] = Future()
        self.newest = NewestFrame()
        self.newest_s = 0.0
        self._pace = pace
        self._open_capture = open_capture
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        try:
            capture = self._open_capture()
        except Exception as error:  # noqa: BLE001  # told to the thread that waits for it
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
            if self._pace.left_s(time_s) > gap_s:  # the next one comes in time for the reader's turn
                self.newest.skip()
                self.newest_s = time_s
                continue
            complete, image = capture.retrieve()
            picture = as_bgr(image) if complete else None
            if picture is not None:
                self.newest.put(Frame(image_bgr=picture, index=index, time_s=time_s, mono_s=time_s))
                self.newest_s = time_s


def _describe(capture: Capture) -> str:
    width, height = (round(capture.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    return f"{width}x{height} at {capture.get(cv2.CAP_PROP_FPS):g} frames a second"
