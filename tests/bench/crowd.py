"""Agreement of FER+'s ten raters with FER-2013's labels and with the predictions of bundles.

    python -m tests.bench.crowd --data fer2013.csv --votes fer2013new.csv
    python -m tests.bench.crowd models/default models/ferplus --data fer2013.csv --votes fer2013new.csv

Without bundles, prints for each FER-2013 label how often the raters agree with it. With bundles, prints the accuracy
of each by FER-2013's labels and by the raters' majority, with predictions as in the agent, which excludes contempt; and
for bundles with the eight FER+ classes, confidence and accuracy by the raters' level of agreement. The default split is
PublicTest, because the results are used for model selection; `--split test` selects the held-out images.
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
from tests.bench.smoothing import majority_faces
from trainer.calibration import calibration
from trainer.data import Dataset, FaceSet, load_dataset
from trainer.labels import FERPLUS_COLUMNS, FERPLUS_EMOTIONS, require_votes, vote_shares, with_labels
from trainer.metrics import proportion
from trainer.targets import open_target
from trainer.text import percent, with_interval


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often the raters agree with FER-2013's label.

    Attributes:
        label: FER-2013's label, or `all`.
        images: Number of images with this label.
        plurality: Share of the images whose most frequent vote is the label: the largest of ten counts, including
            `unknown`; ties are resolved in the column order of FER+.
        decided: Number of images with a strict majority (`trainer.labels.with_labels`).
        majority: Share of these whose majority vote is the label.
    """

    label: str
    images: int
    plurality: float
    decided: int
    majority: float


@dataclass(frozen=True, slots=True)
class GroupCalibration:
    """Calibration of a bundle on the images of one level of agreement.

    Attributes:
        group: Level of agreement between the raters.
        images: Number of images.
        confidence: Mean confidence, 0 to 1.
        accuracy: Top-1 accuracy, 0 to 1.
        ece: Expected calibration error, 0 to 1.
    """

    group: str
    images: int
    confidence: float
    accuracy: float
    ece: float


def main() -> None:
    """Prints the tables."""
    arguments = _arguments()
    dataset = load_dataset(arguments.data, arguments.votes)
    console = Console(width=140)
    if not arguments.bundles:
        console.print(_agreement_table(merged(dataset)))
        return
    faces = dataset.split(arguments.split)
    console.print(_accuracy_table(arguments.bundles, faces))
    for bundle in arguments.bundles:
        target = open_target(bundle)
        if target.labels == FERPLUS_EMOTIONS:
            (predict,) = target.predictors.values()
            console.print(_calibration_table(target.name, predict(faces.images), faces))


def agreement(faces: FaceSet) -> list[Agreement]:
    """Returns the raters' agreement with each label that occurs, and with all labels."""
    plurality = require_votes(faces).argmax(axis=1) == np.take(FERPLUS_COLUMNS, faces.labels)
    crowd = with_labels(faces, "ferplus")
    decided = np.isin(faces.names, crowd.names)
    agrees = np.zeros(len(faces), bool)
    agrees[decided] = crowd.labels == faces.labels[decided]  # both in the order of the images
    groups = {name: faces.labels == index for index, name in enumerate(EMOTIONS)}
    groups["all"] = np.ones(len(faces), bool)
    return [
        Agreement(name, int(of.sum()), _mean(plurality[of]), int((of & decided).sum()), _mean(agrees[of & decided]))
        for name, of in groups.items()
        if of.any()
    ]


def calibration_by_agreement(logits: NDArray[np.float32], faces: FaceSet) -> list[GroupCalibration]:
    """Returns confidence, accuracy and ECE by the raters' level of agreement, for all faces with a vote for an emotion.

    A strict majority (`trainer.labels.with_labels`) is a majority of all votes, or only of those that remain after
    single votes are dropped. Without one, the most frequent emotion is taken as the label.

    Args:
        logits: float32 (N, 8), calibrated.
        faces: N faces with votes.
    """
    votes, shares = require_votes(faces), vote_shares(faces)
    labels, named = shares.argmax(axis=1), shares.any(axis=1)
    decided = np.isin(faces.names, with_labels(faces, "ferplus").names)
    of_all = 2 * votes.max(axis=1) > votes.sum(axis=1)
    groups = {
        "majority of all votes": decided & of_all,
        "majority of the remaining votes": decided & ~of_all,
        "no majority": named & ~decided,
        "all": named,
    }
    return [GroupCalibration(name, *_confidence(logits[of], labels[of])) for name, of in groups.items() if of.any()]


def _confidence(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[int, float, float, float]:
    probabilities = softmax(logits)
    correct = probabilities.argmax(axis=1) == labels
    return len(labels), float(probabilities.max(axis=1).mean()), float(correct.mean()), calibration(logits, labels).ece


def _mean(flags: NDArray[np.bool_]) -> float:
    """Returns the mean, or NaN of an empty array."""
    return float(flags.mean()) if flags.size else math.nan


def _agreement_table(faces: FaceSet) -> Table:
    table = Table("FER-2013 label", "images", "agrees with plurality", "with majority", "agrees with majority")
    for row in agreement(faces):
        table.add_row(row.label, f"{row.images:,}", percent(row.plurality), f"{row.decided:,}", percent(row.majority))
    return table


def _accuracy_table(bundles: Sequence[Path], faces: FaceSet) -> Table:
    with_majority = majority_faces(faces)
    table = Table(
        "bundle",
        f"accuracy by FER-2013 labels, {len(faces):,} images",
        f"accuracy by FER+ majority, {len(with_majority):,} images",
    )
    for bundle in bundles:
        classifier = BundleClassifier(bundle)
        table.add_row(str(bundle), _accuracy(classifier, faces), _accuracy(classifier, with_majority))
    return table


def _accuracy(classifier: BundleClassifier, faces: FaceSet) -> str:
    correct = classifier.classify(faces.images).argmax(axis=1) == faces.labels
    return with_interval(proportion(int(correct.sum()), len(correct)))


def _calibration_table(name: str, logits: NDArray[np.float32], faces: FaceSet) -> Table:
    table = Table(f"{name}, all eight classes", "images", "mean confidence", "accuracy", "ECE")
    for row in calibration_by_agreement(logits, faces):
        table.add_row(row.group, f"{row.images:,}", percent(row.confidence), percent(row.accuracy), f"{row.ece:.3f}")
    return table


def merged(dataset: Dataset) -> FaceSet:
    """Returns the images of all splits as one set, for statistics that select no model."""
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
