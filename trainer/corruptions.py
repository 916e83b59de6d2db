"""What cameras, rooms and detectors do to a face: eleven corruptions at five severities, after Hendrycks & Dietterich.

"Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019 (arXiv:1903.12261), carried
over to 48x48 gray faces. What is drawn at random (a direction, a place, noise) is drawn from a seed of the corruption
and the image itself, so an image is always corrupted alike, and more severely in the same direction.

Each corruption takes a uint8 (48, 48) image, the level that stands for the severity, and the image's dice; it returns
uint8 (48, 48). Its docstring says where the range of its levels comes from.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.contract.crop import CropSquare, extract_crop
from trainer.layouts import SIZE_PX

Image = NDArray[np.uint8]
Dice = np.random.Generator

SEVERITIES: Final = (1, 2, 3, 4, 5)

_PHOTONS: Final = 1000.0
"""That a pixel of white gathers at full exposure."""
_READ_NOISE: Final = 0.004  # of white: one gray level

_CROP_SPREAD: Final = (0.027, 0.038, 0.134, 6.9)
"""Of the agent's crops about FER-2013's: right and down in sides, logarithm of the side, degrees of roll. Deviations of
2,004 faces, from their median (`python -m tests.bench.framing`); FER-2013's own scatter is part of them. Of crops sized
by the eyes alone; with the box, as in `edge.align`, the logarithm has 0.130."""


def brightness(image: Image, gray_levels: float, dice: Dice) -> Image:
    """Adds or takes away gray levels: a tenth to a half of the range, as in ImageNet-C."""
    return _pixels(image + _sign(dice) * gray_levels)


def contrast(image: Image, factor: float, _dice: Dice) -> Image:
    """Shrinks the distance from the mean gray level: fog, a dirty lens, light from behind.

    ImageNet-C keeps 0.4 to 0.05 and CIFAR-10-C 0.75 to 0.15; these levels lie between.
    """
    mean = image.mean()
    return _pixels(mean + factor * (image - mean))


def gamma(image: Image, exponent: float, dice: Dice) -> Image:
    """Bends the tone curve, for half of the images down and for the others up.

    Level 2.2 is a display curve that is missing or was applied twice, the worst that is common.
    """
    return _pixels(255 * (image / 255) ** exponent ** _sign(dice))


def low_light(image: Image, exposure: float, dice: Dice) -> Image:
    """Darkens, with the noise of few photons and of the sensor (Foi et al., IEEE TIP 17, 2008).

    Every second level halves the light. White has 500 to 120 photons and is shown as dark as it is; CIFAR-10-C's shot
    noise has 500 to 50, at full brightness.
    """
    light = dice.poisson(image * (exposure * _PHOTONS / 255)) / _PHOTONS
    return _pixels(255 * (light + dice.normal(0, _READ_NOISE, image.shape)))


def motion_blur(image: Image, length_px: float, dice: Dice) -> Image:
    """Smears along a line of any direction.

    Whoever walks past (1.4 m/s, 0.2 m of scene in the crop) moves 11 pixels in the 1/30 s that a shutter is open.
    """
    size = int(length_px)
    line = np.zeros((size, size), np.float32)
    line[size // 2] = 1
    turn = cv2.getRotationMatrix2D((size // 2, size // 2), dice.uniform(0, 180), 1.0)
    line = cv2.warpAffine(line, turn, (size, size))
    return _image(cv2.filter2D(image, -1, line / line.sum(), borderType=cv2.BORDER_REPLICATE))


def defocus_blur(image: Image, sigma_px: float, _dice: Dice) -> Image:
    """Blurs evenly: out of focus, or a face far away that was enlarged to the crop.

    On so few pixels a Gaussian stands for the disc of a lens, of radius 2 sigma. ImageNet-C, CIFAR-10-C and Tiny
    ImageNet-C end at what is 1.1 pixels here.
    """
    return _image(cv2.GaussianBlur(image, (0, 0), sigma_px, borderType=cv2.BORDER_REPLICATE))


def jpeg(image: Image, quality: float, _dice: Dice) -> Image:
    """Compresses with the qualities of ImageNet-C."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    return _image(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))


def rotation(image: Image, degrees: float, dice: Dice) -> Image:
    """Turns to either side, up to 45 degrees, as far as a neck leans. A detector without eyes takes none of it back."""
    return _cut(image, roll_degrees=_sign(dice) * degrees)


