from __future__ import annotations

from itertools import pairwise

from edge.backoff import Backoff


def test_delays_double_up_to_a_limit() -> None:
    """A server that does not respond is retried less and less often, but forever; delays are randomized."""
    backoff = Backoff(first_s=1.0, limit_s=60.0)
    for full_s in (1, 2, 4, 8, 16, 32, 60, 60):
        assert full_s / 2 <= backoff.delay_s() <= full_s


def test_a_single_delay_may_be_limited_further() -> None:
    """A broker that returns is found soon; if it rejects the connection, the doubling continues."""
    backoff = Backoff(first_s=1.0, limit_s=60.0)
    for full_s in (1, 2, 4, 8, 8, 8):
        assert full_s / 2 <= backoff.delay_s(at_most_s=8.0) <= full_s
    for full_s in (16, 32, 60, 60):
        assert full_s / 2 <= backoff.delay_s() <= full_s
    assert backoff.delay_s(at_most_s=8.0) <= 8


def test_reset_starts_over() -> None:
    """After a stable connection, the first reconnect comes within a second."""
    backoff = Backoff()
    for _ in range(10):
        backoff.delay_s()
    backoff.reset()
    assert backoff.delay_s() <= 1


def test_the_delays_of_a_fleet_are_spread() -> None:
    """A thousand devices do not reconnect all at once after the broker restarts."""
    delays = sorted(Backoff(first_s=8.0).delay_s() for _ in range(1000))
    assert max(later - sooner for sooner, later in pairwise(delays)) < 0.2
    assert delays[-1] - delays[0] > 3
