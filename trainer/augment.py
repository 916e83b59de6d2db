"""Data augmentation of a whole batch at once, as tensor operations that run inside the training step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from keras import ops

from trainer.layers import Tensor

_ROTATION_RAD = math.radians(12)
_SHIFT = 0.10  # of the image's side
_ZOOM = 0.15
_CONTRAST = 0.3
_BRIGHTNESS = 40.0  # gray levels
_NOISE = 16.0  # largest standard deviation, gray levels
_ERASED_SIDE = (0.15, 0.4)  # of the image's side


class RandomGenerator(Protocol):
    """A random number generator: `tf.random.Generator`, or its counterpart for another backend."""

    def uniform(self, shape: Sequence[int], minval: float = 0.0, maxval: float = 1.0) -> Tensor:
        """Returns float32 samples of the uniform distribution."""

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Returns float32 samples of the standard normal distribution."""


def augment(
    images: Tensor, side_px: int, *, degrade_share: float, erase_share: float, random: RandomGenerator
) -> Tensor:
    """Flips, rotates, zooms and shifts each image, changes brightness and contrast, blurs, adds noise and erases.

    Args:
        images: uint8 (N, H, H), gray 0-255.
        side_px: Side of the result, at most H.
        degrade_share: Share of images that are blurred, and share that get sensor noise, 0 to 1.
        erase_share: Share of images in which a rectangle is replaced by noise, 0 to 1.
        random: Random number generator; every image gets parameters of its own.

    Returns:
        float32 (N, side_px, side_px, 1), gray 0-255.
    """
    pixels = ops.cast(images[..., None], "float32")
    pixels = _warp(pixels, side_px, random)
    pixels = _blur(pixels, degrade_share, random)
    pixels = _jitter_light(pixels, random)
    pixels = _add_noise(pixels, degrade_share, random)
    return _erase(pixels, erase_share, random)


def mixup(batch: Sequence[Tensor], max_weight: float, random: RandomGenerator) -> list[Tensor]:
    """Blends each image of a batch, and its targets, with another one's (mixup; Zhang et al. 2018, arXiv:1710.09412).

    Args:
        batch: Images float32 (N, H, W, 1), and targets float32 (N, classes).
        max_weight: Largest weight of the other image, 0 to 0.5; weights are uniformly distributed from 0 to this.
        random: Random number generator.
    """
    weight = random.uniform((ops.shape(batch[0])[0],), 0.0, max_weight)
    mixed = []
    for values in batch:
        other_weight = ops.reshape(weight, (-1,) + (1,) * (len(values.shape) - 1))
        mixed.append(values * (1 - other_weight) + ops.roll(values, 1, axis=0) * other_weight)
    return mixed


def _warp(pixels: Tensor, side_px: int, random: RandomGenerator) -> Tensor:
    """Flips, rotates, zooms, shifts and resizes in a single bilinear resampling."""
    count, height, *_ = ops.shape(pixels)
    angle = random.uniform((count,), -_ROTATION_RAD, _ROTATION_RAD)
    zoom = ops.exp(random.uniform((count,), -_ZOOM, _ZOOM)) * height / side_px
    mirror = ops.where(random.uniform((count,)) < 0.5, -1.0, 1.0)
    shift_x, shift_y = (random.uniform((count,), -_SHIFT, _SHIFT) * height for _ in range(2))
    cos, sin = zoom * ops.cos(angle), zoom * ops.sin(angle)
    # Output (u, v) samples input (a u + b v + c, d u + e v + f); c and f map center to center.
    a, b, d, e = mirror * cos, -mirror * sin, sin, cos
    output_center, input_center = (side_px - 1) / 2, (height - 1) / 2
    c = input_center + shift_x - (a + b) * output_center
    f = input_center + shift_y - (d + e) * output_center
    zeros = ops.zeros_like(a)
    transforms = ops.stack([a, b, c, d, e, f, zeros, zeros], axis=1)
    return ops.image.affine_transform(pixels, transforms, fill_mode="nearest")[:, :side_px, :side_px]


def _blur(pixels: Tensor, share: float, random: RandomGenerator) -> Tensor:
    """Applies a 3x3 box blur, as if the face were out of focus or upscaled."""
    chosen = random.uniform((ops.shape(pixels)[0], 1, 1, 1)) < share
    return ops.where(chosen, ops.average_pool(pixels, 3, 1, "same"), pixels)


def _add_noise(pixels: Tensor, share: float, random: RandomGenerator) -> Tensor:
    shape = (ops.shape(pixels)[0], 1, 1, 1)
    strength = ops.where(random.uniform(shape) < share, random.uniform(shape, 0.0, _NOISE), 0.0)
    return ops.clip(pixels + strength * random.normal(ops.shape(pixels)), 0.0, 255.0)


def _jitter_light(pixels: Tensor, random: RandomGenerator) -> Tensor:
    shape = (ops.shape(pixels)[0], 1, 1, 1)
    contrast = ops.exp(random.uniform(shape, -_CONTRAST, _CONTRAST))
    brightness = random.uniform(shape, -_BRIGHTNESS, _BRIGHTNESS)
    mean = ops.mean(pixels, axis=(1, 2, 3), keepdims=True)
    return ops.clip((pixels - mean) * contrast + mean + brightness, 0.0, 255.0)


def _erase(pixels: Tensor, share: float, random: RandomGenerator) -> Tensor:
    """Random erasing (Zhong et al. 2017, arXiv:1708.04896)."""
    count, side, *_ = ops.shape(pixels)
    along_y, along_x = (_interval(count, side, random) for _ in range(2))
    chosen = random.uniform((count, 1, 1)) < share
    erased = (along_y[:, :, None] & along_x[:, None, :] & chosen)[..., None]
    return ops.where(erased, random.uniform(ops.shape(pixels), 0.0, 255.0), pixels)


def _interval(count: Tensor, side: Tensor, random: RandomGenerator) -> Tensor:
    """Returns one random interval of pixels for each image, bool (N, side)."""
    length = random.uniform((count, 1), *_ERASED_SIDE)
    start = random.uniform((count, 1)) * (1 - length)
    position = ops.arange(side, dtype="float32")[None] / side
    return (position >= start) & (position < start + length)
