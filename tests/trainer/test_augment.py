"""Variation of the training images: what each share asks for happens, and nothing else."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from trainer.augment import augment, mix

GRAY = np.full((64, 48, 48), 128, np.uint8)
CHECKERBOARD = np.tile(np.indices((48, 48)).sum(axis=0) % 2 * 255, (64, 1, 1)).astype(np.uint8)


def varied(images: np.ndarray, *, degrade: float = 0.0, erase: float = 0.0, seed: int = 1) -> np.ndarray:
    """float32 (N, 40, 40), varied by the dice of `seed`."""
    dice = tf.random.Generator.from_seed(seed)
    pixels = augment(tf.constant(images), 40, degrade_share=degrade, erase_share=erase, random=dice)
    return np.asarray(pixels.numpy()[..., 0])


def test_results_are_gray_levels_of_the_asked_size_and_follow_from_the_dice() -> None:
    """The same dice give the same images, others give others, and all stay between black and white."""
    first = varied(CHECKERBOARD, degrade=0.5, erase=0.5)
    assert first.shape == (64, 40, 40)
    assert 0 <= first.min() <= first.max() <= 255
    np.testing.assert_array_equal(first, varied(CHECKERBOARD, degrade=0.5, erase=0.5))
    assert np.any(first != varied(CHECKERBOARD, degrade=0.5, erase=0.5, seed=2))


def test_an_even_image_stays_even_unless_it_is_degraded_or_erased() -> None:
    """Turning, shifting and light leave no pattern; as many images as asked for are noisy, or erased."""
    assert varied(GRAY).std(axis=(1, 2)).max() < 0.01
    noisy = np.mean(varied(GRAY, degrade=0.5).std(axis=(1, 2)) > 0.01)
    assert 0.25 < noisy < 0.75
    assert varied(GRAY, erase=1.0).std(axis=(1, 2)).min() > 5


def test_degraded_images_are_blurred() -> None:
    """A pattern of single pixels loses most of its contrast, which noise alone would not take."""
    sharp, blurred = varied(CHECKERBOARD).std(), varied(CHECKERBOARD, degrade=1.0).std()
    assert blurred < 0.7 * sharp


def test_mixed_images_bring_their_targets_along() -> None:
    """Each image holds as much of another as its target says, and never more than half where that is the most."""
    black_and_white = np.repeat(np.array([0.0, 255.0], np.float32), 32)[:, None, None, None] * np.ones(
        (48, 48, 1), np.float32
    )
    targets = np.eye(2, dtype=np.float32)[np.repeat([0, 1], 32)]
    images, shares = mix([black_and_white, targets], 0.5, tf.random.Generator.from_seed(1))
    np.testing.assert_allclose(images.numpy().mean(axis=(1, 2, 3)) / 255, shares.numpy()[:, 1], atol=1e-5)
    np.testing.assert_allclose(shares.numpy().sum(axis=1), 1, atol=1e-6)
    assert shares.numpy()[[0, 32]].max(axis=1).min() >= 0.5
    assert 0 < shares.numpy()[0, 1] < 0.5  # the first black image got some of the last white one
