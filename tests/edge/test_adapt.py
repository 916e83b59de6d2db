"""Adaptation levels: reduced under overload, restored after recovery."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.adapt import AS_CONFIGURED, LADDER, Adaptation, Condition, Level, Load

IDLE = Load(busy=0.2, dropped=0.0)
BEHIND = Load(busy=1.0, dropped=0.5)


def make_condition(
    *loads: Load, temperature_c: float | None = 50.0, throttling: tuple[str, ...] | None = ()
) -> Condition:
    """A device without overload, except for the given values."""
    return Condition(throttling, temperature_c, loads or (IDLE,))


NORMAL = make_condition()
HOT = make_condition(temperature_c=80.0)


class Simulation:
    """Updates an adaptation every five seconds of simulated time."""

    def __init__(self) -> None:
        self.adaptation = Adaptation(hot_c=78, cool_c=72, now_s=0.0)
        self.now_s = 0.0

    def run(self, condition: Condition, *, for_s: float) -> list[int]:
        """Returns the level number after each update."""
        numbers = []
        end_s = self.now_s + for_s
        while self.now_s < end_s:
            self.now_s += 5
            before = self.adaptation.number
            changed = self.adaptation.update(condition, self.now_s)
            assert changed == (self.adaptation.number != before)
            numbers.append(self.adaptation.number)
        return numbers


def test_heat_reduces_the_load_step_by_step_beginning_with_detection() -> None:
    """Each step gets ten seconds to take effect; frames are limited only after detection is fully reduced."""
    simulation = Simulation()
    assert simulation.run(HOT, for_s=70) == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5, 5, 5]
    factors = [level.detection_factor for level in LADDER]
    assert factors == sorted(factors)
    assert [level.max_fps for level in LADDER if level.detection_factor < 4] == [None, None]
    limits = [level.max_fps for level in LADDER if level.max_fps is not None]
    assert limits == sorted(limits, reverse=True)


@pytest.mark.parametrize(
    ("condition", "reasons"),
    [
        (HOT, ("hot",)),
        (make_condition(throttling=("under-voltage",)), ("throttled",)),
        (make_condition(IDLE, BEHIND), ("behind",)),
        (make_condition(BEHIND, temperature_c=90.0), ("hot", "behind")),
    ],
)
def test_the_reasons_are_reported(condition: Condition, reasons: tuple[str, ...]) -> None:
    """The reasons of the last reduction are kept until the load is as configured again."""
    simulation = Simulation()
    simulation.run(condition, for_s=10)
    assert (simulation.adaptation.number, simulation.adaptation.reasons) == (1, reasons)
    simulation.run(NORMAL, for_s=60)
    assert (simulation.adaptation.level, simulation.adaptation.reasons) == (AS_CONFIGURED, ())


@pytest.mark.parametrize(
    "condition",
    [
        NORMAL,
        make_condition(temperature_c=None, throttling=None),
        make_condition(Load(busy=1.0, dropped=0.0)),
        make_condition(Load(busy=0.5, dropped=0.9)),
        make_condition(Load(busy=1.0, dropped=0.1)),
        make_condition(temperature_c=77.0),
    ],
    ids=["normal", "not available", "recording at full speed", "frames dropped by a limit", "few drops", "warm"],
)
def test_without_overload_nothing_changes(condition: Condition) -> None:
    """A recording processed at full speed, a rate limit, and a warm device are not an overload."""
    assert set(Simulation().run(condition, for_s=300)) == {0}


def test_the_load_is_restored_one_step_a_minute() -> None:
    """Between hot and cool the level stays; below cool, one level is restored each minute."""
    simulation = Simulation()
    simulation.run(HOT, for_s=20)
    assert set(simulation.run(make_condition(temperature_c=75.0), for_s=600)) == {2}
    assert simulation.run(NORMAL, for_s=60)[-2:] == [2, 1]
    assert simulation.run(NORMAL, for_s=60)[-2:] == [1, 0]


def test_a_recording_that_is_never_idle_is_restored_too() -> None:
    """A recording uses all processor time but drops no frame, so its load is restored."""
    simulation = Simulation()
    simulation.run(HOT, for_s=15)
    assert simulation.run(make_condition(Load(busy=1.0, dropped=0.0)), for_s=65)[-1] == 0


def test_an_intermittent_overload_counts_as_continuous() -> None:
    """A power supply that fails several times a minute keeps the load reduced."""
    simulation = Simulation()
    simulation.run(NORMAL, for_s=60)
    levels = [
        simulation.run(condition, for_s=5)[-1]
        for _ in range(8)
        for condition in (make_condition(throttling=("throttled",)), NORMAL)
    ]
    assert levels == sorted(levels)
    assert levels[-1] == len(LADDER) - 1


def test_a_device_between_two_levels_settles_on_the_lower_one() -> None:
    """If restoring fails again and again, it is attempted less and less often."""
    simulation = Simulation()
    simulation.run(NORMAL, for_s=60)
    numbers = []
    for _ in range(720):  # an hour
        numbers += simulation.run(NORMAL if simulation.adaptation.number else make_condition(BEHIND), for_s=5)
    restores = [index for index in range(1, 720) if numbers[index] < numbers[index - 1]]
    intervals_s = [5 * (later - earlier) for earlier, later in pairwise(restores)]
    assert intervals_s == sorted(intervals_s)
    assert intervals_s[0] < 200 < 900 < intervals_s[-1]
    simulation.run(NORMAL, for_s=2000)
    simulation.run(HOT, for_s=10)
    assert simulation.run(NORMAL, for_s=60)[-1] == 0


def test_detection_on_every_frame_can_be_reduced_too() -> None:
    """An interval of 0 cannot be multiplied, so it counts as 0.1 s."""
    assert [Level(factor).detection_interval_s(0.2) for factor in (1, 2, 4)] == [0.2, 0.4, 0.8]
    assert [Level(factor).detection_interval_s(0.0) for factor in (1, 2, 4)] == [0.0, 0.2, 0.4]


@given(
    st.lists(st.sampled_from([NORMAL, HOT, make_condition(BEHIND), make_condition(temperature_c=75.0)]), max_size=200)
)
def test_the_level_always_moves_one_step_at_a_time(conditions: list[Condition]) -> None:
    """No sequence of conditions leaves the ladder, skips a level, or reduces twice within ten seconds."""
    simulation = Simulation()
    numbers = [0, *(number for condition in conditions for number in simulation.run(condition, for_s=5))]
    assert set(numbers) <= set(range(len(LADDER)))
    steps = [later - earlier for earlier, later in pairwise(numbers)]
    assert set(steps) <= {-1, 0, 1}
    assert not any(first == second == 1 for first, second in pairwise(steps))
