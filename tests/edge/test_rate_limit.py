"""The rate limiter."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from edge.rate_limit import RateLimiter


def test_without_a_limit_every_frame_is_due() -> None:
    """Without a limit there is no waiting time."""
    limiter = RateLimiter()
    limiter.frame_taken(5.0)
    assert limiter.wait_s(5.0) <= 0


def test_the_lower_limit_applies_and_the_other_one_is_kept() -> None:
    """While the load is reduced, the requested limit is neither exceeded nor forgotten."""
    limiter = RateLimiter(requested_fps=5.0)
    limiter.adapted_fps = 10.0
    assert limiter.max_fps == 5.0
    limiter.adapted_fps = 2.0
    assert limiter.max_fps == 2.0
    limiter.adapted_fps = None
    assert limiter.max_fps == 5.0


def test_lifting_the_limit_ends_the_waiting_time() -> None:
    """A camera at 0.1 frames per second is at full speed as soon as its limit is lifted."""
    limiter = RateLimiter(requested_fps=0.1)
    limiter.frame_taken(100.0)
    assert limiter.wait_s(101.0) == 9.0
    limiter.requested_fps = None
    assert limiter.wait_s(101.0) <= 0


@given(max_fps=st.floats(0.1, 60), waits_s=st.lists(st.floats(0.001, 3), min_size=1))
def test_no_second_has_more_frames_than_allowed(max_fps: float, waits_s: list[float]) -> None:
    """However irregularly frames arrive, two of them are never closer than the limit allows."""
    limiter = RateLimiter(requested_fps=max_fps)
    now_s, taken_s = 0.0, []
    for wait_s in waits_s:
        now_s += wait_s
        if limiter.wait_s(now_s) <= 0:
            limiter.frame_taken(now_s)
            taken_s.append(now_s)
    assert all(later - earlier > 1 / max_fps - 1e-6 for earlier, later in pairwise(taken_s))
