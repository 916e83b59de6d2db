"""Keeps an eye on how hard the device works, and lets its cameras do less for as long as it is too hard."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from edge import system
from edge.adapt import LADDER, Adaptation, Condition, Level, Load
from edge.camera import CameraWorker, Work
from edge.payloads import AdaptationHealth

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 5.0


class Governor:
    """Looks at machine and cameras every five seconds, and passes the level on which it settles to all cameras.

    Args:
        workers: The cameras by name.
        hot_c: From this temperature on, in degrees Celsius, the device is given less to do.
        cool_c: Below this one it may do more again.
    """

    def __init__(self, *, workers: Mapping[str, CameraWorker], hot_c: float, cool_c: float) -> None:
        self._workers = workers
        self._seen: dict[str, Work] = {}
        self._looked_s = time.monotonic()
        self._adaptation = Adaptation(hot_c=hot_c, cool_c=cool_c, now_s=self._looked_s)

    def report(self) -> AdaptationHealth:
        """The level in force, for the health report."""
        adaptation = self._adaptation
        return AdaptationHealth(
            level=adaptation.number,
            reasons=adaptation.reasons,
            detection_factor=adaptation.level.detection_factor,
            max_fps=adaptation.level.max_fps,
        )

    def look(self, now_s: float) -> bool:
        """To be called often; looks when it is time.

        Args:
            now_s: On the machine's monotonic clock.

        Returns:
            Whether the level changed.
        """
        past_s = now_s - self._looked_s
        if past_s < _LOOK_EVERY_S:
            return False
        self._looked_s = now_s
        condition = Condition(system.throttling(), system.temperature_c(), self._loads(past_s))
        if not self._adaptation.update(condition, now_s):
            return False
        self._pass_on(condition)
        return True

    def _loads(self, past_s: float) -> list[Load]:
        before, self._seen = self._seen, {name: worker.work for name, worker in self._workers.items()}
        return [_load(work, before[name], past_s) for name, work in self._seen.items() if name in before]

    def _pass_on(self, condition: Condition) -> None:
        adaptation = self._adaptation
        for worker in self._workers.values():
            worker.adapt(adaptation.level)
        why = ", ".join(adaptation.reasons) or "the device is well again"
        celsius = f", {condition.temperature_c:.0f} °C" if condition.temperature_c is not None else ""
        log.info("level %d of %d: %s (%s%s)", adaptation.number, len(LADDER) - 1, _in_words(adaptation.level), why,
                 celsius)  # fmt: skip


def _load(now: Work, before: Work, past_s: float) -> Load:
    frames = now.frames - before.frames
    dropped = max(0, now.dropped - before.dropped)  # it counts from 0 again when the source is opened again
    return Load(busy=(now.busy_s - before.busy_s) / past_s, dropped=dropped / max(1, frames + dropped))


def _in_words(level: Level) -> str:
    searched = f"faces are looked for {level.detection_factor} times more seldom" if level.detection_factor > 1 else ""
    limited = f"at most {level.max_fps:g} frames a second" if level.max_fps is not None else ""
    return ", ".join(filter(None, (searched, limited))) or "all as configured"
