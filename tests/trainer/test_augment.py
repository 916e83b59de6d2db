"""Data augmentation: each share has its effect, within its range, and no other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from trainer.augment import augment, mixup

GRAY = np.full((64, 48, 48), 128, np.uint8)
CHECKERBOARD = np.tile(np.indices((48, 48)).sum(axis=0) % 2 * 255, (64, 1, 1)).astype(np.uint8)


def varied(images: np.ndarray, *, degrade: float = 0.0, erase: float = 0.0, seed: int = 1) -> np.ndarray:
    """Augmented images, float32 (N, 40, 40), for a random generator of this seed."""
    random = tf.random.Generator.from_seed(seed)
    pixels = augment(tf.constant(images), 40, degrade_share=degrade, erase_share=erase, random=random)
    return np.asarray(pixels.numpy()[..., 0])


def test_results_are_gray_levels_of_the_requested_size_and_reproducible() -> None:
    """The same seed gives the same images, another one gives others, and all are within 0 to 255."""
    first = varied(CHECKERBOARD, degrade=0.5, erase=0.5)
    assert first.shape == (64, 40, 40)
    assert 0 <= first.min() <= first.max() <= 255
    np.testing.assert_array_equal(first, varied(CHECKERBOARD, degrade=0.5, erase=0.5))
    assert np.any(first != varied(CHECKERBOARD, degrade=0.5, erase=0.5, seed=2))


def test_a_uniform_image_stays_uniform_unless_it_is_degraded_or_erased() -> None:
    """Rotation, shift and light leave no pattern; the requested share of images is noisy, or erased."""
    assert varied(GRAY).std(axis=(1, 2)).max() < 0.01
    noisy = np.mean(varied(GRAY, degrade=0.5).std(axis=(1, 2)) > 0.01)
    assert 0.25 < noisy < 0.75
    assert varied(GRAY, erase=1.0).std(axis=(1, 2)).min() > 5


def test_degraded_images_are_blurred() -> None:
    """A checkerboard of single pixels loses most of its contrast, which noise alone would not do."""
    sharp, blurred = varied(CHECKERBOARD).std(), varied(CHECKERBOARD, degrade=1.0).std()
    assert blurred < 0.7 * sharp


def dots(row: int, column: int) -> np.ndarray:
    """Black images with a bright dot at this position, uint8 (256, 48, 48)."""
    image = np.zeros((48, 48), np.uint8)
    image[row - 2 : row + 3, column - 2 : column + 3] = 255
    return np.tile(image, (256, 1, 1))


def centres(pixels: np.ndarray) -> np.ndarray:
    """Positions of the dots, (N, 2) in x and y from the center of the image, in pixels."""
    brighter = pixels - np.median(pixels, axis=(1, 2), keepdims=True)
    along = np.arange(pixels.shape[1]) - (pixels.shape[1] - 1) / 2
    x, y = np.einsum("nyx,x->n", brighter, along), np.einsum("nyx,y->n", brighter, along)
    return np.asarray(np.stack([x, y], axis=1) / brighter.sum(axis=(1, 2))[:, None])


def test_images_are_flipped_rotated_zoomed_and_shifted_within_their_ranges() -> None:
    """Half are flipped; rotation is up to 12 degrees, zoom 15 % and shift a tenth, all uniformly distributed.

    The same seed for a dot on the left and one on the right shows where the line between them went.
    """
    left, right = (centres(varied(dots(24, column))) for column in (16, 32))
    line = right - left
    assert 0.35 < np.mean(line[:, 0] < 0) < 0.65
    angle = np.degrees(np.arctan2(line[:, 1], np.abs(line[:, 0])))
    assert np.abs(angle).max() < 12.5
    assert angle.std() == pytest.approx(12 / math.sqrt(3), rel=0.2)
    zoom = np.log(np.hypot(*line.T) / 16 * 48 / 40)
    assert np.abs(zoom).max() < 0.17
    assert zoom.std() == pytest.approx(0.15 / math.sqrt(3), rel=0.2)
    middle = (left + right) / 2 / 40
    assert np.abs(middle).max() < 0.10 * math.exp(0.15) + 0.02
    assert middle.std(axis=0) == pytest.approx([0.1 / math.sqrt(3)] * 2, rel=0.25)


def test_brightness_and_contrast_vary_within_their_ranges() -> None:
    """Brightness changes by up to 40 gray levels and contrast by a factor of up to exp(0.3), uniformly distributed."""
    halves = np.tile(np.repeat(np.array([108, 148], np.uint8), 24), (256, 48, 1))
    pixels = varied(halves)
    dark, bright = pixels.min(axis=(1, 2)), pixels.max(axis=(1, 2))
    contrast = np.log((bright - dark) / 40)
    assert np.abs(contrast).max() < 0.31
    assert contrast.std() == pytest.approx(0.3 / math.sqrt(3), rel=0.2)
    light = varied(np.full((256, 48, 48), 128, np.uint8)).mean(axis=(1, 2)) - 128
    assert np.abs(light).max() < 40.5
    assert light.std() == pytest.approx(40 / math.sqrt(3), rel=0.2)


def test_mixup_blends_targets_like_images() -> None:
    """Each image contains as much of another as its target does, and never more than the largest weight, one half."""
    black_and_white = np.repeat(np.array([0.0, 255.0], np.float32), 32)[:, None, None, None] * np.ones(
        (48, 48, 1), np.float32
    )
    targets = np.eye(2, dtype=np.float32)[np.repeat([0, 1], 32)]
    images, shares = mixup([black_and_white, targets], 0.5, tf.random.Generator.from_seed(1))
    np.testing.assert_allclose(images.numpy().mean(axis=(1, 2, 3)) / 255, shares.numpy()[:, 1], atol=1e-5)
    np.testing.assert_allclose(shares.numpy().sum(axis=1), 1, atol=1e-6)
    assert shares.numpy()[[0, 32]].max(axis=1).min() >= 0.5
    assert 0 < shares.numpy()[0, 1] < 0.5  # the first black image got some of the last white one
