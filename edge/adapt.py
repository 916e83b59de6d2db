"""How much the device is asked to do: a ladder of levels, down when it suffers, up again when it is well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Reason = Literal["throttled", "hot", "behind"]
"""The firmware slows the processor down; it is about to; a live camera gives more frames than can be analysed."""

_LOWER_AFTER_S: Final = 10.0
"""A step down needs this long to show its effect, and a start this long to become steady."""
_RAISE_AFTER_S: Final = 60.0
_LONGEST_PATIENCE_S: Final = 960.0
_EVERY_FRAME_S: Final = 0.1
"""What counts as the time between two detections when every frame is searched."""

_BEHIND_BUSY, _BEHIND_DROPPED = 0.9, 0.2
_AT_EASE_BUSY, _AT_EASE_DROPPED = 0.6, 0.05


@dataclass(frozen=True, slots=True)
class Level:
    """One step of the ladder.

    Attributes:
        detection_factor: How many times more seldom faces are looked for than configured.
        max_fps: Most frames analysed a second and camera; None for no limit.
    """

    detection_factor: int = 1
    max_fps: float | None = None

    def detection_interval_s(self, configured_s: float) -> float:
        """The least time between two detections on this level."""
        if self.detection_factor == 1:
            return configured_s
        return max(configured_s, _EVERY_FRAME_S) * self.detection_factor


AS_CONFIGURED: Final = Level()
LADDER: Final = (AS_CONFIGURED, Level(2), Level(4), Level(4, 10.0), Level(4, 5.0), Level(4, 2.0))
"""Detection goes first: between two detections, faces are still classified where they were."""


@dataclass(frozen=True, slots=True)
class Load:
    """How one camera kept up since the last look.

    Attributes:
        busy: Share of the time in which its thread worked on frames, 0 to 1.
        dropped: Share of the source's frames that nobody had time for, 0 to 1; always 0 for a recording that waits.
    """

    busy: float
    dropped: float

    @property
    def behind(self) -> bool:
        """Whether frames are lost for want of time, and not because a limit was set."""
        return self.busy >= _BEHIND_BUSY and self.dropped >= _BEHIND_DROPPED

    @property
    def at_ease(self) -> bool:
        """Whether there is time to spare."""
        return self.busy < _AT_EASE_BUSY or self.dropped < _AT_EASE_DROPPED


@dataclass(frozen=True, slots=True)
class Condition:
    """How the device is at one moment; None where the machine does not tell."""

    throttling: tuple[str, ...] | None
    temperature_c: float | None
    loads: Sequence[Load]


class Adaptation:
    """Where on the ladder the device stands.

    One sign of strain leads a step down, the next one not before that step had time to work. A step up needs the
    device to be well for a minute without a break. When a step up turns out wrong, the next one waits twice as long, so
    that a device between two levels settles on the lower one.

    Args:
        hot_c: From this temperature on, in degrees Celsius, the device counts as hot.
        cool_c: Below this one it is cool again.
        now_s: When it starts, on a clock that never jumps.
    """

    def __init__(self, *, hot_c: float, cool_c: float, now_s: float) -> None:
        self._hot_c, self._cool_c = hot_c, cool_c
        self.number = 0
        self.reasons: tuple[Reason, ...] = ()
        self._changed_s = self._unwell_s = now_s
        self._raised_s: float | None = None
        self._patience_s = _RAISE_AFTER_S

    @property
    def level(self) -> Level:
        """The level in force."""
        return LADDER[self.number]

    def update(self, condition: Condition, now_s: float) -> bool:
        """Takes a look at the device. To be called every few seconds.

        Args:
            condition: How the device is.
            now_s: On the same clock.

        Returns:
            Whether the level changed.
        """
        reasons = self._strain(condition)
        if reasons or not self._is_well(condition):
            self._unwell_s = now_s
        if reasons and now_s - self._changed_s >= _LOWER_AFTER_S and self.number + 1 < len(LADDER):
            self._lower(reasons, now_s)
        elif now_s - max(self._unwell_s, self._changed_s) >= self._patience_s and self.number > 0:
            self._raise(now_s)
        return self._changed_s == now_s

    def _strain(self, condition: Condition) -> tuple[Reason, ...]:
        temperature_c = condition.temperature_c
        signs: dict[Reason, bool] = {
            "throttled": bool(condition.throttling),
            "hot": temperature_c is not None and temperature_c >= self._hot_c,
            "behind": any(load.behind for load in condition.loads),
        }
        return tuple(reason for reason, holds in signs.items() if holds)

    def _is_well(self, condition: Condition) -> bool:
        cool = condition.temperature_c is None or condition.temperature_c < self._cool_c
        return cool and all(load.at_ease for load in condition.loads)

    def _lower(self, reasons: tuple[Reason, ...], now_s: float) -> None:
        self.number += 1
        self.reasons = reasons
        self._changed_s = now_s
        if self._raised_s is not None:
            wrong = now_s - self._raised_s < self._patience_s
            self._patience_s = min(2 * self._patience_s, _LONGEST_PATIENCE_S) if wrong else _RAISE_AFTER_S
            self._raised_s = None

    def _raise(self, now_s: float) -> None:
        self.number -= 1
        self.reasons = self.reasons if self.number else ()
        self._changed_s = now_s
        if self._raised_s is not None:  # the last step up was right
            self._patience_s = _RAISE_AFTER_S
        self._raised_s = now_s
