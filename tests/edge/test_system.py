"""Information about the machine."""

from types import SimpleNamespace

import pytest

from edge import system
from edge.system import Clock


@pytest.mark.parametrize("calls", range(3))
def test_a_clock_that_is_set_while_it_is_read_counts_as_unsynchronized(
    monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """Whenever the clock is set, a wrong time is never reported as synchronized."""
    calls_left = calls  # until the clock is set

    def is_set() -> bool:
        nonlocal calls_left
        calls_left -= 1
        return calls_left < 0

    def wall_s() -> float:
        return 1_700_000_000.0 if is_set() else 0.0

    clock = Clock()
    monkeypatch.setattr(clock, "is_synchronized", is_set)
    monkeypatch.setattr(system, "time", SimpleNamespace(time=wall_s, monotonic=lambda: 0.0))
    instant = clock.now()
    assert instant.wall_s or not instant.synced
    assert instant.synced == (calls == 0)
