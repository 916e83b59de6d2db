"""Faces so simple that anything learns them: each class is a bright bar at a height of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainer.data import Dataset, FaceSet


def blobs(count: int, seed: int) -> FaceSet:
    """As many images of each class, with votes that all say neutral."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 7
    images = random.integers(0, 60, (count, 48, 48)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[6 * label : 6 * label + 8, 10:38] = 220
    votes = np.zeros((count, 10), np.int64)
    votes[:, 0] = 10
    return FaceSet(images, labels.astype(np.int64), tuple(f"row {n}" for n in range(count)), votes)


def blob_dataset() -> Dataset:
    """Three splits."""
    return Dataset(Path("blobs.csv"), {"train": blobs(112, 1), "validation": blobs(35, 2), "test": blobs(35, 3)})
