"""The benchmark that chose the defaults of the smoother: synthetic videos, scores, and choice."""

from __future__ import annotations

import math

import numpy as np

from edge.contract import EMOTIONS
from edge.smooth import SmoothingRules
from tests.bench.smoothing import Row, Score, choose, forward_filter, reported_emotions, score, within_limits
from tests.bench.videos import FPS, render_video
from trainer.data import FaceSet

HAPPY, SAD = EMOTIONS.index("happy"), EMOTIONS.index("sad")


def faces() -> FaceSet:
    """Two images of each emotion."""
    labels = np.arange(14) % 7
    images = np.random.default_rng(0).integers(0, 256, (14, 48, 48)).astype(np.uint8)
    return FaceSet(images, labels, tuple(map(str, labels)))


def test_a_video_is_reproducible_and_changes_its_emotion_every_few_seconds() -> None:
    """Settings are compared on the same frames in every run."""
    first, second = render_video(faces(), 40, seed=1), render_video(faces(), 40, seed=1)
    assert np.array_equal(first.crops, second.crops)
    assert len(first.labels) == len(first.crops) >= 40 * FPS
    changes = np.flatnonzero(np.diff(first.labels)) + 1
    lengths_s = np.diff([0, *changes, len(first.labels)]) / FPS
    assert lengths_s.min() >= 2
    assert lengths_s.max() <= 8
    assert not np.array_equal(render_video(faces(), 40, seed=2).labels[:400], first.labels[:400])


def test_the_score_counts_accuracy_flips_delay_and_missed_changes() -> None:
    """A late report, a false flip and a change that is never reported each affect the right measure."""
    labels = np.repeat([HAPPY, SAD, HAPPY], 100)
    reported: list[str | None] = [None] * 5 + ["happy"] * 95
    reported += ["happy"] * 6 + ["sad"] * 44 + ["unknown"] * 5 + ["sad"] * 45
    reported += ["sad"] * 100
    result = score(reported, labels)
    assert result.accuracy == (95 + 44 + 45) / 300
    assert result.unknown == 5 / 300
    assert result.flips == 2 / 0.5  # to unknown and back, within half a minute
    assert result.missed == 1 / 2
    assert result.delay_s == math.inf
    assert score(reported[:200], labels[:200]).delay_s == 0.6


def test_the_smoother_of_the_agent_is_scored() -> None:
    """With unambiguous frames, a change is reported right after the dwell time."""
    labels = np.repeat([HAPPY, SAD], 30)
    logits = 6 * np.eye(7, dtype=np.float32)[labels]
    reported = reported_emotions(logits, SmoothingRules(time_constant_s=0.1, min_dwell_s=0.2))
    assert reported[29] == "happy"
    assert reported[-1] == "sad"
    assert 0.2 <= score(reported, labels).delay_s <= 0.4


def test_the_forward_filter_needs_evidence_to_leave_an_emotion() -> None:
    """One contrary frame does not change the state, a second of them does; states are probabilities."""
    labels = np.repeat([HAPPY, SAD, HAPPY, SAD], [20, 1, 20, 20])
    logits = 2 * np.eye(7, dtype=np.float32)[labels]
    states = np.exp(forward_filter(logits, np.full(7, 1 / 7), rate_hz=0.1, evidence_s=0.2))
    np.testing.assert_allclose(states.sum(axis=1), 1, atol=1e-5)
    assert set(states[5:41].argmax(axis=1)) == {HAPPY}
    assert states[-1].argmax() == SAD


def test_the_choice_balances_flips_and_accuracy() -> None:
    """Slow settings and those that miss changes are excluded; among those with few flips, accuracy decides."""

    def row(name: str, **figures: float) -> Row:
        return Row(
            name, SmoothingRules(), Score(**{"accuracy": 0.6, "unknown": 0.0, "delay_s": 0.7, "missed": 0.1, **figures})
        )

    rows = [
        row("slow", flips=1, delay_s=0.9), row("missing", flips=2, missed=0.2), row("calm", flips=5),
        row("accurate", flips=5.9, accuracy=0.65), row("nervous", flips=7, accuracy=0.7),
    ]  # fmt: skip
    assert [candidate.name for candidate in within_limits(rows)] == ["calm", "accurate", "nervous"]
    assert choose(within_limits(rows)).name == "accurate"
