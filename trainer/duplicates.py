"""Near-duplicate detection: the same photograph copied, recompressed, relit, shifted by a pixel or two, or mirrored.

FER-2013 was collected by image search and contains many. There are two stages: a matrix product compares the
thumbnails of all images and yields candidate pairs; each candidate pair is then correlated at full size.

The thresholds were chosen by inspecting pairs of FER-2013. The correlations of the candidates are bimodal, with one
mode around 0.83 for different faces, one near 1 for duplicates, and a minimum at 0.88; at 0.92, about one pair in a
hundred is a false positive.
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
from scipy.sparse import coo_array, csgraph

from trainer.data import FaceSet

NEAR_CORRELATION: Final = 0.92
"""Minimum correlation of near-duplicates, at full size and the best shift."""

_CANDIDATE_COSINE: Final = 0.89
_THUMBNAIL_PX: Final = 8  # coarse, so that a shift of a pixel or two changes little
_MAX_SHIFT_PX: Final = 4
_INNER: Final = slice(_MAX_SHIFT_PX, -_MAX_SHIFT_PX)
_BLANK_DEVIATION: Final = 6.0  # gray levels; in FER-2013, faces have at least 9 and blank images at most 4
_MATRIX_PRODUCT_MIN: Final = 16  # from this many pairs with the same image, a matrix product is faster
_BLOCK: Final = 512  # rows per block: 512 x 36,000 cosines take 74 MB


def is_blank(images: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Returns bool (N,): whether each image of uint8 (N, 48, 48) is of nearly uniform gray."""
    return np.asarray(images.std(axis=(1, 2), dtype=np.float32) < _BLANK_DEVIATION)


