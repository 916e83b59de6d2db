"""FER-2013 in memory: three splits of 48x48 gray images with their labels, and FER+'s votes where given."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.contract import EMOTIONS
from trainer.errors import DataError
from trainer.layouts import LAYOUT_HINT, SIZE_PX, Item, classes_hint, read_classes, read_layout

SPLITS: Final[tuple[str, ...]] = ("train", "validation", "test")
"""Training fits, PublicTest (validation) chooses, PrivateTest (test) is reported."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class FaceSet:
    """The images of one split.

    Attributes:
        images: uint8 (N, 48, 48), gray 0-255.
        labels: int64 (N,), index into the emotions: `EMOTIONS`, or what `load_folder` or `labels.with_labels` was told.
        names: N names to find an image again: its path, or `row 123` of the table.
        votes: int64 (N, 10), FER+ votes in the order of `layouts.VOTE_COLUMNS`, or None.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    votes: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> FaceSet:
        """The images at `indices`, in that order."""
        votes = None if self.votes is None else self.votes[indices]
        return FaceSet(self.images[indices], self.labels[indices], tuple(self.names[i] for i in indices), votes)


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A data set as read.

    Attributes:
        path: Where it was read from.
        splits: One `FaceSet` for each split found, keyed by `SPLITS`.
        unreadable: Names of images that could not be decoded; they are in no split, and a warning tells of them.
        resized: Names of images that were not 48x48 and were scaled to it.
    """

    path: Path
    splits: dict[str, FaceSet]
    unreadable: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()

    def split(self, name: str) -> FaceSet:
        """The split called `name`.

        Raises:
            DataError: The data set has no such split.
        """
        if name not in self.splits:
            found = ", ".join(self.splits)
            raise DataError(f"has no {name} split (found: {found})", where=self.path, remedy=LAYOUT_HINT)
        return self.splits[name]


def load_dataset(path: Path, votes: Path | None = None) -> Dataset:
    """Reads a data set in any layout that `trainer.layouts` knows.

    Args:
        path: A folder, a .zip, a .csv or a .csv.gz.
        votes: FER+'s `fer2013new.csv`; only beside the challenge table, whose row order it shares.

    Raises:
        DataError: The path, its layout, a class, a column or a row is not as it should be, or no image is readable.
    """
    return _collect(read_layout(path, votes), path, LAYOUT_HINT)


def load_folder(path: Path, labels: tuple[str, ...] = EMOTIONS) -> Dataset:
    """Reads `<emotion>/**/*.{png,jpg}` of any size as one split called `test`.

    Args:
        path: The folder.
        labels: The emotions that its folders may be called, and that the images' labels are indices of.

    Raises:
        DataError: No such folder, an unknown emotion, an image outside of the emotions' folders, or no readable image.
    """
    return _collect(read_classes(path, labels), path, classes_hint(labels))


def _collect(items: Iterable[Item], path: Path, remedy: str) -> Dataset:
    readable: dict[str, list[Item]] = {}
    unreadable, resized = [], []
    for item in items:
        of_split = readable.setdefault(item.split, [])
        if item.pixels is None:
            unreadable.append(item.name)
        elif item.pixels.shape != (SIZE_PX, SIZE_PX):
            resized.append(item.name)
            of_split.append(item._replace(pixels=_to_face_size(item.pixels)))
        else:
            of_split.append(item)
    if not any(readable.values()):
        raise DataError("holds no readable image", where=path, remedy=remedy)
    for name, of_split in readable.items():
        if not of_split:
            raise DataError(f"not one image of its {name} split can be read", where=path, remedy=remedy)
    if unreadable:
        log.warning("%d of the images in %s cannot be read and are left out: %s", len(unreadable), path,
                    ", ".join(unreadable[:3]) + (", ..." if len(unreadable) > 3 else ""))  # fmt: skip
    splits = {name: _stack(readable[name]) for name in SPLITS if name in readable}
    return Dataset(path, splits, tuple(unreadable), tuple(resized))


def _to_face_size(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    shrinks = max(gray.shape) > SIZE_PX
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(gray, (SIZE_PX, SIZE_PX), interpolation=method), dtype=np.uint8)


def _stack(items: list[Item]) -> FaceSet:
    votes = None if items[0].votes is None else np.array([item.votes for item in items], np.int64)
    return FaceSet(
        images=np.array([item.pixels for item in items], np.uint8),
        labels=np.array([item.label for item in items], np.int64),
        names=tuple(item.name for item in items),
        votes=votes,
    )
