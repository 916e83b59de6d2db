"""Classification metrics, compared to manual calculations and published values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.metrics import Logits, classification, compare, confusion_matrix, mcnemar, mean_proportion, proportion

NAMES = ("a", "b", "c")


def answering(answers: list[int], classes: int = 3) -> Logits:
    """Returns logits whose largest class is that in `answers`."""
    return np.eye(classes, dtype=np.float32)[answers] * 5


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_interval_is_the_wilson_score_interval(successes: int, count: int, low: float, high: float) -> None:
    """Intervals equal the worked examples of Newcombe (Statistics in Medicine 17, 1998, method 3)."""
    share = proportion(successes, count)
    assert (round(share.low, 4), round(share.high, 4)) == (low, high)
    assert share.value == successes / count


@pytest.mark.parametrize(("shares", "low", "high"), [([1.0], 0.2065, 1.0), ([0.0] * 20, 0.0, 0.1611)])
def test_interval_of_equal_shares_has_a_width(shares: list[float], low: float, high: float) -> None:
    """The interval of a single image, or of a few that are all wrong, has a width."""
    mean = mean_proportion(np.array(shares))
    assert mean.value == shares[0]
    assert (round(mean.low, 4), round(mean.high, 4)) == (low, high)


def test_interval_of_varying_shares() -> None:
    """Its width is two standard errors to both sides."""
    mean = mean_proportion(np.array([0.4, 0.6] * 50))
    assert (mean.low, mean.value, mean.high) == pytest.approx((0.4804, 0.5, 0.5196), abs=1e-4)


def test_interval_at_the_size_of_fer2013() -> None:
    """72 % of 3,589 images has an interval of one and a half points to both sides."""
    share = proportion(round(0.72 * 3589), 3589)
    assert share.high - share.low == pytest.approx(0.0294, abs=0.0002)


def test_scores_of_a_small_example() -> None:
    """Precision, recall and F1 of three classes, calculated by hand."""
    labels = np.array([0, 0, 0, 1, 1, 2])
    result = classification(answering([0, 0, 1, 1, 0, 0]), labels, NAMES)
    assert result.confusion == ((2, 1, 0), (1, 1, 0), (1, 0, 0))
    assert result.accuracy.value == pytest.approx(3 / 6)
    a, b, c = result.classes
    assert (a.precision, a.recall, a.f1, a.support, a.predicted) == pytest.approx((2 / 4, 2 / 3, 4 / 7, 3, 4))
    assert (b.precision, b.recall, b.f1) == pytest.approx((1 / 2, 1 / 2, 1 / 2))
    assert (c.precision, c.recall, c.f1, c.support, c.predicted) == (0, 0, 0, 1, 0)
    assert result.balanced_accuracy == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert result.macro_f1 == pytest.approx((4 / 7 + 1 / 2 + 0) / 3)


def test_absent_class_does_not_lower_the_means() -> None:
    """A class without images does not lower the means."""
    result = classification(answering([0, 1]), np.array([0, 1]), NAMES)
    assert result.macro_f1 == result.balanced_accuracy == 1.0


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1))
def test_confusion_counts_every_image_once(pairs: list[tuple[int, int]]) -> None:
    """Rows are labels, columns are predictions."""
    answers, labels = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
    confusion = confusion_matrix(answers, labels, 3)
    assert confusion.sum(axis=1).tolist() == np.bincount(labels, minlength=3).tolist()
    assert confusion.sum(axis=0).tolist() == np.bincount(answers, minlength=3).tolist()
    assert confusion.trace() == (answers == labels).sum()


def test_two_models_are_compared_image_by_image() -> None:
    """Agreement counts equal predictions, correct or wrong; the others, those only one model classifies correctly."""
    labels = np.array([0, 0, 1, 1, 2])
    result = compare(("int8", answering([0, 0, 1, 0, 1])), ("float", answering([0, 1, 0, 1, 1])), labels)
    assert result.agreement.value == pytest.approx(2 / 5)
    assert (result.first_only, result.second_only) == (2, 1)
    assert result.p_value == 1.0


@pytest.mark.parametrize(("first", "second", "p"), [(0, 0, 1.0), (1, 9, 0.021484375), (9, 1, 0.021484375), (5, 5, 1.0)])
def test_mcnemar_equals_the_binomial_test(first: int, second: int, p: float) -> None:
    """1 against 9 has the probability 2 (1 + 10) / 1024."""
    assert mcnemar(first, second) == p


def test_mcnemar_of_large_numbers_does_not_overflow() -> None:
    """Thousands of discordant images cause no overflow."""
    assert 0 < mcnemar(1000, 1400) < 1e-15
    assert mcnemar(0, 3000) == 0.0
