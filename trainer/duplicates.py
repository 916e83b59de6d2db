"""Finds the same photograph twice: copied, compressed anew, relit, cropped a pixel or two off, or mirrored.

FER-2013 was collected by image search, so it holds many. Two steps: thumbnails of all images are compared with each
other, which is a matrix product and proposes pairs; each proposed pair is then laid over each other at full size.

The thresholds were chosen by looking at pairs of FER-2013. The correlation of the proposed pairs has two humps, one of
different faces around 0.83 and one of equal ones near 1, with a valley at 0.88; at 0.92 about one pair in a hundred
shows two different photographs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from trainer.data import FaceSet

NEAR_CORRELATION: Final = 0.92
"""Two images correlate at least this much at full size, at the best shift, to be called near-duplicates."""

_PROPOSED_COSINE: Final = 0.89
_THUMBNAIL_PX: Final = 8  # coarse, so that a crop a pixel or two off changes little
_MAX_SHIFT_PX: Final = 4
_BLANK_DEVIATION: Final = 6.0  # gray levels; in FER-2013 the faintest face has 9, the fullest image without one 4
_BLOCK: Final = 512  # rows compared at once: 512 x 36,000 products take 74 MB


def is_blank(images: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether each of uint8 (N, 48, 48) is of nearly one gray level: bool (N,)."""
    return np.asarray(images.std(axis=(1, 2), dtype=np.float32) < _BLANK_DEVIATION)


def distinct(images: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tells exact copies.

    Returns:
        The index of the first image with each content, int64 (D,), and for each image which of these D contents it
        has, int64 (N,).
    """
    number_of: dict[bytes, int] = {}
    numbers = [number_of.setdefault(hashlib.sha256(image.tobytes()).digest(), len(number_of)) for image in images]
    content = np.array(numbers, np.int64)
    return np.unique(content, return_index=True)[1].astype(np.int64), content


def near_pairs(first: NDArray[np.uint8], second: NDArray[np.uint8] | None = None) -> NDArray[np.int64]:
    """All near-duplicates between two sets of images, exact copies included and blank images left out.

    Args:
        first: uint8 (N, 48, 48).
        second: uint8 (M, 48, 48); without it `first` is compared with itself, each pair once and the lower index first.

    Returns:
        int64 (P, 2): index in `first`, index in `second`.
    """
    within = second is None
    other = first if second is None else second
    proposals = _proposals(_thumbnails(first), _thumbnails(other), within=within)
    pairs = [(i, j) for i, j, mirrored in proposals if _are_near(first[i], other[j], mirrored=mirrored)]
    return np.array(pairs, np.int64).reshape(-1, 2)


def leaked(of: FaceSet, into: FaceSet) -> NDArray[np.int64]:
    """Ascending indices of the images of `of` (say, the test split) that have a near-duplicate in `into` (train)."""
    found = np.zeros(len(of), np.bool_)
    for i, j, mirrored in _proposals(_thumbnails(into.images), _thumbnails(of.images), within=False):
        # One is enough: a film's frames have thousands.
        found[j] = found[j] or _are_near(into.images[i], of.images[j], mirrored=mirrored)
    return np.flatnonzero(found)


def components(count: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Groups 0..count-1 so that each pair of int64 (P, 2) is in one group.

    Returns:
        int64 (count,): the number of each one's group.
    """
    linked = coo_array((np.ones(len(pairs), np.bool_), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return np.asarray(connected_components(linked, directed=False)[1], np.int64)


class _Thumbnails(NamedTuple):
    """Small images of zero mean and unit norm, split into a part that mirroring keeps and one that it negates.

    The cosine of two images is the sum of the parts' products, that of an image with a mirrored one their difference.

    Attributes:
        even: float32 (N, 32).
        odd: float32 (N, 32).
    """

    even: NDArray[np.float32]
    odd: NDArray[np.float32]


def _thumbnails(images: NDArray[np.uint8]) -> _Thumbnails:
    side, half = _THUMBNAIL_PX, _THUMBNAIL_PX // 2
    cell = images.shape[1] // side
    small = images.reshape(len(images), side, cell, side, cell).mean(axis=(2, 4), dtype=np.float32)  # (N, 8, 8)
    small -= small.mean(axis=(1, 2), keepdims=True)
    small /= np.maximum(np.linalg.norm(small, axis=(1, 2), keepdims=True), 1.0)
    small[is_blank(images)] = 0.0  # resembles nothing
    left, right = small[:, :, :half], small[:, :, : half - 1 : -1]
    scale = np.float32(0.5**0.5)
    even, odd = ((half_sum * scale).reshape(len(images), side * half) for half_sum in (left + right, left - right))
    return _Thumbnails(even, odd)


def _proposals(first: _Thumbnails, second: _Thumbnails, *, within: bool) -> Iterator[tuple[int, int, bool]]:
    """(i, j, whether mirrored) of all pairs of similar thumbnails."""
    for start in range(0, len(first.even), _BLOCK):
        rows, others = slice(start, start + _BLOCK), slice(start if within else 0, None)
        odd = first.odd[rows] @ second.odd[others].T
        cosine = first.even[rows] @ second.even[others].T + np.abs(odd)
        i, j = np.nonzero(cosine > _PROPOSED_COSINE)
        if within:
            i, j = i[j > i], j[j > i]
        mirrored = odd[i, j] < 0
        yield from zip((i + start).tolist(), (j + others.start).tolist(), mirrored.tolist(), strict=True)


def _are_near(image: NDArray[np.uint8], other: NDArray[np.uint8], *, mirrored: bool) -> bool:
    return _correlation(image, other[:, ::-1] if mirrored else other) >= NEAR_CORRELATION


def _correlation(image: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """The highest correlation coefficient over all shifts of up to 4 pixels."""
    inner = slice(_MAX_SHIFT_PX, -_MAX_SHIFT_PX)
    found = cv2.matchTemplate(
        np.ascontiguousarray(other), np.ascontiguousarray(image[inner, inner]), cv2.TM_CCOEFF_NORMED
    )
    return float(found.max())
