"""Evaluates one or more models on a set of faces: classification metrics, calibration, agreement and robustness."""

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
"""Version of `Evaluation.to_dict`; incremented when a key is removed or changes its meaning."""

FOLDER: Final = "folder"
"""Split name for data without splits."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What was evaluated on what.

    Attributes:
        target: Name of the bundle or training run.
        data: Path of the data set.
        split: One of `data.SPLITS`, or `FOLDER`.
    """

    target: str
    data: str
    split: str

    @property
    def source(self) -> str:
        """Description of the images' source for display."""
        return f"the folder {self.data}" if self.split == FOLDER else f"the {self.split} split of {self.data}"


@dataclass(frozen=True, slots=True)
class ModelResult:
    """Results of one model.

    Attributes:
        classification: Metrics over all images.
        without_leaked: Metrics over the images without a near-duplicate in the training split; None if unknown.
        calibration: Calibration over all images.
        risk_coverage: Coverage and accuracy at thresholds from 0.00 to 0.95.
        robustness: Accuracy under corruption over all images; None if not measured.
        probabilities: float32 (N, classes), in the order of the images; not part of the JSON.
    """

    classification: Classification
    without_leaked: Classification | None
    calibration: Calibration
    risk_coverage: tuple[RiskPoint, ...]
    robustness: Robustness | None
    probabilities: NDArray[np.float32] = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Returns a JSON-serializable dict."""
        without_leaked = self.without_leaked
        return {
            **self.classification.to_dict(),
            "without_leaked": None if without_leaked is None else without_leaked.to_dict(),
            "calibration": self.calibration.to_dict(),
            "risk_coverage": [asdict(point) for point in self.risk_coverage],
            "robustness": None if self.robustness is None else self.robustness.to_dict(),
        }


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Result of an evaluation.

    Attributes:
        labels: Class names in index order.
        images: Number of images.
        leaked: Number of images with a near-duplicate in the training split; None if unknown.
        models: Results by model name, in the order of the predictors.
        comparisons: One for each pair of models.
    """

    labels: tuple[str, ...]
    images: int
    leaked: int | None
    models: dict[str, ModelResult]
    comparisons: tuple[Comparison, ...]

    @property
    def robustness(self) -> dict[str, Robustness]:
        """Robustness by model name, for the models with robustness results."""
        return {name: model.robustness for name, model in self.models.items() if model.robustness}

    def to_dict(self) -> dict[str, Any]:
        """Returns a JSON-serializable dict, described by docs/schema/evaluation.json."""
        return {
            "schema_version": SCHEMA_VERSION,
            "labels": list(self.labels),
            "images": self.images,
            "leaked": self.leaked,
            "models": {name: model.to_dict() for name, model in self.models.items()},
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
        }


def document(subject: Subject, evaluation: Evaluation) -> dict[str, Any]:
    """Returns the JSON document of an evaluation, including its subject."""
    return {**asdict(subject), **evaluation.to_dict()}


def evaluate(
    faces: FaceSet,
    predictors: Mapping[str, Predictor],
    *,
    labels: tuple[str, ...] = EMOTIONS,
    leaked: NDArray[np.int64] | None = None,
    robustness: Mapping[str, Robustness] | None = None,
) -> Evaluation:
    """Runs each model on all images and computes its metrics.

    Args:
        faces: At least one image.
        predictors: Models by name, from uint8 (N, 48, 48) to logits float32 (N, classes). The logits of a bundle are
            calibrated; those of a training run are raw, so its calibration metrics are those of the raw network.
        labels: Class names of both the logits and the images' labels.
        leaked: Indices of the images with a near-duplicate in the training split (`duplicates.leaked`).
        robustness: Robustness of some or all of the models, by name (`robustness.measure_robustness`).
    """
    robustness = robustness or {}
    logits = {name: predict(faces.images) for name, predict in predictors.items()}
    not_leaked = None if leaked is None else np.setdiff1d(np.arange(len(faces)), leaked)
    return Evaluation(
        labels=labels,
        images=len(faces),
        leaked=None if leaked is None else len(leaked),
        models={
            name: _measure(outputs, faces.labels, labels, not_leaked, robustness.get(name))
            for name, outputs in logits.items()
        },
        comparisons=tuple(compare(a, b, faces.labels) for a, b in itertools.combinations(logits.items(), 2)),
    )


def _measure(
    logits: NDArray[np.float32],
    truth: NDArray[np.int64],
    labels: tuple[str, ...],
    not_leaked: NDArray[np.int64] | None,
    robustness: Robustness | None,
) -> ModelResult:
    return ModelResult(
        classification=classification(logits, truth, labels),
        without_leaked=classification(logits[not_leaked], truth[not_leaked], labels)
        if not_leaked is not None and not_leaked.size
        else None,
        calibration=calibration(logits, truth),
        risk_coverage=risk_coverage(logits, truth),
        robustness=robustness,
        probabilities=softmax(logits),
    )
