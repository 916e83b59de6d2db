"""Monitors the load of the device and reduces the work of its cameras while it is overloaded."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from edge import system
from edge.adapt import LADDER, Adaptation, Condition, Level, Load
from edge.camera import CameraWorker, WorkStats
from edge.payloads import AdaptationHealth

log = logging.getLogger(__name__)

_INTERVAL_S = 5.0


class Governor:
    """Checks device and cameras every five seconds, and applies the resulting adaptation level to all cameras.

    Args:
        workers: The cameras by name.
        hot_c: Temperature in degrees Celsius from which the load is reduced.
        cool_c: Temperature in degrees Celsius below which the load may be restored.
    """

    def __init__(self, *, workers: Mapping[str, CameraWorker], hot_c: float, cool_c: float) -> None:
        self._workers = workers
        self._last_stats: dict[str, WorkStats] = {}
        self._checked_s = time.monotonic()
        self._adaptation = Adaptation(hot_c=hot_c, cool_c=cool_c, now_s=self._checked_s)

    def report(self) -> AdaptationHealth:
        """Returns the level in force, for the health report."""
        adaptation = self._adaptation
        return AdaptationHealth(
            level=adaptation.number,
            reasons=adaptation.reasons,
            detection_factor=adaptation.level.detection_factor,
            max_fps=adaptation.level.max_fps,
        )

    def update(self, now_s: float) -> bool:
        """Checks the load if five seconds have passed since the last check. May be called at any rate.

        Args:
            now_s: Current time on the monotonic clock.

        Returns:
            Whether the level changed.
        """
        elapsed_s = now_s - self._checked_s
        if elapsed_s < _INTERVAL_S:
            return False
        self._checked_s = now_s
        condition = Condition(system.throttling(), system.temperature_c(), self._loads(elapsed_s))
        if not self._adaptation.update(condition, now_s):
            return False
        self._apply(condition)
        return True

    def _loads(self, elapsed_s: float) -> list[Load]:
        before, self._last_stats = self._last_stats, {name: worker.stats for name, worker in self._workers.items()}
        return [_load(stats, before[name], elapsed_s) for name, stats in self._last_stats.items() if name in before]

    def _apply(self, condition: Condition) -> None:
        adaptation = self._adaptation
        for worker in self._workers.values():
            worker.adapt(adaptation.level)
        why = ", ".join(adaptation.reasons) or "the device has recovered"
        celsius = f", {condition.temperature_c:.0f} °C" if condition.temperature_c is not None else ""
        log.info("adaptation level %d of %d: %s (%s%s)", adaptation.number, len(LADDER) - 1,
                 _describe(adaptation.level), why, celsius)  # fmt: skip


def _load(now: WorkStats, before: WorkStats, elapsed_s: float) -> Load:
    frames = now.frames - before.frames
    dropped = max(0, now.dropped - before.dropped)  # restarts from 0 when the source is reopened
    return Load(busy=(now.busy_s - before.busy_s) / elapsed_s, dropped=dropped / max(1, frames + dropped))


def _describe(level: Level) -> str:
    detection = f"detecting faces {level.detection_factor} times less often" if level.detection_factor > 1 else ""
    frame_rate = f"at most {level.max_fps:g} frames per second" if level.max_fps is not None else ""
    return ", ".join(filter(None, (detection, frame_rate))) or "running as configured"
