"""The ladder of levels: down under strain, up again when it is over."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.adapt import AS_CONFIGURED, LADDER, Adaptation, Condition, Level, Load

IDLE = Load(busy=0.2, dropped=0.0)
BEHIND = Load(busy=1.0, dropped=0.5)


def condition(*loads: Load, temperature_c: float | None = 50.0, throttling: tuple[str, ...] | None = ()) -> Condition:
    """A device that is well, but for what is said."""
    return Condition(throttling, temperature_c, loads or (IDLE,))


WELL = condition()
HOT = condition(temperature_c=80.0)


class Watched:
    """An adaptation that looks every five seconds, and what its level was at each look."""

    def __init__(self) -> None:
        self.adaptation = Adaptation(hot_c=78, cool_c=72, now_s=0.0)
        self.now_s = 0.0

    def look(self, at: Condition, *, for_s: float) -> list[int]:
        numbers = []
        end_s = self.now_s + for_s
        while self.now_s < end_s:
            self.now_s += 5
            before = self.adaptation.number
            changed = self.adaptation.update(at, self.now_s)
            assert changed == (self.adaptation.number != before)
            numbers.append(self.adaptation.number)
        return numbers


def test_heat_lowers_step_by_step_and_detection_goes_first() -> None:
    """Each step has ten seconds to work; frames are limited only when faces are looked for as seldom as it goes."""
    watched = Watched()
    assert watched.look(HOT, for_s=70) == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5, 5, 5]
    factors = [level.detection_factor for level in LADDER]
    assert factors == sorted(factors)
    assert [level.max_fps for level in LADDER if level.detection_factor < 4] == [None, None]
    limits = [level.max_fps for level in LADDER if level.max_fps is not None]
    assert limits == sorted(limits, reverse=True)


@pytest.mark.parametrize(
    ("at", "reasons"),
    [
        (HOT, ("hot",)),
        (condition(throttling=("under-voltage",)), ("throttled",)),
        (condition(IDLE, BEHIND), ("behind",)),
        (condition(BEHIND, temperature_c=90.0), ("hot", "behind")),
    ],
)
def test_the_reason_is_told(at: Condition, reasons: tuple[str, ...]) -> None:
    """Whoever wonders why less is done finds out, until all is as configured again."""
    watched = Watched()
    watched.look(at, for_s=10)
    assert (watched.adaptation.number, watched.adaptation.reasons) == (1, reasons)
    watched.look(WELL, for_s=60)
    assert (watched.adaptation.level, watched.adaptation.reasons) == (AS_CONFIGURED, ())


@pytest.mark.parametrize(
    "at",
    [
        WELL,
        condition(temperature_c=None, throttling=None),
        condition(Load(busy=1.0, dropped=0.0)),
        condition(Load(busy=0.5, dropped=0.9)),
        condition(Load(busy=1.0, dropped=0.1)),
        condition(temperature_c=77.0),
    ],
    ids=["well", "tells nothing", "recording at full speed", "frames left out by a limit", "few drops", "warm"],
)
def test_what_is_no_strain_changes_nothing(at: Condition) -> None:
    """A recording that is analysed as fast as it goes, a limit that somebody set, and a warm day are all in order."""
    assert set(Watched().look(at, for_s=300)) == {0}


def test_it_goes_up_a_step_a_minute_once_all_is_well() -> None:
    """Between hot and cool nothing moves; after a minute below, one step, and after another the next."""
    watched = Watched()
    watched.look(HOT, for_s=20)
    assert set(watched.look(condition(temperature_c=75.0), for_s=600)) == {2}
    assert watched.look(WELL, for_s=60)[-2:] == [2, 1]
    assert watched.look(WELL, for_s=60)[-2:] == [1, 0]


def test_a_recording_that_is_never_idle_goes_up_again_too() -> None:
    """It takes all the time that there is, and loses no frame."""
    watched = Watched()
    watched.look(HOT, for_s=15)
    assert watched.look(condition(Load(busy=1.0, dropped=0.0)), for_s=65)[-1] == 0


def test_a_strain_that_flickers_counts_as_one() -> None:
    """A power supply that gives way twice a minute brings the load down, and keeps it there."""
    watched = Watched()
    watched.look(WELL, for_s=60)
    flicker = [watched.look(at, for_s=5)[-1] for _ in range(8) for at in (condition(throttling=("throttled",)), WELL)]
    assert flicker == sorted(flicker)
    assert flicker[-1] == len(LADDER) - 1


def test_a_device_between_two_levels_settles_on_the_lower_one() -> None:
    """When more work turns out too much again and again, it is tried ever more seldom."""
    watched = Watched()
    watched.look(WELL, for_s=60)
    numbers = []
    for _ in range(720):  # an hour
        numbers += watched.look(WELL if watched.adaptation.number else condition(BEHIND), for_s=5)
    tries = [look for look in range(1, 720) if numbers[look] < numbers[look - 1]]
    pauses_s = [5 * (later - earlier) for earlier, later in pairwise(tries)]
    assert pauses_s == sorted(pauses_s)
    assert pauses_s[0] < 200 < 900 < pauses_s[-1]
    watched.look(WELL, for_s=2000)
    watched.look(HOT, for_s=10)
    assert watched.look(WELL, for_s=60)[-1] == 0


def test_a_detection_on_every_frame_can_be_made_rarer_too() -> None:
    """An interval of 0 has no double: it counts as a tenth of a second."""
    assert [Level(factor).detection_interval_s(0.2) for factor in (1, 2, 4)] == [0.2, 0.4, 0.8]
    assert [Level(factor).detection_interval_s(0.0) for factor in (1, 2, 4)] == [0.0, 0.2, 0.4]


@given(st.lists(st.sampled_from([WELL, HOT, condition(BEHIND), condition(temperature_c=75.0)]), max_size=200))
def test_whatever_happens_it_moves_one_step_at_a_time(story: list[Condition]) -> None:
    """No course of events takes it off the ladder, two steps at once, or down twice within ten seconds."""
    watched = Watched()
    numbers = [0, *(number for at in story for number in watched.look(at, for_s=5))]
    assert set(numbers) <= set(range(len(LADDER)))
    steps = [later - earlier for earlier, later in pairwise(numbers)]
    assert set(steps) <= {-1, 0, 1}
    assert not any(first == second == 1 for first, second in pairwise(steps))
