"""What FER+'s ten raters say of FER-2013's labels, and which bundle says what they see.

    python -m tests.bench.crowd --data fer2013.csv --votes fer2013new.csv
    python -m tests.bench.crowd models/default models/ferplus --data fer2013.csv --votes fer2013new.csv

Without a bundle it counts on how many images of each label the raters say the same. With bundles it holds each against
FER-2013's labels and against the raters' majority, as it answers on a device, where contempt is no answer; and, where
one speaks the raters' eight emotions, its confidence against what they say, with a majority and without. That is on
PublicTest, since what comes of it is a choice; `--split test` reports it on faces that neither was tuned to.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from edge.classify import BundleClassifier
from edge.contract import EMOTIONS, softmax
from tests.bench.smoothing import agreed_on
from trainer.calibration import calibration
from trainer.data import Dataset, FaceSet, load_dataset
from trainer.labels import FERPLUS_COLUMNS, FERPLUS_EMOTIONS, require_votes, vote_shares, with_labels
from trainer.metrics import proportion
from trainer.targets import open_target
from trainer.text import percent, with_interval


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often the raters say of images what their label says.

    Attributes:
        label: FER-2013's label, or `all`.
        images: How many have it.
        most_said: Share of them of which the raters said that most often: the largest of ten counts, `unknown` among
            them, and of equal ones the first in FER+'s table.
        decided: How many of them have a strict majority (`trainer.labels.with_labels`).
        majority: Share of these of which that majority says the same.
    """

    label: str
    images: int
    most_said: float
    decided: int
    majority: float


@dataclass(frozen=True, slots=True)
class Trust:
    """How far a bundle's confidence can be believed.

    Attributes:
        faces: Which.
        images: How many.
        confidence: Mean confidence, 0 to 1.
        right: Share of right answers.
        error: Expected calibration error, 0 to 1.
    """

    faces: str
    images: int
    confidence: float
    right: float
    error: float


def main() -> None:
    """Prints tables."""
    arguments = _arguments()
    dataset = load_dataset(arguments.data, arguments.votes)
    console = Console(width=140)
    if not arguments.bundles:
        console.print(_agreement_table(joined(dataset)))
        return
    faces = dataset.split(arguments.split)
    console.print(_accuracy_table(arguments.bundles, faces))
    for bundle in arguments.bundles:
        target = open_target(bundle)
        if target.labels == FERPLUS_EMOTIONS:
            (predict,) = target.predictors.values()
            console.print(_trust_table(target.name, predict(faces.images), faces))


def agreement(faces: FaceSet) -> list[Agreement]:
    """For each label that occurs and for all together, by both ways of asking the raters."""
    said = require_votes(faces).argmax(axis=1) == np.take(FERPLUS_COLUMNS, faces.labels)
    crowd = with_labels(faces, "ferplus")
    decided = np.isin(faces.names, crowd.names)
    same = np.zeros(len(faces), bool)
    same[decided] = crowd.labels == faces.labels[decided]  # both are in the order of the images
    groups = {name: faces.labels == index for index, name in enumerate(EMOTIONS)}
    groups["all"] = np.ones(len(faces), bool)
    return [
        Agreement(name, int(of.sum()), _mean(said[of]), int((of & decided).sum()), _mean(same[of & decided]))
        for name, of in groups.items()
        if of.any()
    ]


def trust(logits: NDArray[np.float32], faces: FaceSet) -> list[Trust]:
    """With a majority, without one, and together, of all faces of which a rater names an emotion.

    A strict majority (`trainer.labels.with_labels`) is one of all votes, or only one of those that are left when single
    votes are dropped. Where there is none, the emotion that the raters name most often is held to be right.

    Args:
        logits: float32 (N, 8), calibrated.
        faces: N, with votes.
    """
    votes, shares = require_votes(faces), vote_shares(faces)
    labels, named = shares.argmax(axis=1), shares.any(axis=1)
    decided = np.isin(faces.names, with_labels(faces, "ferplus").names)
    of_all = 2 * votes.max(axis=1) > votes.sum(axis=1)
    groups = {
        "a majority of all votes": decided & of_all,
        "a majority of those left": decided & ~of_all,
        "no majority": named & ~decided,
        "all": named,
    }
    return [Trust(name, *_confidence(logits[of], labels[of])) for name, of in groups.items() if of.any()]


def _confidence(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[int, float, float, float]:
    probabilities = softmax(logits)
    right = probabilities.argmax(axis=1) == labels
    return len(labels), float(probabilities.max(axis=1).mean()), float(right.mean()), calibration(logits, labels).ece


def _mean(flags: NDArray[np.bool_]) -> float:
    """NaN where there is none."""
    return float(flags.mean()) if flags.size else math.nan


def _agreement_table(faces: FaceSet) -> Table:
    table = Table("FER-2013's label", "images", "said most often", "with a majority", "the majority says so")
    for row in agreement(faces):
        table.add_row(row.label, f"{row.images:,}", percent(row.most_said), f"{row.decided:,}", percent(row.majority))
    return table


def _accuracy_table(bundles: Sequence[Path], faces: FaceSet) -> Table:
    seen = agreed_on(faces)
    table = Table("bundle", f"FER-2013's label, {len(faces):,} images", f"the crowd's majority, {len(seen):,} images")
    for bundle in bundles:
        classifier = BundleClassifier(bundle)
        table.add_row(str(bundle), _accuracy(classifier, faces), _accuracy(classifier, seen))
    return table


def _accuracy(classifier: BundleClassifier, faces: FaceSet) -> str:
    right = classifier.classify(faces.images).argmax(axis=1) == faces.labels
    return with_interval(proportion(int(right.sum()), len(right)))


def _trust_table(name: str, logits: NDArray[np.float32], faces: FaceSet) -> Table:
    table = Table(f"{name}, all eight", "images", "confidence", "right", "calibration error")
    for row in trust(logits, faces):
        table.add_row(row.faces, f"{row.images:,}", percent(row.confidence), percent(row.right), f"{row.error:.3f}")
    return table


def joined(dataset: Dataset) -> FaceSet:
    """The images of all splits as one set: what is counted of labels and votes chooses nothing."""
    splits = dataset.splits.values()
    return FaceSet(
        images=np.concatenate([faces.images for faces in splits]),
        labels=np.concatenate([faces.labels for faces in splits]),
        names=tuple(name for faces in splits for name in faces.names),
        votes=np.concatenate([require_votes(faces) for faces in splits]),
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", type=Path, nargs="*")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--votes", type=Path, required=True)
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    return parser.parse_args()


if __name__ == "__main__":
    main()
