"""Labels to train on: FER-2013's own, or the votes of FER+'s annotators (Barsoum et al. 2016, arXiv:1608.01041)."""

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
"""FER-2013's seven in their order, and contempt."""

_COLUMN_OF: Final = {"angry": "anger", "happy": "happiness", "sad": "sadness"}
FERPLUS_COLUMNS: Final = [VOTE_COLUMNS.index(_COLUMN_OF.get(emotion, emotion)) for emotion in FERPLUS_EMOTIONS]
"""The column of each emotion in the votes."""


def class_names(kind: LabelKind) -> tuple[str, ...]:
    """Returns the classes of these labels, in index order."""
    return EMOTIONS if kind == "fer2013" else FERPLUS_EMOTIONS


def with_labels(faces: FaceSet, kind: LabelKind) -> FaceSet:
    """Returns the images that have a label of this kind, with that label.

    For `ferplus`, that is the strict majority: single votes are dropped as noise, more than half of the remaining
    votes must agree, and images that are `unknown` or not a face are left out.

    Raises:
        DataError: For `ferplus`: there are no votes, or no image with a strict majority.
    """
    if kind == "fer2013":
        return faces
    votes = require_votes(faces)
    clean = np.where(votes > 1, votes, 0)
    winner = clean.argmax(axis=1)
    majority = 2 * clean.max(axis=1) > clean.sum(axis=1)
    kept = np.flatnonzero(majority & np.isin(winner, FERPLUS_COLUMNS))
    if not kept.size:
        raise DataError(f"no image among {len(faces)} has a strict majority of FER+ votes",
                        remedy="Add images, or use FER-2013's own labels")  # fmt: skip
    position = {column: index for index, column in enumerate(FERPLUS_COLUMNS)}
    labels = np.array([position[column] for column in winner[kept]], np.int64)
    chosen = faces.take(kept)
    return FaceSet(chosen.images, labels, chosen.names, chosen.votes)


def vote_shares(faces: FaceSet) -> NDArray[np.float32]:
    """Returns the share of each of `FERPLUS_EMOTIONS` in the votes for any of them, float32 (N, 8); zeros without any.

    Raises:
        DataError: There are no votes.
    """
    emotions = require_votes(faces)[:, FERPLUS_COLUMNS].astype(np.float32)
    return np.asarray(emotions / np.maximum(emotions.sum(axis=1, keepdims=True), 1), np.float32)


def require_votes(faces: FaceSet) -> NDArray[np.int64]:
    """Returns the votes, int64 (N, 10).

    Raises:
        DataError: There are none.
    """
    if faces.votes is None:
        raise DataError("FER+ votes are needed, and there are none",
                        remedy="Add --votes fer2013new.csv, with fer2013.csv as --data")  # fmt: skip
    return faces.votes
