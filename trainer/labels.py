"""Whose labels a model learns: FER-2013's own, or the crowd votes of FER+ (Barsoum et al. 2016, arXiv:1608.01041)."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from edge.contract import EMOTIONS
from trainer.data import FaceSet
from trainer.errors import DataError
from trainer.layouts import VOTE_COLUMNS

LabelKind = Literal["fer2013", "ferplus"]

FERPLUS_EMOTIONS: Final = (*EMOTIONS, "contempt")
"""FER+ adds contempt; the other seven keep FER-2013's order."""

_COLUMN_OF: Final = {"angry": "anger", "happy": "happiness", "sad": "sadness"}
FERPLUS_COLUMNS: Final = [VOTE_COLUMNS.index(_COLUMN_OF.get(emotion, emotion)) for emotion in FERPLUS_EMOTIONS]
"""Of the votes, the column of each."""


def class_names(kind: LabelKind) -> tuple[str, ...]:
    """The classes that a model with these labels tells apart, in index order."""
    return EMOTIONS if kind == "fer2013" else FERPLUS_EMOTIONS


def with_labels(faces: FaceSet, kind: LabelKind) -> FaceSet:
    """The images that have a label of this kind, with that label.

    For `ferplus` that is the strict majority: votes of 1 are taken for noise and dropped, more than half of the
    remaining votes must agree, and images that are `unknown` or no face are left out.

    Raises:
        DataError: `ferplus` is asked for and there are no votes, or they agree on no image.
    """
    if kind == "fer2013":
        return faces
    votes = require_votes(faces)
    clean = np.where(votes > 1, votes, 0)
    winner = clean.argmax(axis=1)
    majority = 2 * clean.max(axis=1) > clean.sum(axis=1)
    kept = np.flatnonzero(majority & np.isin(winner, FERPLUS_COLUMNS))
    if not kept.size:
        raise DataError(f"there is no image among {len(faces)} on which a strict majority of FER+'s votes agrees",
                        remedy="Give more images, or do without FER+'s labels")  # fmt: skip
    position = {column: index for index, column in enumerate(FERPLUS_COLUMNS)}
    labels = np.array([position[column] for column in winner[kept]], np.int64)
    chosen = faces.take(kept)
    return FaceSet(chosen.images, labels, chosen.names, chosen.votes)


def vote_shares(faces: FaceSet) -> NDArray[np.float32]:
    """float32 (N, 8): share of each of `FERPLUS_EMOTIONS` among the votes; zeros where no vote names an emotion.

    Raises:
        DataError: There are no votes.
    """
    emotions = require_votes(faces)[:, FERPLUS_COLUMNS].astype(np.float32)
    return np.asarray(emotions / np.maximum(emotions.sum(axis=1, keepdims=True), 1), np.float32)


def require_votes(faces: FaceSet) -> NDArray[np.int64]:
    """The votes, int64 (N, 10).

    Raises:
        DataError: There are none.
    """
    if faces.votes is None:
        raise DataError("FER+ votes are needed and not there",
                        remedy="Give --votes fer2013new.csv together with fer2013.csv")  # fmt: skip
    return faces.votes
