"""Augmented copies of the training images, made before training, for which teachers predict soft targets.

Teachers have partly memorized the training images. A copy that is shifted, relit, or joined from the halves of two
faces is new to them, and what they predict for it is the target for exactly this image.
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
"""Range of the seam, as a share of the image's side: between eyes and mouth, or beside the nose."""

_SEAM_WIDTH_PX: Final = 1.5
"""Scale of the logistic curve that blends one half into the other."""

_CONTRAST_OFFSET: Final = 8
"""Gray levels that are added to both standard deviations, so that a uniform surface does not become noise."""


@dataclass(frozen=True, slots=True)
class Copies:
    """Makes augmented copies; the same parameters always give the same copies.

    Attributes:
        count: Copies of each image.
        recompose_share: Share of the copies that are joined from two faces.
        degrade_share: Share that is blurred, and share that gets sensor noise.
        erase_share: Share in which a rectangle is erased.
        seed: Seed of the random number generator.
    """

    count: int
    recompose_share: float
    degrade_share: float
    erase_share: float
    seed: int

    def of(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Returns the first copy of all images, then the second, and so on.

        While it runs, it needs memory for one more copy.

        Args:
            images: uint8 (N, H, H), gray 0-255.

        Returns:
            uint8 (count * N, H, H).
        """
        rng = np.random.default_rng(self.seed)
        copies = np.empty((self.count, *images.shape), np.uint8)
        for copy in copies:
            self._augment(recompose(images, self.recompose_share, rng), copy, rng)
        return copies.reshape(-1, *images.shape[1:])

    def _augment(self, images: NDArray[np.uint8], out: NDArray[np.uint8], rng: np.random.Generator) -> None:
        random = _NumpyGenerator(rng)
        for batch in _batches(len(images)):
            pixels = augment(images[batch], images.shape[1], degrade_share=self.degrade_share,
                             erase_share=self.erase_share, random=random)  # fmt: skip
            out[batch] = np.rint(ops.convert_to_numpy(pixels)[..., 0])


def recompose(images: NDArray[np.uint8], share: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Joins the upper or left half of a face with the lower or right half of another, relit like the first.

    The faces of FER-2013 are aligned well enough for eyes and mouth of two faces to make a third. This is CutMix (Yun
    et al. 2019, arXiv:1905.04899) with parts of the face in place of random rectangles, and with a soft seam.

    Args:
        images: uint8 (N, H, H), gray 0-255.
        share: Share of the images that are joined with another, 0 to 1; the rest is returned unchanged.
        rng: Random number generator.

    Returns:
        uint8 (N, H, H).
    """
    count, side, _ = images.shape
    chosen = np.flatnonzero(rng.random(count) < share)
    others = rng.integers(count, size=len(chosen))
    seam = rng.uniform(*_SEAM, (len(chosen), 1)) * side
    first_weight = 1 / (1 + np.exp((np.arange(side) - seam) / _SEAM_WIDTH_PX))  # along the side, (chosen, side)
    upper_and_lower = rng.random(len(chosen)) < 0.5
    recomposed = images.copy()
    for batch in _batches(len(chosen)):
        first, other = (images[indices[batch]].astype(np.float32) for indices in (chosen, others))
        profile = first_weight[batch]
        weight = np.where(upper_and_lower[batch, None, None], profile[:, :, None], profile[:, None, :])
        recomposed[chosen[batch]] = np.rint(first * weight + _match_light(other, first) * (1 - weight))
    return recomposed


def _batches(count: int) -> Iterator[slice]:
    for start in range(0, count, _BATCH):
        yield slice(start, start + _BATCH)


def _match_light(images: NDArray[np.float32], reference: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the images with the mean and standard deviation of the reference images."""
    contrast = (_std(reference) + _CONTRAST_OFFSET) / (_std(images) + _CONTRAST_OFFSET)
    return np.clip((images - _mean(images)) * contrast + _mean(reference), 0, 255)


def _mean(images: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(images.mean(axis=(1, 2), keepdims=True))


def _std(images: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(images.std(axis=(1, 2), keepdims=True))


class _NumpyGenerator:
    """Random numbers from NumPy, and so the same with every backend."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def uniform(self, shape: Sequence[int], minval: float = 0.0, maxval: float = 1.0) -> NDArray[np.float32]:
        """Returns float32 samples of the uniform distribution."""
        return minval + (maxval - minval) * self._rng.random(tuple(shape), np.float32)

    def normal(self, shape: Sequence[int]) -> NDArray[np.float32]:
        """Returns float32 samples of the standard normal distribution."""
        return self._rng.standard_normal(tuple(shape), np.float32)
