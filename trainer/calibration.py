"""Calibration of a classifier's confidence: expected calibration error, temperature scaling, risk-coverage curve.

All functions take logits float32 (N, C) with N > 0 and labels int64 (N,), indices of the C classes. Confidence is the
probability of the predicted (most probable) class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge.contract import softmax
from trainer.metrics import Labels, Logits

BINS: Final = 15
"""Of the reliability diagram and the expected calibration error."""
THRESHOLDS: Final = tuple(round(0.05 * step, 2) for step in range(20))
"""Confidence thresholds of the risk-coverage curve, 0.00 to 0.95."""

_L2_PENALTY: Final = np.array([1e-5, 1e-3])
"""L2 penalty on intercept and log slope of the Platt scaling. It keeps the fit finite if all predictions are correct,
or none. The slope's is stronger, otherwise it would diverge before the intercept, which distinguishes these cases."""

_MIN_ODDS_OF_OTHERS: Final = 1e-9

_LOG_TEMPERATURE: Final = (math.log(0.05), math.log(20.0))


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """One bin of a reliability diagram.

    Attributes:
        low: Lower edge, exclusive.
        high: Upper edge, inclusive.
        count: Number of images in the bin.
        confidence: Mean confidence, 0 to 1; None for an empty bin.
        accuracy: Accuracy, 0 to 1; None for an empty bin.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """Calibration metrics; for each of the three, lower is better and 0 is perfect.

    Attributes:
        ece: Expected calibration error, 0 to 1: the bins' mean gap between confidence and accuracy, weighted by count.
        brier: Brier score: mean squared distance of the probabilities from the one-hot label, 0 to 2.
        nll: Mean negative log-likelihood of the label, in nats.
        bins: Reliability diagram with bins of equal width.
    """

    ece: float
    brier: float
    nll: float
    bins: tuple[ReliabilityBin, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as a JSON-serializable dict."""
        return asdict(self)


def calibration(logits: Logits, labels: Labels) -> Calibration:
    """Computes the calibration metrics; the ECE has 15 bins of equal width as in Guo et al. 2017 (arXiv:1706.04599)."""
    probabilities = softmax(logits).astype(np.float64)
    bins = _reliability(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)
    gaps = [
        b.count * abs(b.confidence - b.accuracy) for b in bins if b.confidence is not None and b.accuracy is not None
    ]
    target = np.eye(logits.shape[1])[labels]
    return Calibration(
        ece=sum(gaps) / len(labels),
        brier=float(np.square(probabilities - target).sum(axis=1).mean()),
        nll=negative_log_likelihood(logits, labels),
        bins=bins,
    )


def _reliability(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> tuple[ReliabilityBin, ...]:
    edges = np.linspace(0, 1, BINS + 1)
    bin_of = np.clip(np.searchsorted(edges, confidence) - 1, 0, BINS - 1)
    bins = []
    for number, (low, high) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        inside = bin_of == number
        filled = bool(inside.any())
        means = (float(confidence[inside].mean()), float(correct[inside].mean())) if filled else (None, None)
        bins.append(ReliabilityBin(low, high, int(inside.sum()), *means))
    return tuple(bins)


def negative_log_likelihood(logits: Logits, labels: Labels, temperature: float = 1.0) -> float:
    """Returns the mean of -log p(label) in nats, with the logits divided by `temperature`."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(scaled).sum(axis=1))
    return float((log_sum - scaled[np.arange(len(labels)), labels]).mean())


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """Fits temperature scaling (Guo et al. 2017): the divisor of the logits, 0.05 to 20, that maximizes the likelihood.

    The likelihood has a single maximum in 1/T, which a bounded search over log T finds. Fit on the validation split,
    never on the test split.
    """
    from scipy.optimize import minimize_scalar  # takes a second to import; only the export needs it

    found = minimize_scalar(
        lambda log_temperature: negative_log_likelihood(logits, labels, math.exp(log_temperature)),
        bounds=_LOG_TEMPERATURE, options={"xatol": 1e-5},
    )  # fmt: skip
    return math.exp(found.x)


@dataclass(frozen=True, slots=True)
class RiskPoint:
    """A point of the risk-coverage curve: predictions below a confidence threshold are rejected.

    Attributes:
        threshold: Minimum confidence of accepted predictions, 0 to 1.
        coverage: Share of images whose prediction is accepted.
        accuracy: Accuracy of the accepted predictions (1 - selective risk); None without any.
    """

    threshold: float
    coverage: float
    accuracy: float | None


def risk_coverage(logits: Logits, labels: Labels, thresholds: Sequence[float] = THRESHOLDS) -> tuple[RiskPoint, ...]:
    """Returns coverage and accuracy at each threshold: the risk-coverage curve (El-Yaniv and Wiener, JMLR 11, 2010)."""
    probabilities = softmax(logits)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    points = []
    for threshold in thresholds:
        accepted = confidence >= threshold
        accuracy = float(correct[accepted].mean()) if accepted.any() else None
        points.append(RiskPoint(float(threshold), float(accepted.mean()), accuracy))
    return tuple(points)


def rejection_threshold(logits: Logits, labels: Labels) -> float:
    """Returns the confidence below which predictions are more often wrong than correct.

    With a gain of +1 for a correct, -1 for a wrong and 0 for a rejected prediction, this is the optimal rejection rule
    (Chow, IEEE Transactions on Information Theory 16, 1970). Accuracy as a function of confidence is modeled by a
    logistic regression on the log odds of the confidence (Platt scaling, Platt 1999): the empirical gain is so flat
    around its maximum that a handful of images would decide the threshold.

    Returns:
        0 to 1.
    """
    from scipy.optimize import minimize  # as in fit_temperature

    below = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)  # in float32, the gradient would vanish
    others = np.exp(below).sum(axis=1) - 1  # odds of all other classes against the predicted one
    log_odds = -np.log(np.maximum(others, _MIN_ODDS_OF_OTHERS))
    sign = np.where(logits.argmax(axis=1) == labels, 1.0, -1.0)

    def loss(parameters: NDArray[np.float64]) -> float:
        intercept, log_slope = parameters
        cross_entropy = np.logaddexp(0, -sign * (intercept + math.exp(log_slope) * log_odds)).mean()
        return float(cross_entropy + _L2_PENALTY @ np.square(parameters))

    intercept, log_slope = minimize(loss, np.zeros(2)).x
    return 1 / (1 + math.exp(intercept / math.exp(log_slope)))
