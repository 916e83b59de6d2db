"""Limits how often frames are processed."""

from __future__ import annotations

from typing import Final

MIN_FPS: Final = 0.1
"""The lowest limit that can be requested, in frames per second. The expiry of a camera's state depends on it."""


class RateLimiter:
    """Tells when the next frame is due, under the lower of two limits. Thread-safe.

    Args:
        requested_fps: Limit requested by a user, in frames per second; None for no limit.

    Attributes:
        requested_fps: As above.
        adapted_fps: Limit of the current adaptation level; None for no limit.
    """

    def __init__(self, requested_fps: float | None = None) -> None:
        self.requested_fps = requested_fps
        self.adapted_fps: float | None = None
        self._taken_s = float("-inf")

    @property
    def max_fps(self) -> float | None:
        """The limit in force; None if there is none."""
        return min((fps for fps in (self.requested_fps, self.adapted_fps) if fps is not None), default=None)

    def wait_s(self, now_s: float) -> float:
        """Returns the time until the next frame is due; 0 or less if it is due now."""
        max_fps = self.max_fps
        return self._taken_s + 1 / max_fps - now_s if max_fps is not None else 0.0

    def frame_taken(self, now_s: float) -> None:
        """Records the time at which a frame was taken."""
        self._taken_s = now_s
