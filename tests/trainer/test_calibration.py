"""Calibration metrics, temperature scaling, risk-coverage curve and rejection threshold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.contract import softmax
from trainer.calibration import (
    calibration,
    fit_temperature,
    negative_log_likelihood,
    rejection_threshold,
    risk_coverage,
)
from trainer.metrics import Labels, Logits


def calibrated_sample(count: int, seed: int = 0) -> tuple[Logits, Labels]:
    """Returns logits, and labels drawn from their probabilities: perfectly calibrated."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (count, 7)).astype(np.float32)
    cumulative = softmax(logits).cumsum(axis=1)
    return logits, (random.uniform(size=(count, 1)) > cumulative).sum(axis=1).clip(max=6)


def confident(shares: list[float]) -> Logits:
    """Returns logits of two classes; class 0 has the given probabilities."""
    share = np.array(shares)
    return np.asarray(np.log(np.stack([share, 1 - share], axis=1)), np.float32)


def test_metrics_of_a_small_example() -> None:
    """Two bins, confidence 0.9 with accuracy 0.5 and 0.6 with 1, give (2 x 0.4 + 1 x 0.4) / 3."""
    result = calibration(confident([0.9, 0.9, 0.6]), np.array([0, 1, 0]))
    assert result.ece == pytest.approx((2 * 0.4 + 0.4) / 3, abs=1e-6)
    assert result.brier == pytest.approx((2 * 0.1**2 + 2 * 0.9**2 + 2 * 0.4**2) / 3, abs=1e-6)
    assert result.nll == pytest.approx(-(math.log(0.9) + math.log(0.1) + math.log(0.6)) / 3, abs=1e-6)
    filled = {round(b.high * 15): (b.count, b.accuracy) for b in result.bins if b.count}
    assert filled == {14: (2, 0.5), 9: (1, 1.0)}
    assert all(b.confidence is None and b.accuracy is None for b in result.bins if not b.count)


def test_images_on_bin_edges_are_counted_once() -> None:
    """Confidences of 1 and on a bin edge are counted once."""
    logits = np.array([[100, 0, 0], [0, 0, 0]], np.float32)  # 1 and exactly a third
    assert sum(b.count for b in calibration(logits, np.array([0, 1])).bins) == 2


def test_a_calibrated_model_has_no_calibration_error() -> None:
    """The ECE of a perfectly calibrated model is only sampling error."""
    logits, labels = calibrated_sample(20_000)
    assert calibration(logits, labels).ece < 0.01
    assert calibration(3 * logits, labels).ece > 0.1


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_temperature_recovers_the_scale_of_the_logits(factor: float) -> None:
    """Logits scaled by a factor yield this factor as temperature."""
    logits, labels = calibrated_sample(20_000)
    temperature = fit_temperature(logits * np.float32(factor), labels)
    assert temperature == pytest.approx(factor, rel=0.04)
    assert calibration(logits * np.float32(factor / temperature), labels).ece < 0.012


@given(st.integers(0, 1000))
def test_temperature_maximizes_the_likelihood(seed: int) -> None:
    """No temperature nearby has a higher likelihood."""
    logits, labels = calibrated_sample(50, seed)
    best = fit_temperature(logits, labels)
    losses = [negative_log_likelihood(logits, labels, best * change) for change in (1, 0.99, 1.01)]
    assert losses[0] <= min(losses) + 1e-9


def test_temperature_is_bounded() -> None:
    """The temperature of a model that is always correct, or always wrong, is bounded."""
    logits = np.eye(7, dtype=np.float32)
    assert fit_temperature(logits, np.arange(7)) == pytest.approx(0.05, rel=1e-3)
    assert fit_temperature(logits, np.roll(np.arange(7), 1)) == pytest.approx(20, rel=1e-3)


def test_large_logits_do_not_overflow() -> None:
    """Logits of a thousand have a finite likelihood."""
    assert negative_log_likelihood(np.array([[1000, 0]], np.float32), np.array([1])) == 1000


def test_risk_coverage_of_a_small_example() -> None:
    """Accuracy rises as coverage falls; None if no prediction is accepted."""
    points = risk_coverage(confident([0.95, 0.9, 0.7, 0.6]), np.array([0, 0, 0, 1]), (0.5, 0.8, 0.99))
    assert [(p.coverage, p.accuracy) for p in points] == [(1.0, 0.75), (0.5, 1.0), (0.0, None)]


@pytest.mark.parametrize("seed", range(6))
def test_the_rejection_threshold_of_a_calibrated_model_is_one_half(seed: int) -> None:
    """Chow's rule: for a calibrated model the threshold is 0.5, for any sample."""
    assert rejection_threshold(*calibrated_sample(3_000, seed)) == pytest.approx(0.5, abs=0.04)


def test_an_overconfident_model_has_a_higher_rejection_threshold() -> None:
    """Predictions below the threshold are more often wrong than correct, those above more often correct."""
    logits, labels = calibrated_sample(20_000)
    logits *= 2
    threshold = rejection_threshold(logits, labels)
    confidence, right = softmax(logits).max(axis=1), logits.argmax(axis=1) == labels
    assert 0.6 < threshold < 0.8
    assert right[confidence < threshold].mean() < 0.5
    assert right[(confidence > threshold) & (confidence < threshold + 0.1)].mean() > 0.5


@pytest.mark.parametrize(("slope", "intercept"), [(0.3, 0.6), (0.5, 0.4), (1.0, 0.0), (2.0, -1.0)])
def test_the_rejection_threshold_does_not_depend_on_the_slope(slope: float, intercept: float) -> None:
    """If the log odds of a correct prediction are linear in those of the confidence, it is their zero crossing."""
    random = np.random.default_rng(3)
    odds = random.uniform(-4, 4, 40_000)
    logits = np.zeros((len(odds), 100), np.float32)
    logits[:, 0] = odds + math.log(99)  # against 99 classes of equal weight
    right = random.uniform(size=len(odds)) < 1 / (1 + np.exp(-intercept - slope * odds))
    true = 1 / (1 + math.exp(intercept / slope))
    assert rejection_threshold(logits, np.where(right, 0, 1)) == pytest.approx(true, abs=0.02)


def test_the_rejection_threshold_exists_if_all_or_no_predictions_are_correct() -> None:
    """A model that is always correct has a threshold near 0, one that is always wrong near 1."""
    logits = confident([0.95, 0.9, 0.8, 0.7, 0.65, 0.6])
    assert rejection_threshold(logits, np.zeros(6, np.int64)) < 0.05
    assert rejection_threshold(logits, np.ones(6, np.int64)) > 0.95
