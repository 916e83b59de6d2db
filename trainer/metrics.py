"""How right a classifier is: accuracy with its interval, scores for each class, agreement and comparison of two models.

Logits are float32 (N, C) with N > 0, and labels int64 (N,), index into the C classes.
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
    """A share of trials with its 95 % interval.

    Attributes:
        value: 0 to 1.
        low: Lower end of the interval.
        high: Upper end.
        count: Number of trials.
    """

    value: float
    low: float
    high: float
    count: int


def proportion(successes: float, count: int) -> Proportion:
    """The share `successes / count`, count > 0, with its 95 % interval: Wilson's score interval, JASA 22, 1927."""
    share, z2 = successes / count, _Z_95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z_95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return Proportion(share, max(0.0, centre - half), min(1.0, centre + half), count)


def mean_share(shares: NDArray[np.float64]) -> Proportion:
    """The mean of one share (0 to 1) for each trial, at least one, with its 95 % interval by the normal approximation.

    Where all shares are equal, as that of a single trial is, they tell nothing of how they vary: the interval is then
    Wilson's, as if each trial were all right or all wrong.
    """
    value, count, deviation = float(shares.mean()), len(shares), float(shares.std())
    if not deviation:
        return proportion(value * count, count)
    half = _Z_95 * deviation / math.sqrt(count)
    return Proportion(value, max(0.0, value - half), min(1.0, value + half), count)


@dataclass(frozen=True, slots=True)
class ClassScore:
    """How one class is told apart.

    Attributes:
        name: The class.
        precision: Share of the images called so that are so, 0 to 1; 0 when none is called so.
        recall: Share of the images that are so that are called so; 0 when there is none.
        f1: Harmonic mean of both; 0 when both are.
        support: Images that are so.
        predicted: Images called so.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int
    predicted: int


@dataclass(frozen=True, slots=True)
class Classification:
    """How right a classifier is on one set of images.

    Attributes:
        accuracy: Share of right answers.
        macro_f1: Mean F1 of the classes that occur in the labels or the answers.
        balanced_accuracy: Mean recall of the classes that occur in the labels.
        classes: One score for each class.
        confusion: Counts, row by true class, column by answer.
    """

    accuracy: Proportion
    macro_f1: float
    balanced_accuracy: float
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON takes them."""
        return asdict(self)


def classification(logits: Logits, labels: Labels, names: tuple[str, ...]) -> Classification:
    """Scores the most probable class of each image against its label."""
    confusion = confusion_matrix(logits.argmax(axis=1), labels, len(names))
    right, support, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall = right / np.maximum(predicted, 1), right / np.maximum(support, 1)
    f1 = 2 * right / np.maximum(support + predicted, 1)
    columns = (precision.tolist(), recall.tolist(), f1.tolist(), support.tolist(), predicted.tolist())
    return Classification(
        accuracy=proportion(int(right.sum()), len(labels)),
        macro_f1=float(f1[support + predicted > 0].mean()),
        balanced_accuracy=float(recall[support > 0].mean()),
        classes=tuple(ClassScore(*score) for score in zip(names, *columns, strict=True)),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def confusion_matrix(answers: Labels, labels: Labels, classes: int) -> NDArray[np.int64]:
    """int64 (classes, classes): how often each true class (row) was answered with each class (column)."""
    return np.bincount(labels * classes + answers, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the same images.

    Attributes:
        first: Name of the one.
        second: Name of the other.
        agreement: Share of images to which both give the same answer.
        first_only: Images that only the first gets right.
        second_only: Images that only the second gets right.
        p_value: How often such a difference or a larger one would come by chance if both were equally good.
    """

    first: str
    second: str
    agreement: Proportion
    first_only: int
    second_only: int
    p_value: float

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON takes them."""
        return asdict(self)


def compare(first: tuple[str, Logits], second: tuple[str, Logits], labels: Labels) -> Comparison:
    """Compares two (name, logits) on the same images."""
    answers, others = first[1].argmax(axis=1), second[1].argmax(axis=1)
    right, others_right = answers == labels, others == labels
    first_only, second_only = int((right & ~others_right).sum()), int((others_right & ~right).sum())
    agreement = proportion(int((answers == others).sum()), len(labels))
    return Comparison(first[0], second[0], agreement, first_only, second_only, mcnemar(first_only, second_only))


def mcnemar(first_only: int, second_only: int) -> float:
    """Two-sided p-value of the exact McNemar test (Psychometrika 12, 1947) from the numbers of discordant pairs."""
    discordant = first_only + second_only
    tail = sum(math.comb(discordant, k) for k in range(min(first_only, second_only) + 1))
    return min(1.0, 2 * tail / (1 << discordant))
