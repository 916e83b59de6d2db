"""Random variation of a whole batch of faces at once, as tensor operations that run inside the training step."""

from __future__ import annotations

import math

import tensorflow as tf

_ROTATION_RAD = math.radians(12)
_SHIFT = 0.10  # of the image's side
_ZOOM = 0.15
_CONTRAST = 0.3
_BRIGHTNESS = 40.0  # gray levels
_NOISE = 16.0  # largest standard deviation, gray levels
_ERASED_SIDE = (0.15, 0.4)  # of the image's side


def augment(
    images: tf.Tensor, side_px: int, *, degrade_share: float, erase_share: float, random: tf.random.Generator
) -> tf.Tensor:
    """Mirrors, rotates, zooms, shifts, blurs, changes light, adds noise and erases, for each image by its own dice.

    Args:
        images: uint8 (N, H, H), gray 0-255.
        side_px: Side of the result.
        degrade_share: Share of images that are blurred, and of those that get a camera's noise, 0 to 1.
        erase_share: Share of images of which a rectangle is replaced by noise, 0 to 1.
        random: Source of all randomness.

    Returns:
        float32 (N, side_px, side_px, 1), gray 0-255.
    """
    pixels = tf.cast(images[..., tf.newaxis], tf.float32)
    pixels = _warp(pixels, side_px, random)
    pixels = _blur(pixels, degrade_share, random)
    pixels = _relight(pixels, random)
    pixels = _add_noise(pixels, degrade_share, random)
    return _erase(pixels, erase_share, random)


def resize(images: tf.Tensor, side_px: int) -> tf.Tensor:
    """uint8 (N, H, H) to float32 (N, side_px, side_px, 1) without variation."""
    pixels = tf.cast(images[..., tf.newaxis], tf.float32)
    return tf.image.resize(pixels, (side_px, side_px), antialias=True)


def _warp(pixels: tf.Tensor, side_px: int, random: tf.random.Generator) -> tf.Tensor:
    """One bilinear resampling for mirror, rotation, zoom, shift and size together."""
    count, height = tf.shape(pixels)[0], tf.cast(tf.shape(pixels)[1], tf.float32)
    angle = random.uniform((count,), -_ROTATION_RAD, _ROTATION_RAD)
    zoom = tf.exp(random.uniform((count,), -_ZOOM, _ZOOM)) * height / side_px
    mirror = tf.where(random.uniform((count,)) < 0.5, -1.0, 1.0)
    shift_x, shift_y = (random.uniform((count,), -_SHIFT, _SHIFT) * height for _ in range(2))
    cos, sin = zoom * tf.cos(angle), zoom * tf.sin(angle)
    # Output (u, v) reads input (a u + b v + c, d u + e v + f); c and f keep the centres together.
    a, b, d, e = mirror * cos, -mirror * sin, sin, cos
    from_centre, to_centre = (side_px - 1) / 2, (height - 1) / 2
    c = to_centre + shift_x - (a + b) * from_centre
    f = to_centre + shift_y - (d + e) * from_centre
    nothing = tf.zeros_like(a)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels,
        transforms=tf.stack([a, b, c, d, e, f, nothing, nothing], axis=1),
        output_shape=(side_px, side_px),
        interpolation="BILINEAR",
        fill_mode="NEAREST",
        fill_value=0.0,
    )


def _blur(pixels: tf.Tensor, share: float, random: tf.random.Generator) -> tf.Tensor:
    """A face that is out of focus or was enlarged: each pixel becomes the mean of its 3x3 neighbours."""
    chosen = random.uniform((tf.shape(pixels)[0], 1, 1, 1)) < share
    return tf.where(chosen, tf.nn.avg_pool2d(pixels, 3, 1, "SAME"), pixels)


def _add_noise(pixels: tf.Tensor, share: float, random: tf.random.Generator) -> tf.Tensor:
    shape = (tf.shape(pixels)[0], 1, 1, 1)
    strength = tf.where(random.uniform(shape) < share, random.uniform(shape, 0.0, _NOISE), 0.0)
    return tf.clip_by_value(pixels + strength * random.normal(tf.shape(pixels)), 0.0, 255.0)


def _relight(pixels: tf.Tensor, random: tf.random.Generator) -> tf.Tensor:
    shape = (tf.shape(pixels)[0], 1, 1, 1)
    contrast = tf.exp(random.uniform(shape, -_CONTRAST, _CONTRAST))
    brightness = random.uniform(shape, -_BRIGHTNESS, _BRIGHTNESS)
    mean = tf.reduce_mean(pixels, axis=(1, 2, 3), keepdims=True)
    return tf.clip_by_value((pixels - mean) * contrast + mean + brightness, 0.0, 255.0)


def _erase(pixels: tf.Tensor, share: float, random: tf.random.Generator) -> tf.Tensor:
    """Random erasing, Zhong et al. 2017 (arXiv:1708.04896)."""
    count, side = tf.shape(pixels)[0], tf.shape(pixels)[1]
    along_y, along_x = (_interval(count, side, random) for _ in range(2))
    chosen = random.uniform((count, 1, 1)) < share
    erased = (along_y[:, :, tf.newaxis] & along_x[:, tf.newaxis, :] & chosen)[..., tf.newaxis]
    return tf.where(erased, random.uniform(tf.shape(pixels), 0.0, 255.0), pixels)


def _interval(count: tf.Tensor, side: tf.Tensor, random: tf.random.Generator) -> tf.Tensor:
    """One random run of pixels for each image, bool (N, side)."""
    length = random.uniform((count, 1), *_ERASED_SIDE)
    start = random.uniform((count, 1)) * (1 - length)
    position = tf.range(side, dtype=tf.float32)[tf.newaxis] / tf.cast(side, tf.float32)
    return (position >= start) & (position < start + length)
