"""A single-slot buffer between the grabbing and the reading thread, in which the newest frame wins."""

from __future__ import annotations

import threading

from edge.domain import Frame


class NewestFrame:
    """Holds the newest frame until it is taken."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._dropped = 0
        self._closed = False

    def put(self, frame: Frame) -> None:
        """Stores a frame. One that was not taken yet is dropped."""
        with self._changed:
            if self._frame is not None:
                self._dropped += 1
            self._frame = frame
            self._changed.notify()

    def skip(self) -> None:
        """Counts a frame that is not due as dropped, along with an older one that was not taken yet."""
        with self._changed:
            self._dropped += 1 if self._frame is None else 2
            self._frame = None

    def take(self, timeout_s: float) -> Frame | None:
        """Returns the newest frame and removes it; None if there is none in time, or none left after `close`."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._closed, timeout_s)
            frame, self._frame = self._frame, None
            return frame

    def close(self) -> None:
        """Signals that there will be no more frames."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    @property
    def closed(self) -> bool:
        """Whether there will be no more frames; the last one may not have been taken yet."""
        return self._closed

    @property
    def dropped(self) -> int:
        """Number of frames dropped because a newer one arrived or because they were not due."""
        return self._dropped
