"""The measure by which the smoother's defaults were chosen: films of known emotions, and how well they are told."""

from __future__ import annotations

import math

import numpy as np

from edge.contract import EMOTIONS
from edge.smooth import SmoothingRules
from tests.bench.films import FPS, shoot
from tests.bench.smoothing import Row, Score, choose, forward_filter, in_time, score, tell
from trainer.data import FaceSet

HAPPY, SAD = EMOTIONS.index("happy"), EMOTIONS.index("sad")


def faces() -> FaceSet:
    """Two images of each emotion."""
    labels = np.arange(14) % 7
    images = np.random.default_rng(0).integers(0, 256, (14, 48, 48)).astype(np.uint8)
    return FaceSet(images, labels, tuple(map(str, labels)))


def test_a_film_is_the_same_each_time_and_changes_its_emotion_every_few_seconds() -> None:
    """Settings are compared on the same pictures, today and tomorrow."""
    first, second = shoot(faces(), 40, seed=1), shoot(faces(), 40, seed=1)
    assert np.array_equal(first.crops, second.crops)
    assert len(first.labels) == len(first.crops) >= 40 * FPS
    changes = np.flatnonzero(np.diff(first.labels)) + 1
    lengths_s = np.diff([0, *changes, len(first.labels)]) / FPS
    assert lengths_s.min() >= 2
    assert lengths_s.max() <= 8
    assert not np.array_equal(shoot(faces(), 40, seed=2).labels[:400], first.labels[:400])


def test_the_score_counts_right_time_flips_delay_and_missed_changes() -> None:
    """A late report, a flicker and a change that is never told: each shows where it belongs."""
    labels = np.repeat([HAPPY, SAD, HAPPY], 100)
    told: list[str | None] = [None] * 5 + ["happy"] * 95
    told += ["happy"] * 6 + ["sad"] * 44 + ["unknown"] * 5 + ["sad"] * 45
    told += ["sad"] * 100
    got = score(told, labels)
    assert got.right == (95 + 44 + 45) / 300
    assert got.unknown == 5 / 300
    assert got.flips == 2 / 0.5  # to unknown and back, in half a minute
    assert got.missed == 1 / 2
    assert got.delay_s == math.inf
    assert score(told[:200], labels[:200]).delay_s == 0.6


def test_what_the_agent_would_say_is_what_is_scored() -> None:
    """Clear frames are told right after the dwell, with the agent's own smoother."""
    labels = np.repeat([HAPPY, SAD], 30)
    logits = 6 * np.eye(7, dtype=np.float32)[labels]
    told = tell(logits, SmoothingRules(time_constant_s=0.1, min_dwell_s=0.2))
    assert told[29] == "happy"
    assert told[-1] == "sad"
    assert 0.2 <= score(told, labels).delay_s <= 0.4


def test_the_forward_filter_needs_evidence_to_leave_an_emotion() -> None:
    """One contrary frame does not turn it, a second of them does; its states are probabilities."""
    labels = np.repeat([HAPPY, SAD, HAPPY, SAD], [20, 1, 20, 20])
    logits = 2 * np.eye(7, dtype=np.float32)[labels]
    states = np.exp(forward_filter(logits, np.full(7, 1 / 7), rate_hz=0.1, evidence_s=0.2))
    np.testing.assert_allclose(states.sum(axis=1), 1, atol=1e-5)
    assert set(states[5:41].argmax(axis=1)) == {HAPPY}
    assert states[-1].argmax() == SAD


def test_the_choice_balances_flips_and_time_right() -> None:
    """Slow settings and those that miss changes are out; of those with about the fewest flips, the rightest wins."""

    def row(name: str, **figures: float) -> Row:
        return Row(
            name, SmoothingRules(), Score(**{"right": 0.6, "unknown": 0.0, "delay_s": 0.7, "missed": 0.1, **figures})
        )

    rows = [
        row("slow", flips=1, delay_s=0.9), row("deaf", flips=2, missed=0.2), row("calm", flips=5),
        row("right", flips=5.9, right=0.65), row("nervous", flips=7, right=0.7),
    ]  # fmt: skip
    assert [one.name for one in in_time(rows)] == ["calm", "right", "nervous"]
    assert choose(in_time(rows)).name == "right"
