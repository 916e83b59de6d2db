"""How much accuracy is left when the images are corrupted, by each corruption of `trainer.corruptions` and severity."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trainer.corruptions import CORRUPTIONS, SEVERITIES, Corruption, corrupt
from trainer.data import FaceSet
from trainer.metrics import Proportion, mean_share
from trainer.targets import Predictor

Step = tuple[Corruption, int]
"""A corruption at one severity."""

STEPS: Final[Sequence[Step]] = tuple(itertools.product(CORRUPTIONS, SEVERITIES))


@dataclass(frozen=True, slots=True)
class CorruptionScore:
    """What one corruption leaves.

    Attributes:
        name: Of the corruption.
        accuracies: Share of right answers at severity 1 to 5.
        mean: Their mean.
    """

    name: str
    accuracies: tuple[float, ...]
    mean: float


@dataclass(frozen=True, slots=True)
class Robustness:
    """What all corruptions leave of one model's accuracy.

    Attributes:
        mean_corruption_accuracy: Mean over the corruptions of their means over the severities. Its interval is of the
            choice of images, each of which counts once.
        corruptions: One score for each of `corruptions.CORRUPTIONS`, in that order.
    """

    mean_corruption_accuracy: Proportion
    corruptions: tuple[CorruptionScore, ...]

    @property
    def by_severity(self) -> tuple[float, ...]:
        """Mean accuracy over all corruptions at severity 1 to 5."""
        return tuple(np.mean([score.accuracies for score in self.corruptions], axis=0).tolist())

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON takes them."""
        return asdict(self)


def measure_robustness(
    faces: FaceSet,
    predictors: Mapping[str, Predictor],
    progress: Callable[[Sequence[Step]], Iterable[Step]] = iter,
) -> dict[str, Robustness]:
    """Runs each model on all images under every corruption.

    Args:
        faces: At least one image.
        predictors: The models by name, from uint8 (N, 48, 48) to logits float32 (N, classes).
        progress: Hands on the 55 steps, and may show how far they are.
    """
    right: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in predictors}
    for corruption, severity in progress(STEPS):
        images = corrupt(faces.images, corruption, severity)
        for name, predict in predictors.items():
            right[name].append(predict(images).argmax(axis=1) == faces.labels)
    shape = (len(CORRUPTIONS), len(SEVERITIES), len(faces))
    return {name: _robustness(np.reshape(answers, shape)) for name, answers in right.items()}


def _robustness(right: NDArray[np.bool_]) -> Robustness:
    """From bool (corruptions, severities, N)."""
    scores = zip(CORRUPTIONS, right.mean(axis=2), strict=True)
    return Robustness(
        mean_corruption_accuracy=mean_share(right.mean(axis=(0, 1))),
        corruptions=tuple(CorruptionScore(one.name, tuple(row.tolist()), float(row.mean())) for one, row in scores),
    )
