"""Images that are easy to learn, and runs of seconds: each class has stripes of its own width and direction.

Stripes survive augmentation: shifts, flips, small rotations and changes of light.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from trainer.config import FitConfig
from trainer.data import Dataset, FaceSet

TINY: Final = FitConfig(
    stages=((16, 1), (32, 2)), batch_size=16, peak_lr=0.02, warmup_epochs=0.5, votes_weight=0.0, ema_decay=0.5,
    width=0.25, top_channels=16, blocks=(0, 0, 0),
)  # fmt: skip
"""A run of seconds, most of which go into compiling a step for each image size; it does not learn much."""

ONE_SIZE: Final = replace(TINY, stages=((16, 3),))
SMALL: Final = replace(TINY, stages=((16, 1),))

LEARNING: Final = FitConfig(
    stages=((48, 8),), batch_size=16, peak_lr=0.05, warmup_epochs=1, ema_decay=0.8, votes_weight=0.2, width=0.5,
    blocks=(0, 0, 1),
)  # fmt: skip
"""A run that learns the stripes well."""

_PERIODS_PX: Final = (5, 9, 16, 28, 5, 9, 16)  # the last three are vertical


def stripes(count: int, seed: int) -> FaceSet:
    """Balanced classes, with all votes for neutral."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 7
    votes = np.zeros((count, 10), np.int64)
    votes[:, 0] = 10
    images = np.stack([_stripes(int(label), random) for label in labels])
    return FaceSet(images, labels.astype(np.int64), tuple(f"row {n}" for n in range(count)), votes)


def _stripes(label: int, random: np.random.Generator) -> np.ndarray:
    wave = np.sin(2 * np.pi * (np.arange(48) / _PERIODS_PX[label] + random.random()))
    picture = np.tile(128 + 80 * wave, (48, 1)) + random.normal(0, 10, (48, 48))
    return np.asarray((picture if label >= 4 else picture.T).clip(0, 255), np.uint8)


def stripe_dataset() -> Dataset:
    """A data set of stripes with three splits."""
    return Dataset(
        Path("stripes.csv"), {"train": stripes(224, 1), "validation": stripes(70, 2), "test": stripes(70, 3)}
    )
