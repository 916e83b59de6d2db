"""FER-2013 in memory: three splits of 48x48 gray images with labels and, if given, FER+ votes."""

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
"""FER-2013's Training, PublicTest and PrivateTest: for training, model selection and the reported results."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class FaceSet:
    """The images of one split.

    Attributes:
        images: uint8 (N, 48, 48), gray 0-255.
        labels: int64 (N,), class indices: into `EMOTIONS`, or into the classes given to `load_folder` or `with_labels`.
        names: N names that identify the images: path, or `row 123` of the table.
        votes: int64 (N, 10), FER+ vote counts in the order of `layouts.VOTE_COLUMNS`, or None.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    votes: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> FaceSet:
        """Returns the subset at `indices`, in that order."""
        votes = None if self.votes is None else self.votes[indices]
        return FaceSet(self.images[indices], self.labels[indices], tuple(self.names[i] for i in indices), votes)


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A data set that was read from disk.

    Attributes:
        path: File or folder it was read from.
        splits: The splits found, keyed by the names in `SPLITS`.
        unreadable: Names of images that could not be decoded; they are in no split and logged as a warning.
        resized: Names of images that were resized to 48x48.
    """

    path: Path
    splits: dict[str, FaceSet]
    unreadable: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()

    def split(self, name: str) -> FaceSet:
        """Returns the split called `name`.

        Raises:
            DataError: The data set has no such split.
        """
        if name not in self.splits:
            found = ", ".join(self.splits)
            raise DataError(f"has no {name} split (found: {found})", where=self.path, remedy=LAYOUT_HINT)
        return self.splits[name]


def load_dataset(path: Path, votes: Path | None = None) -> Dataset:
    """Reads a data set in any layout supported by `trainer.layouts`.

    Args:
        path: A folder, a .zip, a .csv or a .csv.gz.
        votes: `fer2013new.csv` of FER+; only with the challenge table, whose row order it shares.

    Raises:
        DataError: The path does not exist; its layout, a class, a column or a row is invalid; or no image is readable.
    """
    return _collect(read_layout(path, votes), path, LAYOUT_HINT)


def load_folder(path: Path, labels: tuple[str, ...] = EMOTIONS) -> Dataset:
    """Reads `<emotion>/**/*.{png,jpg}` of any size as a single split called `test`.

    Args:
        path: The folder.
        labels: The allowed folder names; label indices refer to them.

    Raises:
        DataError: The folder does not exist, an emotion is unknown, an image is not in an emotion's folder, or none
            is readable.
    """
    return _collect(read_classes(path, labels), path, classes_hint(labels))


def _collect(items: Iterable[Item], path: Path, remedy: str) -> Dataset:
    readable: dict[str, list[Item]] = {}
    unreadable, resized = [], []
    for item in items:
        items_in_split = readable.setdefault(item.split, [])
        if item.pixels is None:
            unreadable.append(item.name)
        elif item.pixels.shape != (SIZE_PX, SIZE_PX):
            resized.append(item.name)
            items_in_split.append(item._replace(pixels=_to_face_size(item.pixels)))
        else:
            items_in_split.append(item)
    if not any(readable.values()):
        raise DataError("contains no readable image", where=path, remedy=remedy)
    for name, items_in_split in readable.items():
        if not items_in_split:
            raise DataError(f"contains no readable image in the {name} split", where=path, remedy=remedy)
    if unreadable:
        log.warning("skipped %d unreadable images in %s: %s", len(unreadable), path,
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
