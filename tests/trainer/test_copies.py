"""Augmented copies for teachers to predict: the requested share joined from two faces, and reproducible."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from trainer.copies import Copies, recompose

BLACK_TO_WHITE = np.repeat(np.arange(250, dtype=np.uint8), 48 * 48).reshape(250, 48, 48)
"""Uniform images, each of another gray level."""

COPIES = Copies(count=3, recompose_share=0.5, degrade_share=0.2, erase_share=0.1, seed=7)


def test_copies_differ_and_are_reproducible() -> None:
    """They are in the order of the images, copy after copy; another seed gives others."""
    copies = COPIES.of(BLACK_TO_WHITE)
    assert copies.shape == (750, 48, 48)
    assert copies.dtype == np.uint8
    np.testing.assert_array_equal(copies, COPIES.of(BLACK_TO_WHITE))
    assert np.any(copies != replace(COPIES, seed=8).of(BLACK_TO_WHITE))
    plain = replace(COPIES, recompose_share=0.0, erase_share=0.0).of(BLACK_TO_WHITE).reshape(3, 250, 48, 48)
    assert np.any(plain[0] != plain[1])
    for copy in plain:  # a uniform image may get darker or brighter by up to 40 of 255 gray levels, and sensor noise
        assert np.abs(copy.mean(axis=(1, 2)) - np.arange(250)).max() < 50


def test_copies_are_made_with_little_additional_memory() -> None:
    """However many are joined: the copies of a whole data set fill most of the memory."""
    images = np.tile(BLACK_TO_WHITE, (8, 1, 1))
    tracemalloc.start()
    copies = replace(COPIES, count=6, recompose_share=1.0).of(images)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2 * copies.nbytes


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_faces_are_joined_from_upper_and_lower_or_left_and_right_halves(share: float) -> None:
    """The requested share; the first face keeps its upper or left half, and all other images are unchanged."""
    stripes = np.tile(np.where(np.arange(48) % 2, 255, 0).astype(np.uint8), (400, 48, 1))
    stripes[200:] = stripes[200:].transpose(0, 2, 1)
    joined = recompose(stripes, share, np.random.default_rng(1))
    upper, lower = (np.all(joined[:, rows] == stripes[:, rows], axis=(1, 2)) for rows in (slice(9), slice(39, None)))
    left, right = (np.all(joined[..., columns] == stripes[..., columns], axis=(1, 2))
                   for columns in (slice(9), slice(39, None)))  # fmt: skip
    assert np.all(upper | left)
    changed = ~(lower & right)  # another face with the same stripes is indistinguishable from the first
    assert abs(changed.mean() - share / 2) < 0.1
    assert np.any(changed & upper & ~lower) == (share > 0)
    assert np.any(changed & left & ~right) == (share > 0)


def test_the_second_half_is_relit_like_the_first() -> None:
    """If both are uniform, nothing is left of the other's gray level, and matching contrast adds no noise."""
    joined = recompose(BLACK_TO_WHITE, 1.0, np.random.default_rng(1))
    np.testing.assert_array_equal(joined, BLACK_TO_WHITE)
    dark = np.tile(np.where(np.indices((48, 48)).sum(axis=0) % 2, 30, 50).astype(np.uint8), (64, 1, 1))
    light = np.tile(np.where(np.indices((48, 48)).sum(axis=0) % 2, 255, 55).astype(np.uint8), (64, 1, 1))
    joined = recompose(np.concatenate([dark, light]), 1.0, np.random.default_rng(1)).astype(float)
    assert joined[:64].max() < 80
    assert np.all(joined[64:].std(axis=(1, 2)) > 60)
