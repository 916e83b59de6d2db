"""What the machine says of itself."""

from types import SimpleNamespace

import pytest

from edge import system
from edge.system import Clock


@pytest.mark.parametrize("questions", range(3))
def test_a_clock_that_is_set_while_it_is_read_is_not_trusted_too_soon(
    monkeypatch: pytest.MonkeyPatch, questions: int
) -> None:
    """Whenever a time server steps in, no wrong time is ever called right."""
    left = questions  # until the clock is set

    def is_set() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    def wall_s() -> float:
        return 1_700_000_000.0 if is_set() else 0.0

    clock = Clock()
    monkeypatch.setattr(clock, "disciplined", is_set)
    monkeypatch.setattr(system, "time", SimpleNamespace(time=wall_s, monotonic=lambda: 0.0))
    instant = clock.now()
    assert instant.wall_s or not instant.synced
    assert instant.synced == (questions == 0)
