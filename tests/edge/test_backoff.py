from __future__ import annotations

from itertools import pairwise

from edge.backoff import Backoff


def test_waiting_times_double_up_to_a_limit() -> None:
    """What does not answer is asked ever more rarely, for ever."""
    backoff = Backoff(first_s=1.0, limit_s=60.0)
    for whole_s in (1, 2, 4, 8, 16, 32, 60, 60):
        assert whole_s / 2 <= backoff.delay_s() <= whole_s


def test_one_time_may_be_limited_further() -> None:
    """A broker that is away is soon found again; once it is there and refuses, the doubling goes on from that."""
    backoff = Backoff(first_s=1.0, limit_s=60.0)
    for whole_s in (1, 2, 4, 8, 8, 8):
        assert whole_s / 2 <= backoff.delay_s(at_most_s=8.0) <= whole_s
    for whole_s in (16, 32, 60, 60):
        assert whole_s / 2 <= backoff.delay_s() <= whole_s
    assert backoff.delay_s(at_most_s=8.0) <= 8


def test_success_starts_anew() -> None:
    """After a good connection, the next break is mended within a second."""
    backoff = Backoff()
    for _ in range(10):
        backoff.delay_s()
    backoff.reset()
    assert backoff.delay_s() <= 1


def test_a_fleet_does_not_return_as_one() -> None:
    """A thousand devices whose broker restarts spread over the waiting time."""
    delays = sorted(Backoff(first_s=8.0).delay_s() for _ in range(1000))
    assert max(later - sooner for sooner, later in pairwise(delays)) < 0.2
    assert delays[-1] - delays[0] > 3
