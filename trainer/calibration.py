"""How far a classifier's confidence can be believed: calibration error, temperature, and what a threshold costs.

All functions take logits float32 (N, C) with N > 0 and labels int64 (N,), index into the C classes. Confidence is the
probability of the most probable class.
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
THRESHOLDS: Final = tuple(round(0.05 * step, 2) for step in range(20))
"""0.00 to 0.95, where `risk_coverage` is read off."""

_PULL: Final = np.array([1e-5, 1e-3])
"""Of intercept and slope, towards odds that are right as they are, so that there is a threshold where all answers are
right, or none. The slope's is the stronger, or it would grow there without the intercept, which tells the two apart."""

_LEAST_DOUBT: Final = 1e-9

_LOG_TEMPERATURE: Final = (math.log(0.05), math.log(20.0))


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The images whose confidence lies in one interval.

    Attributes:
        low: Lower end, not included.
        high: Upper end, included.
        count: Number of images.
        confidence: Their mean confidence, 0 to 1, or None without images.
        accuracy: Share of right answers among them, or None without images.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well confidence and accuracy go together; 0 is perfect in each of the three figures.

    Attributes:
        ece: Expected calibration error, 0 to 1: the bins' mean gap between confidence and accuracy, weighted by count.
        brier: Mean squared distance of the probabilities from the label as a one-hot vector, 0 to 2.
        nll: Mean negative log likelihood of the label, in nats.
        bins: Equal intervals of confidence.
    """

    ece: float
    brier: float
    nll: float
    bins: tuple[ReliabilityBin, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON takes them."""
        return asdict(self)


def calibration(logits: Logits, labels: Labels) -> Calibration:
    """Measures calibration; the error over 15 bins of equal width is that of Guo et al. 2017 (arXiv:1706.04599)."""
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


def _reliability(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[ReliabilityBin, ...]:
    edges = np.linspace(0, 1, BINS + 1)
    bin_of = np.clip(np.searchsorted(edges, confidence) - 1, 0, BINS - 1)
    bins = []
    for number, (low, high) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        inside = bin_of == number
        some = bool(inside.any())
        means = (float(confidence[inside].mean()), float(right[inside].mean())) if some else (None, None)
        bins.append(ReliabilityBin(low, high, int(inside.sum()), *means))
    return tuple(bins)


def negative_log_likelihood(logits: Logits, labels: Labels, temperature: float = 1.0) -> float:
    """Mean of -log p(label) in nats, with the logits divided by `temperature`."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(scaled).sum(axis=1))
    return float((log_sum - scaled[np.arange(len(labels)), labels]).mean())


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """The temperature, 0.05 to 20, by which to divide the logits so that their likelihood is highest.

    Temperature scaling, Guo et al. 2017. The likelihood has one maximum in 1/T, so a bounded search on log T finds it.
    Fit it on the validation split, never on the one that is reported.
    """
    from scipy.optimize import minimize_scalar  # costs a second at import, and only the export needs it

    found = minimize_scalar(
        lambda log_temperature: negative_log_likelihood(logits, labels, math.exp(log_temperature)),
        bounds=_LOG_TEMPERATURE, options={"xatol": 1e-5},
    )  # fmt: skip
    return math.exp(found.x)


@dataclass(frozen=True, slots=True)
class RiskPoint:
    """What is left when answers below a confidence are withheld.

    Attributes:
        threshold: Lowest confidence that is answered, 0 to 1.
        coverage: Share of images that get an answer.
        accuracy: Share of right answers among these, or None without any.
    """

    threshold: float
    coverage: float
    accuracy: float | None


def risk_coverage(logits: Logits, labels: Labels, thresholds: Sequence[float] = THRESHOLDS) -> tuple[RiskPoint, ...]:
    """Coverage and accuracy at each threshold: the risk-coverage curve of El-Yaniv and Wiener, JMLR 11, 2010."""
    probabilities = softmax(logits)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    points = []
    for threshold in thresholds:
        answered = confidence >= threshold
        accuracy = float(right[answered].mean()) if answered.any() else None
        points.append(RiskPoint(float(threshold), float(answered.mean()), accuracy))
    return tuple(points)


def threshold_for_gain(logits: Logits, labels: Labels) -> float:
    """The confidence under which answers are more often wrong than right.

    From there on answers gain, if a right one counts +1, a wrong one -1 and none 0: the optimum rule for rejection of
    Chow, IEEE Transactions on Information Theory 16, 1970. How often answers of a confidence are right is read off a
    logistic regression on its log odds (Platt scaling, Platt 1999), for about its maximum the gain itself hardly
    changes, and a handful of images decide where that lies.

    Returns:
        0 to 1.
    """
    from scipy.optimize import minimize  # as in fit_temperature

    below = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)  # in float32, a gradient would vanish
    others = np.exp(below).sum(axis=1) - 1  # probability of all other classes, in units of that of the likeliest
    odds = -np.log(np.maximum(others, _LEAST_DOUBT))
    sign = np.where(logits.argmax(axis=1) == labels, 1.0, -1.0)

    def loss(line: NDArray[np.float64]) -> float:
        intercept, log_slope = line
        likelihood = np.logaddexp(0, -sign * (intercept + math.exp(log_slope) * odds)).mean()
        return float(likelihood + _PULL @ np.square(line))

    intercept, log_slope = minimize(loss, np.zeros(2)).x
    return 1 / (1 + math.exp(intercept / math.exp(log_slope)))