def scale(image: Image, factor: float, dice: Dice) -> Image:
    """Makes the crop too wide or too narrow; the spread of the agent's own crops lies between levels 1 and 2."""
    return _cut(image, side=factor ** _sign(dice))


def detector_crop(image: Image, spreads: float, dice: Dice) -> Image:
    """Shifts, scales and turns the crop at once, by so many times the measured spread of the agent's own crops.

    Level 1 is the detector as usual. One in twenty of its errors is more than three times the spread; at level 3, one
    in three is.
    """
    right, down, log_side, roll = spreads * np.array(_CROP_SPREAD) * dice.normal(size=4)
    return _cut(image, right=right, down=down, side=math.exp(log_side), roll_degrees=roll)


def occlusion(image: Image, side: float, dice: Dice) -> Image:
    """Hides a square of one gray level: from a tenth of the crop, as sunglasses do, to half of it, as a mask does."""
    hidden = round(side * SIZE_PX)
    left, top = (dice.uniform(size=2) * (SIZE_PX - hidden)).round().astype(int)
    covered = image.copy()
    covered[top : top + hidden, left : left + hidden] = dice.integers(256)
    return covered


@dataclass(frozen=True, slots=True)
class Corruption:
    """One way to spoil an image.

    Attributes:
        apply: The function that does it.
        unit: What its levels are.
        levels: One for each of `SEVERITIES`.
    """

    apply: Callable[[Image, float, Dice], Image]
    unit: str
    levels: tuple[float, float, float, float, float]

    @property
    def name(self) -> str:
        """As it stands in JSON."""
        return self.apply.__name__

    @property
    def title(self) -> str:
        """As people read it."""
        return self.name.replace("_", " ")


CORRUPTIONS: Final = (
    Corruption(brightness, "gray levels added or taken", (26, 51, 77, 102, 128)),
    Corruption(contrast, "share that is kept", (0.5, 0.4, 0.3, 0.2, 0.1)),
    Corruption(gamma, "exponent or its inverse", (1.4, 1.8, 2.2, 2.7, 3.3)),
    Corruption(low_light, "exposure", (0.5, 0.35, 0.25, 0.17, 0.12)),
    Corruption(motion_blur, "pixels", (3, 5, 7, 9, 11)),
    Corruption(defocus_blur, "sigma in pixels", (0.5, 0.8, 1.1, 1.5, 2.0)),
    Corruption(jpeg, "quality", (25, 18, 15, 10, 7)),
    Corruption(rotation, "degrees", (9, 18, 27, 36, 45)),
    Corruption(scale, "side of the crop or its inverse", (1.1, 1.2, 1.3, 1.45, 1.6)),
    Corruption(detector_crop, "times the detector's spread", (1, 1.5, 2, 2.5, 3)),
    Corruption(occlusion, "side of the hidden square", (0.3, 0.4, 0.5, 0.6, 0.7)),
)
"""In the order in which they are shown."""


def corrupt(images: NDArray[np.uint8], corruption: Corruption, severity: int) -> NDArray[np.uint8]:
    """Spoils each of uint8 (N, 48, 48) by itself, whatever stands beside it.

    Args:
        images: Gray 0-255; they stay as they are.
        corruption: One of `CORRUPTIONS`.
        severity: One of `SEVERITIES`.

    Returns:
        uint8 (N, 48, 48) in the same order.
    """
    level, key = float(corruption.levels[severity - 1]), zlib.crc32(corruption.name.encode())
    spoilt = np.empty_like(images)
    for image, result in zip(images, spoilt, strict=True):
        dice = np.random.default_rng([key, zlib.crc32(image.tobytes())])
        result[:] = corruption.apply(image, level, dice)
    return spoilt


def _sign(dice: Dice) -> int:
    return 1 if dice.random() < 0.5 else -1


def _pixels(values: NDArray[np.floating[Any]]) -> Image:
    return values.round().clip(0, 255).astype(np.uint8)


def _image(result: Any) -> Image:
    return np.asarray(result, np.uint8)


def _cut(image: Image, *, right: float = 0, down: float = 0, side: float = 1, roll_degrees: float = 0) -> Image:
    """The crop that a square displaced by shares of its side, scaled and turned would have; edges are repeated."""
    centre = (SIZE_PX * (0.5 + right), SIZE_PX * (0.5 + down))
    return extract_crop(image, CropSquare(centre, SIZE_PX * side, math.radians(roll_degrees)), SIZE_PX)
