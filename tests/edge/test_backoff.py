from __future__ import annotations

from itertools import pairwise

from edge.mqtt.backoff import Backoff


def test_waiting_times_double_up_to_a_limit() -> None:
    """A broker that is away is soon found again; one that refuses is asked ever more rarely, for ever."""
    away, refused = Backoff(), Backoff()
    for whole_s in (1, 2, 4, 8, 8, 8):
        assert whole_s / 2 <= away.delay_s(refused=False) <= whole_s
    for whole_s in (1, 2, 4, 8, 16, 32, 60, 60):
        assert whole_s / 2 <= refused.delay_s(refused=True) <= whole_s


def test_success_starts_anew() -> None:
    """After a good connection, the next break is mended within a second."""
    backoff = Backoff()
    for _ in range(10):
        backoff.delay_s(refused=True)
    backoff.reset()
    assert backoff.delay_s(refused=False) <= 1


def test_a_fleet_does_not_return_as_one() -> None:
    """A thousand devices whose broker restarts spread over the waiting time."""
    delays = sorted(Backoff(first_s=8.0).delay_s(refused=False) for _ in range(1000))
    assert max(later - sooner for sooner, later in pairwise(delays)) < 0.2
    assert delays[-1] - delays[0] > 3
