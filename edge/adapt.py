"""Adaptation levels of the device: reduced step by step while it is overloaded, restored when it has recovered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Reason = Literal["throttled", "hot", "behind"]
"""The firmware throttles the processor; it is about to; a live camera delivers more frames than can be processed."""

_REDUCE_AFTER_S: Final = 10.0
"""How long a reduction needs to take effect, and a start to settle."""
_RESTORE_AFTER_S: Final = 60.0
_MAX_RESTORE_DELAY_S: Final = 960.0
_EVERY_FRAME_S: Final = 0.1
"""Detection interval assumed when the configured one is 0, which means every frame."""

_BEHIND_BUSY, _BEHIND_DROPPED = 0.9, 0.2
_HEADROOM_BUSY, _HEADROOM_DROPPED = 0.6, 0.05


@dataclass(frozen=True, slots=True)
class Level:
    """One adaptation level.

    Attributes:
        detection_factor: Factor by which the detection interval is longer than configured.
        max_fps: Limit of the frames processed per second and camera; None for no limit.
    """

    detection_factor: int = 1
    max_fps: float | None = None

    def detection_interval_s(self, configured_s: float) -> float:
        """Returns the minimum time between two detections at this level."""
        if self.detection_factor == 1:
            return configured_s
        return max(configured_s, _EVERY_FRAME_S) * self.detection_factor


AS_CONFIGURED: Final = Level()
LADDER: Final = (AS_CONFIGURED, Level(2), Level(4), Level(4, 10.0), Level(4, 5.0), Level(4, 2.0))
"""From full to least load. Detection is reduced first, as faces are still classified between two detections."""


@dataclass(frozen=True, slots=True)
class Load:
    """Load of one camera since the last check.

    Attributes:
        busy: Fraction of the time that its thread spent processing frames, 0 to 1.
        dropped: Fraction of the source's frames that were dropped, 0 to 1; always 0 for a recording that waits.
    """

    busy: float
    dropped: float

    @property
    def behind(self) -> bool:
        """Whether frames are dropped because processing is too slow, rather than because of a rate limit."""
        return self.busy >= _BEHIND_BUSY and self.dropped >= _BEHIND_DROPPED

    @property
    def has_headroom(self) -> bool:
        """Whether the camera could process more."""
        return self.busy < _HEADROOM_BUSY or self.dropped < _HEADROOM_DROPPED


@dataclass(frozen=True, slots=True)
class Condition:
    """Condition of the device at one moment; a value is None where the machine does not provide it."""

    throttling: tuple[str, ...] | None
    temperature_c: float | None
    loads: Sequence[Load]


class Adaptation:
    """Chooses the adaptation level.

    Any sign of overload reduces the load by one level, and the next reduction waits until that one had time to take
    effect. Restoring a level requires a minute without overload. If restoring brings the overload back, the next
    attempt waits twice as long, so that a device between two levels settles on the one with less load.

    Args:
        hot_c: Temperature in degrees Celsius from which the device counts as hot.
        cool_c: Temperature in degrees Celsius below which it counts as cool again.
        now_s: Start time on a monotonic clock.

    Attributes:
        number: Index of the current level in `LADDER`; 0 is the configured load.
        reasons: Why the load was last reduced; empty at level 0.
    """

    def __init__(self, *, hot_c: float, cool_c: float, now_s: float) -> None:
        self._hot_c, self._cool_c = hot_c, cool_c
        self.number = 0
        self.reasons: tuple[Reason, ...] = ()
        self._changed_s = self._overloaded_s = now_s
        self._restored_s: float | None = None
        self._restore_delay_s = _RESTORE_AFTER_S

    @property
    def level(self) -> Level:
        """The level in force."""
        return LADDER[self.number]

    def update(self, condition: Condition, now_s: float) -> bool:
        """Adjusts the level to the condition of the device. To be called every few seconds.

        Args:
            condition: The current condition.
            now_s: Current time on the same clock.

        Returns:
            Whether the level changed.
        """
        reasons = self._overload(condition)
        if reasons or not self._has_recovered(condition):
            self._overloaded_s = now_s
        if reasons and now_s - self._changed_s >= _REDUCE_AFTER_S and self.number + 1 < len(LADDER):
            self._reduce(reasons, now_s)
        elif now_s - max(self._overloaded_s, self._changed_s) >= self._restore_delay_s and self.number > 0:
            self._restore(now_s)
        return self._changed_s == now_s

    def _overload(self, condition: Condition) -> tuple[Reason, ...]:
        temperature_c = condition.temperature_c
        signs: dict[Reason, bool] = {
            "throttled": bool(condition.throttling),
            "hot": temperature_c is not None and temperature_c >= self._hot_c,
            "behind": any(load.behind for load in condition.loads),
        }
        return tuple(reason for reason, holds in signs.items() if holds)

    def _has_recovered(self, condition: Condition) -> bool:
        cool = condition.temperature_c is None or condition.temperature_c < self._cool_c
        return cool and all(load.has_headroom for load in condition.loads)

    def _reduce(self, reasons: tuple[Reason, ...], now_s: float) -> None:
        self.number += 1
        self.reasons = reasons
        self._changed_s = now_s
        if self._restored_s is not None:
            too_early = now_s - self._restored_s < self._restore_delay_s
            self._restore_delay_s = (
                min(2 * self._restore_delay_s, _MAX_RESTORE_DELAY_S) if too_early else _RESTORE_AFTER_S
            )
            self._restored_s = None

    def _restore(self, now_s: float) -> None:
        self.number -= 1
        self.reasons = self.reasons if self.number else ()
        self._changed_s = now_s
        if self._restored_s is not None:  # the level restored last did not bring the overload back
            self._restore_delay_s = _RESTORE_AFTER_S
        self._restored_s = now_s