def unique_images(images: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Identifies exact copies.

    Returns:
        int64 (D,): the index of the first occurrence of each distinct image; int64 (N,): for each image, its position
        among these D.
    """
    ids: dict[bytes, int] = {}
    content_ids = [ids.setdefault(hashlib.sha256(image.tobytes()).digest(), len(ids)) for image in images]
    content = np.array(content_ids, np.int64)
    return np.unique(content, return_index=True)[1].astype(np.int64), content


def near_duplicates(first: NDArray[np.uint8], second: NDArray[np.uint8] | None = None) -> NDArray[np.int64]:
    """Returns all pairs of near-duplicates, including exact copies and excluding blank images.

    Args:
        first: uint8 (N, 48, 48).
        second: uint8 (M, 48, 48); if None, `first` is compared with itself and each pair is listed once, lower index
            first.

    Returns:
        int64 (P, 2): index in `first`, index in `second`.
    """
    within = second is None
    other = first if second is None else second
    found = [
        np.stack([near.first, near.second], axis=1)
        for candidates in _candidates(_thumbnails(first), _thumbnails(other), within=within)
        for near in [candidates.take(_are_near_duplicates(first, other, candidates))]
    ]
    return np.concatenate([np.empty((0, 2), np.int64), *found])


def leaked(of: FaceSet, into: FaceSet) -> NDArray[np.int64]:
    """Returns the sorted indices of images in `of` (e.g. test) that have a near-duplicate in `into` (e.g. train)."""
    found = np.zeros(len(of), np.bool_)
    for candidates in _candidates(_thumbnails(into.images), _thumbnails(of.images), within=False):
        remaining = candidates.take(~found[candidates.second])  # one duplicate is enough; video frames have thousands
        found[remaining.second[_are_near_duplicates(into.images, of.images, remaining)]] = True
    return np.flatnonzero(found)


def connected_components(count: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns int64 (count,): the component label of each of 0..count-1, connected by the pairs int64 (P, 2)."""
    linked = coo_array((np.ones(len(pairs), np.bool_), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return np.asarray(csgraph.connected_components(linked, directed=False)[1], np.int64)


class _Thumbnails(NamedTuple):
    """Thumbnails of zero mean and unit norm, as coefficients that are even or odd under horizontal mirroring.

    The cosine of two images is the sum of the even and odd dot products; with one image mirrored, their difference.

    Attributes:
        even: float32 (N, 32), unchanged by mirroring.
        odd: float32 (N, 32), negated by mirroring.
    """

    even: NDArray[np.float32]
    odd: NDArray[np.float32]


def _thumbnails(images: NDArray[np.uint8]) -> _Thumbnails:
    side, half = _THUMBNAIL_PX, _THUMBNAIL_PX // 2
    cell = images.shape[1] // side
    small = images.reshape(len(images), side, cell, side, cell).mean(axis=(2, 4), dtype=np.float32)  # (N, 8, 8)
    small -= small.mean(axis=(1, 2), keepdims=True)
    small /= np.maximum(np.linalg.norm(small, axis=(1, 2), keepdims=True), 1.0)
    small[is_blank(images)] = 0.0  # never a candidate
    left, right = small[:, :, :half], small[:, :, : half - 1 : -1]
    scale = np.float32(0.5**0.5)
    even, odd = ((half_sum * scale).reshape(len(images), side * half) for half_sum in (left + right, left - right))
    return _Thumbnails(even, odd)


class _Pairs(NamedTuple):
    """Pairs of images from two sets.

    Attributes:
        first: int64 (P,), index in the first set.
        second: int64 (P,), index in the second set.
        mirrored: bool (P,), whether one resembles the mirror image of the other.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    mirrored: NDArray[np.bool_]

    def take(self, mask: NDArray[np.bool_]) -> _Pairs:
        """Returns the pairs for which `mask`, bool (P,), is true."""
        return _Pairs(self.first[mask], self.second[mask], self.mirrored[mask])


def _candidates(first: _Thumbnails, second: _Thumbnails, *, within: bool) -> Iterator[_Pairs]:
    """Yields all pairs of similar thumbnails, in blocks of `first`."""
    for start in range(0, len(first.even), _BLOCK):
        rows, others = slice(start, start + _BLOCK), slice(start if within else 0, None)
        odd = first.odd[rows] @ second.odd[others].T
        cosine = first.even[rows] @ second.even[others].T + np.abs(odd)
        i, j = np.nonzero(cosine > _CANDIDATE_COSINE)
        if within:
            i, j = i[j > i], j[j > i]
        yield _Pairs(i + start, j + others.start, odd[i, j] < 0)


def _are_near_duplicates(first: NDArray[np.uint8], second: NDArray[np.uint8], pairs: _Pairs) -> NDArray[np.bool_]:
    """Returns bool (P,): whether the images of each pair correlate as near-duplicates at full size."""
    rows, row = np.unique(pairs.first, return_inverse=True)
    cores = first[rows, _INNER, _INNER]  # (R, 40, 40)
    normal = _standardized(cores)  # (R, 1600)
    near = np.asarray(~normal.any(axis=1))[row]  # uniform cores count as matches, as in OpenCV
    other = 2 * pairs.second + pairs.mirrored
    order = np.argsort(other, kind="stable")
    for same in np.split(order, np.flatnonzero(np.diff(other[order])) + 1) if len(order) else ():
        image = second[pairs.second[same[0]]]
        image = np.ascontiguousarray(image[:, ::-1] if pairs.mirrored[same[0]] else image)
        if len(same) < _MATRIX_PRODUCT_MIN:
            found = _template_correlations(cores[row[same]], image)
        else:
            found = _product_correlations(normal, row[same], image)
        near[same] |= found >= NEAR_CORRELATION
    return near


def _template_correlations(cores: NDArray[np.uint8], image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns float32 (P,): the maximum correlation of each core, uint8 (P, 40, 40), with the image over all shifts."""
    return np.array([cv2.matchTemplate(image, core, cv2.TM_CCOEFF_NORMED).max() for core in cores], np.float32)


def _product_correlations(
    normal: NDArray[np.float32], rows: NDArray[np.int64], image: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Does the same as a matrix product for P rows of standardized cores, float32 (R, 1600).

    Shifts are tried only for pairs that do not match unshifted: the thousands of similar frames of a video mostly do.
    """
    found = np.asarray(normal @ _standardized(image[None, _INNER, _INNER])[0])[rows]
    unmatched = found < NEAR_CORRELATION
    if unmatched.any():
        side = len(image) - 2 * _MAX_SHIFT_PX
        windows = _standardized(sliding_window_view(image, (side, side)).reshape(-1, side, side))  # (81, 1600)
        found[unmatched] = (normal[rows[unmatched]] @ windows.T).max(axis=1)
    return found


def _standardized(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns float32 (N, H * W): images with zero mean and unit norm, all zeros for uniform images."""
    flat = images.reshape(len(images), math.prod(images.shape[1:])).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1.0)
    return flat
