"""How long stages take, told while they are measured."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from edge.timing import StageTimes


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads take turns as often as they can."""
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual_s)


@pytest.mark.usefixtures("hasty_threads")
def test_a_stage_is_told_of_once_it_has_a_duration() -> None:
    """A report that is made while a camera's first frame is under way breaks nothing."""
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
