"""Classification metrics: accuracy with a confidence interval, per-class scores, and comparison of two models.

Logits are float32 (N, C) with N > 0; labels are int64 (N,), indices of the C classes.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]

_Z_95: Final = 1.959964  # standard normal quantile of 0.975


@dataclass(frozen=True, slots=True)
class Proportion:
    """A proportion with its 95 % confidence interval.

    Attributes:
        value: 0 to 1.
        low: Lower bound of the interval.
        high: Upper bound of the interval.
        count: Number of trials.
    """

    value: float
    low: float
    high: float
    count: int


def proportion(successes: float, count: int) -> Proportion:
    """Returns `successes / count`, count > 0, with the 95 % Wilson score interval (Wilson, JASA 22, 1927)."""
    share, z2 = successes / count, _Z_95**2
    center = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z_95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return Proportion(share, max(0.0, center - half), min(1.0, center + half), count)


def mean_proportion(shares: NDArray[np.float64]) -> Proportion:
    """Returns the mean of one share (0 to 1) per trial, of at least one, with its 95 % interval (normal approximation).

    If all shares are equal (e.g. a single trial), their variance cannot be estimated; the result is then the Wilson
    interval, as if each trial were a binary outcome.
    """
    value, count, deviation = float(shares.mean()), len(shares), float(shares.std())
    if not deviation:
        return proportion(value * count, count)
    half = _Z_95 * deviation / math.sqrt(count)
    return Proportion(value, max(0.0, value - half), min(1.0, value + half), count)


@dataclass(frozen=True, slots=True)
class ClassScore:
    """Precision, recall and F1 of one class.

    Attributes:
        name: Class name.
        precision: Share of the predictions of this class that are correct, 0 to 1; 0 without predictions.
        recall: Share of the images of this class that are predicted as such; 0 without images.
        f1: Harmonic mean of precision and recall; 0 if both are 0.
        support: Number of images of this class.
        predicted: Number of predictions of this class.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int
    predicted: int


@dataclass(frozen=True, slots=True)
class Classification:
    """Classification metrics on one set of images.

    Attributes:
        accuracy: Top-1 accuracy.
        macro_f1: Mean F1 of the classes that occur in the labels or predictions.
        balanced_accuracy: Mean recall of the classes that occur in the labels.
        classes: Scores per class.
        confusion: Confusion matrix of counts; rows are labels, columns are predictions.
    """

    accuracy: Proportion
    macro_f1: float
    balanced_accuracy: float
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as a JSON-serializable dict."""
        return asdict(self)


def classification(logits: Logits, labels: Labels, names: tuple[str, ...]) -> Classification:
    """Computes the metrics of the top-1 predictions."""
    confusion = confusion_matrix(logits.argmax(axis=1), labels, len(names))
    correct, support, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall = correct / np.maximum(predicted, 1), correct / np.maximum(support, 1)
    f1 = 2 * correct / np.maximum(support + predicted, 1)
    columns = (precision.tolist(), recall.tolist(), f1.tolist(), support.tolist(), predicted.tolist())
    return Classification(
        accuracy=proportion(int(correct.sum()), len(labels)),
        macro_f1=float(f1[support + predicted > 0].mean()),
        balanced_accuracy=float(recall[support > 0].mean()),
        classes=tuple(ClassScore(*score) for score in zip(names, *columns, strict=True)),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def confusion_matrix(predictions: Labels, labels: Labels, classes: int) -> NDArray[np.int64]:
    """Returns int64 (classes, classes): counts by label (row) and prediction (column)."""
    return np.bincount(labels * classes + predictions, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the same images.

    Attributes:
        first: Name of the first model.
        second: Name of the second model.
        agreement: Share of images with the same prediction.
        first_only: Images that only the first model classifies correctly.
        second_only: Images that only the second model classifies correctly.
        p_value: Of the exact McNemar test, whose null hypothesis is equal accuracy.
    """

    first: str
    second: str
    agreement: Proportion
    first_only: int
    second_only: int
    p_value: float

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as a JSON-serializable dict."""
        return asdict(self)


def compare(first: tuple[str, Logits], second: tuple[str, Logits], labels: Labels) -> Comparison:
    """Compares two models, each given as (name, logits), on the same images."""
    predictions, others = first[1].argmax(axis=1), second[1].argmax(axis=1)
    correct, others_correct = predictions == labels, others == labels
    first_only, second_only = int((correct & ~others_correct).sum()), int((others_correct & ~correct).sum())
    agreement = proportion(int((predictions == others).sum()), len(labels))
    return Comparison(first[0], second[0], agreement, first_only, second_only, mcnemar(first_only, second_only))


def mcnemar(first_only: int, second_only: int) -> float:
    """Returns the two-sided p-value of the exact McNemar test (Psychometrika 12, 1947) from the discordant pairs."""
    discordant = first_only + second_only
    tail = sum(math.comb(discordant, k) for k in range(min(first_only, second_only) + 1))
    return min(1.0, 2 * tail / (1 << discordant))
