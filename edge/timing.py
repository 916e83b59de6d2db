"""Measures the latency of the pipeline stages."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

_WINDOW = 500


class StageTimes:
    """Durations of named stages, the last 500 of each. Written by one thread, read by any."""

    def __init__(self) -> None:
        self._durations_ms: dict[str, deque[float]] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Measures the duration of the `with` block."""
        started = time.perf_counter()
        yield
        took_ms = (time.perf_counter() - started) * 1000
        if stage in self._durations_ms:
            self._durations_ms[stage].append(took_ms)
        else:  # created with its first value, as readers expect at least one
            self._durations_ms[stage] = deque([took_ms], maxlen=_WINDOW)

    def percentiles_ms(self) -> dict[str, tuple[float, float]]:
        """Returns median and 95th percentile of each stage, in milliseconds."""
        snapshot = {stage: list(durations) for stage, durations in self._durations_ms.copy().items()}
        return {stage: (float(p50), float(p95)) for stage, durations in snapshot.items()
                for p50, p95 in [np.percentile(durations, (50, 95))]}  # fmt: skip
