"""Finds the same photograph twice: copied, compressed anew, relit, cropped a pixel or two off, or mirrored.

FER-2013 was collected by image search, so it holds many. Two steps: thumbnails of all images are compared with each
other, which is a matrix product and proposes pairs; each proposed pair is then laid over each other at full size.

The thresholds were chosen by looking at pairs of FER-2013. The correlation of the proposed pairs has two humps, one of
different faces around 0.83 and one of equal ones near 1, with a valley at 0.88; at 0.92 about one pair in a hundred
shows two different photographs.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from trainer.data import FaceSet

NEAR_CORRELATION: Final = 0.92
"""Two images correlate at least this much at full size, at the best shift, to be called near-duplicates."""

_PROPOSED_COSINE: Final = 0.89
_THUMBNAIL_PX: Final = 8  # coarse, so that a crop a pixel or two off changes little
_MAX_SHIFT_PX: Final = 4
_INNER: Final = slice(_MAX_SHIFT_PX, -_MAX_SHIFT_PX)
_BLANK_DEVIATION: Final = 6.0  # gray levels; in FER-2013 the faintest face has 9, the fullest image without one 4
_MANY: Final = 16  # images that are laid over the same one, from which on a product of matrices is faster
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
    found = [
        np.stack([near.first, near.second], axis=1)
        for proposed in _proposals(_thumbnails(first), _thumbnails(other), within=within)
        for near in [proposed.take(_are_near(first, other, proposed))]
    ]
    return np.concatenate([np.empty((0, 2), np.int64), *found])


def leaked(of: FaceSet, into: FaceSet) -> NDArray[np.int64]:
    """Ascending indices of the images of `of` (say, the test split) that have a near-duplicate in `into` (train)."""
    found = np.zeros(len(of), np.bool_)
    for proposed in _proposals(_thumbnails(into.images), _thumbnails(of.images), within=False):
        left = proposed.take(~found[proposed.second])  # one is enough: a film's frames have thousands
        found[left.second[_are_near(into.images, of.images, left)]] = True
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


class _Pairs(NamedTuple):
    """Pairs of images of two sets.

    Attributes:
        first: int64 (P,), index in the first set.
        second: int64 (P,), index in the second.
        mirrored: bool (P,), whether the one resembles the other's mirror image.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    mirrored: NDArray[np.bool_]

    def take(self, chosen: NDArray[np.bool_]) -> _Pairs:
        """Those of the pairs for which bool (P,) is true."""
        return _Pairs(self.first[chosen], self.second[chosen], self.mirrored[chosen])


def _proposals(first: _Thumbnails, second: _Thumbnails, *, within: bool) -> Iterator[_Pairs]:
    """All pairs of similar thumbnails, block by block of the first ones."""
    for start in range(0, len(first.even), _BLOCK):
        rows, others = slice(start, start + _BLOCK), slice(start if within else 0, None)
        odd = first.odd[rows] @ second.odd[others].T
        cosine = first.even[rows] @ second.even[others].T + np.abs(odd)
        i, j = np.nonzero(cosine > _PROPOSED_COSINE)
        if within:
            i, j = i[j > i], j[j > i]
        yield _Pairs(i + start, j + others.start, odd[i, j] < 0)


def _are_near(first: NDArray[np.uint8], second: NDArray[np.uint8], pairs: _Pairs) -> NDArray[np.bool_]:
    """Whether the images of each pair, laid over each other, are the same photograph: bool (P,)."""
    rows, row = np.unique(pairs.first, return_inverse=True)
    cores = first[rows, _INNER, _INNER]  # (R, 40, 40)
    normal = _standardized(cores)  # (R, 1600)
    near = np.asarray(~normal.any(axis=1))[row]  # as OpenCV has it of a core of one gray level
    other = 2 * pairs.second + pairs.mirrored
    order = np.argsort(other, kind="stable")
    for same in np.split(order, np.flatnonzero(np.diff(other[order])) + 1) if len(order) else ():
        image = second[pairs.second[same[0]]]
        image = np.ascontiguousarray(image[:, ::-1] if pairs.mirrored[same[0]] else image)
        few = len(same) < _MANY
        found = _correlations_of_few(cores[row[same]], image) if few else _correlations(normal, row[same], image)
        near[same] |= found >= NEAR_CORRELATION
    return near


def _correlations_of_few(cores: NDArray[np.uint8], image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The highest correlation of each core, uint8 (P, 40, 40), with an image over all shifts: float32 (P,)."""
    return np.array([cv2.matchTemplate(image, core, cv2.TM_CCOEFF_NORMED).max() for core in cores], np.float32)


def _correlations(
    normal: NDArray[np.float32], rows: NDArray[np.int64], image: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """The same for P rows of standardized cores, float32 (R, 1600), as a product; without a shift where that does.

    A film's frames resemble each other by the thousand, and most lie over each other as they are.
    """
    found = np.asarray(normal @ _standardized(image[None, _INNER, _INNER])[0])[rows]
    left = found < NEAR_CORRELATION
    if left.any():
        side = len(image) - 2 * _MAX_SHIFT_PX
        windows = _standardized(sliding_window_view(image, (side, side)).reshape(-1, side, side))  # (81, 1600)
        found[left] = (normal[rows[left]] @ windows.T).max(axis=1)
    return found


def _standardized(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 (N, H * W): each image with zero mean and unit norm; one of a single gray level is all zeros."""
    flat = images.reshape(len(images), math.prod(images.shape[1:])).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1.0)
    return flat
