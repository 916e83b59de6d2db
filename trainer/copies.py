"""Varied copies of the training images, made before training for teachers to be asked about.

A teacher has learned the training images by heart, in part. Asked about one that was shifted, relit, or joined from the
halves of two faces, it has to judge, and what it says is learned as the answer to just this picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from keras import ops
from numpy.typing import NDArray

from trainer.augment import augment

_BATCH: Final = 256

_SEAM: Final = (0.4, 0.67)
"""Where halves are joined, of the image's side: between the eyes and the mouth, or beside the nose."""

_SEAM_WIDTH_PX: Final = 1.5
"""Over how many pixels one half goes over into the other: the scale of a logistic curve."""


@dataclass(frozen=True, slots=True)
class Copies:
    """Which copies are made; the same come again from the same values.

    Attributes:
        count: Of each image.
        recompose_share: Share of them that are joined from two faces.
        degrade_share: Share that is blurred, and of those that get a camera's noise.
        erase_share: Share of which a rectangle is erased.
        seed: Of all randomness.
    """

    count: int
    recompose_share: float
    degrade_share: float
    erase_share: float
    seed: int

    def of(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The first copy of all images, then the second, and so on. Making them takes the memory of one more.

        Args:
            images: uint8 (N, H, H), gray 0-255.

        Returns:
            uint8 (count * N, H, H).
        """
        rng = np.random.default_rng(self.seed)
        copies = np.empty((self.count, *images.shape), np.uint8)
        for copy in copies:
            self._vary(recompose(images, self.recompose_share, rng), copy, rng)
        return copies.reshape(-1, *images.shape[1:])

    def _vary(self, images: NDArray[np.uint8], varied: NDArray[np.uint8], rng: np.random.Generator) -> None:
        dice = _Dice(rng)
        for batch in _batches(len(images)):
            pixels = augment(images[batch], images.shape[1], degrade_share=self.degrade_share,
                             erase_share=self.erase_share, random=dice)  # fmt: skip
            varied[batch] = np.rint(ops.convert_to_numpy(pixels)[..., 0])


def recompose(images: NDArray[np.uint8], share: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Joins halves of faces: one's upper or left half with another's lower or right one, in the light of the first.

    Faces of FER-2013 lie so much alike that eyes and mouth of two of them make a third. It is CutMix (Yun et al. 2019,
    arXiv:1905.04899) with the parts of a face in place of any rectangle, and with a soft seam.

    Args:
        images: uint8 (N, H, H), gray 0-255.
        share: Share of the results that are joined, 0 to 1; the others stay as they are.
        rng: Source of all randomness.

    Returns:
        uint8 (N, H, H).
    """
    count, side, _ = images.shape
    chosen = np.flatnonzero(rng.random(count) < share)
    others = rng.integers(count, size=len(chosen))
    seam = rng.uniform(*_SEAM, (len(chosen), 1)) * side
    of_first = 1 / (1 + np.exp((np.arange(side) - seam) / _SEAM_WIDTH_PX))  # along the side, (chosen, side)
    across = rng.random(len(chosen)) < 0.5
    recomposed = images.copy()
    for batch in _batches(len(chosen)):
        first, other = (images[indices[batch]].astype(np.float32) for indices in (chosen, others))
        along = of_first[batch]
        weight = np.where(across[batch, None, None], along[:, :, None], along[:, None, :])
        recomposed[chosen[batch]] = np.rint(first * weight + _in_the_light_of(first, other) * (1 - weight))
    return recomposed


def _batches(count: int) -> Iterator[slice]:
    for start in range(0, count, _BATCH):
        yield slice(start, start + _BATCH)


def _in_the_light_of(first: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """Images with the mean and the contrast of the first."""
    contrast = (_deviation(first) + 8) / (_deviation(other) + 8)  # 8 gray levels: no noise is made of an even surface
    return np.clip((other - _mean(other)) * contrast + _mean(first), 0, 255)


def _mean(images: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(images.mean(axis=(1, 2), keepdims=True))


def _deviation(images: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(images.std(axis=(1, 2), keepdims=True))


class _Dice:
    """Random numbers by numpy, which are the same with every backend."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def uniform(self, shape: Sequence[int], minval: float = 0.0, maxval: float = 1.0) -> NDArray[np.float32]:
        """float32, evenly distributed."""
        return minval + (maxval - minval) * self._rng.random(tuple(shape), np.float32)

    def normal(self, shape: Sequence[int]) -> NDArray[np.float32]:
        """float32, of mean 0 and standard deviation 1."""
        return self._rng.standard_normal(tuple(shape), np.float32)
