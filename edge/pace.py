"""How often a camera's frames are taken: at the lowest of the limits that hold."""

from __future__ import annotations

from typing import Final

LOWEST_FPS: Final = 0.1
"""The lowest limit that may be asked for, in frames a second. How long a state lasts goes by it."""


class Pace:
    """Says when the next frame's turn is. Any thread may ask, and set limits.

    Args:
        wanted_fps: Limit that somebody asked for, in frames a second; None for none.
    """

    def __init__(self, wanted_fps: float | None = None) -> None:
        self.wanted_fps = wanted_fps
        self.adapted_fps: float | None = None
        self._taken_s = float("-inf")

    @property
    def max_fps(self) -> float | None:
        """The limit in force; None if there is none."""
        return min((fps for fps in (self.wanted_fps, self.adapted_fps) if fps is not None), default=None)

    def left_s(self, now_s: float) -> float:
        """How long the next frame has to wait yet; 0 or less if it is due."""
        max_fps = self.max_fps
        return self._taken_s + 1 / max_fps - now_s if max_fps is not None else 0.0

    def take(self, now_s: float) -> None:
        """Notes that a frame was taken."""
        self._taken_s = now_s
