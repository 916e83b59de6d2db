"""Stage latencies that are read while they are measured."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from edge.timing import StageTimes


@pytest.fixture
def fast_thread_switching() -> Iterator[None]:
    """Switches between threads as often as possible."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before_s)


@pytest.mark.usefixtures("fast_thread_switching")
def test_a_stage_is_reported_once_it_has_a_duration() -> None:
    """A report can be composed while the first frame of a camera is processed."""
    for _ in range(1000):
        times = StageTimes()

        def work(times: StageTimes = times) -> None:
            for stage in "abcdefgh":
                with times.measure(stage):
                    pass

        worker = threading.Thread(target=work)
        worker.start()
        while worker.is_alive():
            times.percentiles_ms()
        worker.join()
        assert sorted(times.percentiles_ms()) == [*"abcdefgh"]
