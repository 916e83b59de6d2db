"""A one-place mailbox between the thread that takes frames and the loop that reads them: the newest frame wins."""

from __future__ import annotations

import threading

from edge.domain import Frame


class NewestFrame:
    """Holds the newest frame until somebody takes it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._dropped = 0
        self._closed = False

    def put(self, frame: Frame) -> None:
        """Lay down a frame; one that nobody has taken is dropped for it."""
        with self._changed:
            if self._frame is not None:
                self._dropped += 1
            self._frame = frame
            self._changed.notify()

    def skip(self) -> None:
        """Note a frame that nobody wants yet. One that still waits is not the newest any more, and dropped as well."""
        with self._changed:
            self._dropped += 1 if self._frame is None else 2
            self._frame = None

    def take(self, timeout_s: float) -> Frame | None:
        """The newest frame that was not taken yet; None if none comes in time, or ever."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._closed, timeout_s)
            frame, self._frame = self._frame, None
            return frame

    def close(self) -> None:
        """Say that no more frames come."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    @property
    def closed(self) -> bool:
        """Whether no more frames come; one may still be waiting."""
        return self._closed

    @property
    def dropped(self) -> int:
        """How many frames were dropped for a newer one, or before anybody wanted them."""
        return self._dropped
