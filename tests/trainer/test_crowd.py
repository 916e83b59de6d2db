"""Statistics of `tests.bench.crowd` that README and model cards quote."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from edge.contract import EMOTIONS, softmax
from tests.bench.crowd import agreement, calibration_by_agreement
from trainer.data import FaceSet
from trainer.errors import DataError
from trainer.labels import FERPLUS_EMOTIONS, with_labels
from trainer.layouts import VOTE_COLUMNS

VOTES: list[dict[str, int]] = [
    {"fear": 8, "neutral": 2},  # a majority for the label
    {"surprise": 8, "fear": 2},  # one against it
    {"fear": 4, "surprise": 1, "sadness": 1, "neutral": 1, "anger": 1, "happiness": 1, "NF": 1},  # one of those left
    {"fear": 4, "surprise": 3, "sadness": 3},  # none, and the label said most often
    {"sadness": 5, "fear": 5},  # a tie, of which the first counts
    {"unknown": 6, "happiness": 4},  # nothing that can be known
    {"NF": 10},  # no vote for an emotion
]


def test_without_any_majority_there_is_a_clear_error(make_faces: Callable[..., FaceSet]) -> None:
    """There is an error message instead of a division by zero."""
    votes = np.array([[2 * (column in ("fear", "sadness")) for column in VOTE_COLUMNS]])
    with pytest.raises(DataError, match="no image among 1 has a strict majority"):
        with_labels(replace(make_faces([0]), votes=votes), "ferplus")


@pytest.fixture
def faces(make_faces: Callable[..., FaceSet]) -> FaceSet:
    """Six images labeled fear, and one, the last but one, labeled happy."""
    made = make_faces([EMOTIONS.index(name) for name in (*["fear"] * 5, "happy", "fear")])
    return replace(made, votes=np.array([[one.get(column, 0) for column in VOTE_COLUMNS] for one in VOTES]))


def test_agreement_by_plurality_and_by_majority(faces: FaceSet) -> None:
    """Plurality, including votes for `unknown`, and strict majority, if there is one."""
    happy, fear = sorted(agreement(faces)[:-1], key=lambda row: row.images)
    every = agreement(faces)[-1]
    assert (fear.label, fear.images, fear.plurality, fear.decided, fear.majority) == ("fear", 6, 3 / 6, 3, 2 / 3)
    assert (happy.label, happy.plurality, happy.decided) == ("happy", 0, 0)
    assert np.isnan(happy.majority)
    assert (every.label, every.images, every.plurality, every.decided) == ("all", 7, 3 / 7, 3)


def test_calibration_by_level_of_agreement(faces: FaceSet) -> None:
    """A bundle that always predicts fear is correct if fear has most votes; images without votes are excluded."""
    logits = np.tile(2 * np.eye(8, dtype=np.float32)[FERPLUS_EMOTIONS.index("fear")], (len(faces), 1))
    confidence = float(softmax(logits)[0].max())
    rows = calibration_by_agreement(logits, faces)
    _, _, undecided, every = rows
    assert [row.images for row in rows] == [2, 1, 3, 6]
    # Of equal emotions the first in FER-2013's order is right, and that is fear.
    assert [row.accuracy for row in rows] == [1 / 2, 1, 2 / 3, 4 / 6]
    assert every.confidence == pytest.approx(confidence)
    assert undecided.ece == pytest.approx(abs(confidence - 2 / 3))
