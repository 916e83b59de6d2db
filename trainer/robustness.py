"""Robustness: accuracy under each corruption of `trainer.corruptions` at each severity."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trainer.corruptions import CORRUPTIONS, SEVERITIES, Corruption, corrupt
from trainer.data import FaceSet
from trainer.metrics import Proportion, mean_proportion
from trainer.targets import Predictor

Step = tuple[Corruption, int]
"""A corruption at one severity."""

STEPS: Final[Sequence[Step]] = tuple(itertools.product(CORRUPTIONS, SEVERITIES))


@dataclass(frozen=True, slots=True)
class CorruptionScore:
    """Accuracy under one corruption.

    Attributes:
        name: Name of the corruption.
        accuracies: Accuracy at severity 1 to 5.
        mean: Mean accuracy over the severities.
    """

    name: str
    accuracies: tuple[float, ...]
    mean: float


@dataclass(frozen=True, slots=True)
class Robustness:
    """Accuracy of one model under all corruptions.

    Attributes:
        mean_corruption_accuracy: Mean over all corruptions and severities. Its interval reflects the sampling of the
            images, each of which counts as one trial.
        corruptions: Scores in the order of `corruptions.CORRUPTIONS`.
    """

    mean_corruption_accuracy: Proportion
    corruptions: tuple[CorruptionScore, ...]

    @property
    def by_severity(self) -> tuple[float, ...]:
        """Mean accuracy over all corruptions, at severity 1 to 5."""
        return tuple(np.mean([score.accuracies for score in self.corruptions], axis=0).tolist())

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as a JSON-serializable dict."""
        return asdict(self)


def measure_robustness(
    faces: FaceSet,
    predictors: Mapping[str, Predictor],
    progress: Callable[[Sequence[Step]], Iterable[Step]] = iter,
) -> dict[str, Robustness]:
    """Evaluates each model on all images under every corruption at every severity.

    Args:
        faces: At least one image.
        predictors: Models by name, from uint8 (N, 48, 48) to logits float32 (N, classes).
        progress: Iterates over the 55 steps; may display a progress bar.
    """
    correct: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in predictors}
    for corruption, severity in progress(STEPS):
        images = corrupt(faces.images, corruption, severity)
        for name, predict in predictors.items():
            correct[name].append(predict(images).argmax(axis=1) == faces.labels)
    shape = (len(CORRUPTIONS), len(SEVERITIES), len(faces))
    return {name: _robustness(np.reshape(flags, shape)) for name, flags in correct.items()}


def _robustness(correct: NDArray[np.bool_]) -> Robustness:
    """Aggregates bool (corruptions, severities, N)."""
    scores = zip(CORRUPTIONS, correct.mean(axis=2), strict=True)
    return Robustness(
        mean_corruption_accuracy=mean_proportion(correct.mean(axis=(0, 1))),
        corruptions=tuple(CorruptionScore(c.name, tuple(row.tolist()), float(row.mean())) for c, row in scores),
    )
