"""Measures one or more models on one set of faces: how right, how well calibrated, how much they agree."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge.contract import EMOTIONS, softmax
from trainer.calibration import Calibration, RiskPoint, calibration, risk_coverage
from trainer.data import FaceSet
from trainer.metrics import Classification, Comparison, classification, compare
from trainer.robustness import Robustness
from trainer.targets import Predictor

SCHEMA_VERSION: Final = 1
"""Of `Evaluation.to_dict`; raised when a key changes its meaning or goes."""

FOLDER: Final = "folder"
"""Stands for the split where the data has none."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What was evaluated on what.

    Attributes:
        target: Name of the bundle or the training run.
        data: Path of the data set.
        split: One of `data.SPLITS`, or `FOLDER`.
    """

    target: str
    data: str
    split: str

    @property
    def place(self) -> str:
        """Where the images come from, in words."""
        return f"the folder {self.data}" if self.split == FOLDER else f"the {self.split} split of {self.data}"


@dataclass(frozen=True, slots=True)
class ModelResult:
    """What one model came to.

    Attributes:
        classification: Over all images.
        without_leaked: Over the images without a near-duplicate in the training split; None where that is not known.
        calibration: Over all images.
        risk_coverage: Coverage and accuracy at thresholds from 0.00 to 0.95.
        robustness: Over all images under every corruption; None where that was not measured.
        probabilities: float32 (N, classes), in the order of the images; not part of the JSON.
    """

    classification: Classification
    without_leaked: Classification | None
    calibration: Calibration
    risk_coverage: tuple[RiskPoint, ...]
    robustness: Robustness | None
    probabilities: NDArray[np.float32] = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON takes them."""
        left = self.without_leaked
        return {
            **self.classification.to_dict(),
            "without_leaked": None if left is None else left.to_dict(),
            "calibration": self.calibration.to_dict(),
            "risk_coverage": [asdict(point) for point in self.risk_coverage],
            "robustness": None if self.robustness is None else self.robustness.to_dict(),
        }


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result.

    Attributes:
        labels: The classes in index order.
        images: Number of images.
        leaked: How many of them have a near-duplicate in the training split, or None where that is not known.
        models: One result for each model, in the order of the predictors.
        comparisons: One for each pair of models.
    """

    labels: tuple[str, ...]
    images: int
    leaked: int | None
    models: dict[str, ModelResult]
    comparisons: tuple[Comparison, ...]

    @property
    def robustness(self) -> dict[str, Robustness]:
        """By name, that of the models of which it was measured."""
        return {name: model.robustness for name, model in self.models.items() if model.robustness}

    def to_dict(self) -> dict[str, Any]:
        """The result for JSON; docs/schema/evaluation.json describes the keys."""
        return {
            "schema_version": SCHEMA_VERSION,
            "labels": list(self.labels),
            "images": self.images,
            "leaked": self.leaked,
            "models": {name: model.to_dict() for name, model in self.models.items()},
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
        }


def document(subject: Subject, evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation for JSON together with what it is of."""
    return {**asdict(subject), **evaluation.to_dict()}


def evaluate(
    faces: FaceSet,
    predictors: Mapping[str, Predictor],
    *,
    labels: tuple[str, ...] = EMOTIONS,
    leaked: NDArray[np.int64] | None = None,
    robustness: Mapping[str, Robustness] | None = None,
) -> Evaluation:
    """Runs each model on all images and measures it.

    Args:
        faces: At least one image.
        predictors: The models by name, from uint8 (N, 48, 48) to logits float32 (N, classes). Those of a bundle are
            calibrated; those of a run are as the network gives them, and so is the calibration that is measured of it.
        labels: The classes that both the logits and the images' labels are indices of.
        leaked: Indices of the images that have a near-duplicate in the training split (`duplicates.leaked`).
        robustness: What corruption leaves of some or all of the models, by name (`robustness.measure_robustness`).
    """
    robustness = robustness or {}
    logits = {name: predict(faces.images) for name, predict in predictors.items()}
    clean = None if leaked is None else np.setdiff1d(np.arange(len(faces)), leaked)
    return Evaluation(
        labels=labels,
        images=len(faces),
        leaked=None if leaked is None else len(leaked),
        models={
            name: _measure(outputs, faces.labels, labels, clean, robustness.get(name))
            for name, outputs in logits.items()
        },
        comparisons=tuple(compare(a, b, faces.labels) for a, b in itertools.combinations(logits.items(), 2)),
    )


def _measure(
    logits: NDArray[np.float32],
    truth: NDArray[np.int64],
    labels: tuple[str, ...],
    clean: NDArray[np.int64] | None,
    robustness: Robustness | None,
) -> ModelResult:
    return ModelResult(
        classification=classification(logits, truth, labels),
        without_leaked=classification(logits[clean], truth[clean], labels)
        if clean is not None and clean.size
        else None,
        calibration=calibration(logits, truth),
        risk_coverage=risk_coverage(logits, truth),
        robustness=robustness,
        probabilities=softmax(logits),
    )
