"""Random variation of a whole batch of faces at once, as tensor operations that run inside the training step."""

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


class Dice(Protocol):
    """Source of random numbers: `tf.random.Generator`, or what stands for it elsewhere."""

    def uniform(self, shape: Sequence[int], minval: float = 0.0, maxval: float = 1.0) -> Tensor:
        """float32, evenly distributed."""

    def normal(self, shape: Sequence[int]) -> Tensor:
        """float32, of mean 0 and standard deviation 1."""


def augment(images: Tensor, side_px: int, *, degrade_share: float, erase_share: float, random: Dice) -> Tensor:
    """Mirrors, rotates, zooms, shifts, blurs, changes light, adds noise and erases, for each image by its own dice.

    Args:
        images: uint8 (N, H, H), gray 0-255.
        side_px: Side of the result, at most H.
        degrade_share: Share of images that are blurred, and of those that get a camera's noise, 0 to 1.
        erase_share: Share of images of which a rectangle is replaced by noise, 0 to 1.
        random: Source of all randomness.

    Returns:
        float32 (N, side_px, side_px, 1), gray 0-255.
    """
    pixels = ops.cast(images[..., None], "float32")
    pixels = _warp(pixels, side_px, random)
    pixels = _blur(pixels, degrade_share, random)
    pixels = _relight(pixels, random)
    pixels = _add_noise(pixels, degrade_share, random)
    return _erase(pixels, erase_share, random)


def mix(batch: Sequence[Tensor], most: float, random: Dice) -> list[Tensor]:
    """Mixes each image of a batch, and its targets, with another one's (Zhang et al. 2018, arXiv:1710.09412).

    Args:
        batch: Images float32 (N, H, W, 1), and targets float32 (N, classes).
        most: Largest weight of the other image, 0 to 0.5; the weights are even between 0 and this.
        random: Source of all randomness.
    """
    weight = random.uniform((ops.shape(batch[0])[0],), 0.0, most)
    mixed = []
    for values in batch:
        of_other = ops.reshape(weight, (-1,) + (1,) * (len(values.shape) - 1))
        mixed.append(values * (1 - of_other) + ops.roll(values, 1, axis=0) * of_other)
    return mixed


def _warp(pixels: Tensor, side_px: int, random: Dice) -> Tensor:
    """One bilinear resampling for mirror, rotation, zoom, shift and size together."""
    count, height, *_ = ops.shape(pixels)
    angle = random.uniform((count,), -_ROTATION_RAD, _ROTATION_RAD)
    zoom = ops.exp(random.uniform((count,), -_ZOOM, _ZOOM)) * height / side_px
    mirror = ops.where(random.uniform((count,)) < 0.5, -1.0, 1.0)
    shift_x, shift_y = (random.uniform((count,), -_SHIFT, _SHIFT) * height for _ in range(2))
    cos, sin = zoom * ops.cos(angle), zoom * ops.sin(angle)
    # Output (u, v) reads input (a u + b v + c, d u + e v + f); c and f keep the centres together.
    a, b, d, e = mirror * cos, -mirror * sin, sin, cos
    from_centre, to_centre = (side_px - 1) / 2, (height - 1) / 2
    c = to_centre + shift_x - (a + b) * from_centre
    f = to_centre + shift_y - (d + e) * from_centre
    nothing = ops.zeros_like(a)
    transforms = ops.stack([a, b, c, d, e, f, nothing, nothing], axis=1)
    return ops.image.affine_transform(pixels, transforms, fill_mode="nearest")[:, :side_px, :side_px]


def _blur(pixels: Tensor, share: float, random: Dice) -> Tensor:
    """A face that is out of focus or was enlarged: each pixel becomes the mean of its 3x3 neighbours."""
    chosen = random.uniform((ops.shape(pixels)[0], 1, 1, 1)) < share
    return ops.where(chosen, ops.average_pool(pixels, 3, 1, "same"), pixels)


def _add_noise(pixels: Tensor, share: float, random: Dice) -> Tensor:
    shape = (ops.shape(pixels)[0], 1, 1, 1)
    strength = ops.where(random.uniform(shape) < share, random.uniform(shape, 0.0, _NOISE), 0.0)
    return ops.clip(pixels + strength * random.normal(ops.shape(pixels)), 0.0, 255.0)


def _relight(pixels: Tensor, random: Dice) -> Tensor:
    shape = (ops.shape(pixels)[0], 1, 1, 1)
    contrast = ops.exp(random.uniform(shape, -_CONTRAST, _CONTRAST))
    brightness = random.uniform(shape, -_BRIGHTNESS, _BRIGHTNESS)
    mean = ops.mean(pixels, axis=(1, 2, 3), keepdims=True)
    return ops.clip((pixels - mean) * contrast + mean + brightness, 0.0, 255.0)


def _erase(pixels: Tensor, share: float, random: Dice) -> Tensor:
    """Random erasing, Zhong et al. 2017 (arXiv:1708.04896)."""
    count, side, *_ = ops.shape(pixels)
    along_y, along_x = (_interval(count, side, random) for _ in range(2))
    chosen = random.uniform((count, 1, 1)) < share
    erased = (along_y[:, :, None] & along_x[:, None, :] & chosen)[..., None]
    return ops.where(erased, random.uniform(ops.shape(pixels), 0.0, 255.0), pixels)


def _interval(count: Tensor, side: Tensor, random: Dice) -> Tensor:
    """One random run of pixels for each image, bool (N, side)."""
    length = random.uniform((count, 1), *_ERASED_SIDE)
    start = random.uniform((count, 1)) * (1 - length)
    position = ops.arange(side, dtype="float32")[None] / side
    return (position >= start) & (position < start + length)
