"""How often frames are taken."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from edge.pace import Pace


def test_without_a_limit_every_frame_is_due() -> None:
    """Nothing waits that nobody limited."""
    pace = Pace()
    pace.take(5.0)
    assert pace.left_s(5.0) <= 0


def test_the_lowest_limit_holds_and_the_other_outlives_it() -> None:
    """What somebody set is neither exceeded nor forgotten while the device is spared."""
    pace = Pace(wanted_fps=5.0)
    pace.adapted_fps = 10.0
    assert pace.max_fps == 5.0
    pace.adapted_fps = 2.0
    assert pace.max_fps == 2.0
    pace.adapted_fps = None
    assert pace.max_fps == 5.0


def test_a_lifted_limit_ends_the_wait() -> None:
    """A camera at one frame in ten seconds is at full speed as soon as that is asked for."""
    pace = Pace(wanted_fps=0.1)
    pace.take(100.0)
    assert pace.left_s(101.0) == 9.0
    pace.wanted_fps = None
    assert pace.left_s(101.0) <= 0


@given(max_fps=st.floats(0.1, 60), waits_s=st.lists(st.floats(0.001, 3), min_size=1))
def test_no_second_has_more_frames_than_allowed(max_fps: float, waits_s: list[float]) -> None:
    """However irregularly the camera gives its frames, two are never closer than the limit says."""
    pace = Pace(wanted_fps=max_fps)
    now_s, taken_s = 0.0, []
    for wait_s in waits_s:
        now_s += wait_s
        if pace.left_s(now_s) <= 0:
            pace.take(now_s)
            taken_s.append(now_s)
    assert all(later - earlier > 1 / max_fps - 1e-6 for earlier, later in pairwise(taken_s))
