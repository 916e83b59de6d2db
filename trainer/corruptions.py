"""Common corruptions by cameras, lighting and face detectors: eleven at five severities, after Hendrycks & Dietterich.

"Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019 (arXiv:1903.12261), adapted
to 48x48 gray faces. Random parameters (direction, position, noise) are seeded by the corruption and the image itself:
an image is always corrupted the same way, and in the same direction at every severity.

Each corruption takes a uint8 (48, 48) image, the level of the severity and the image's random generator, and returns
uint8 (48, 48). Its docstring gives the rationale for its range of levels.
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
Generator = np.random.Generator

SEVERITIES: Final = (1, 2, 3, 4, 5)

_PHOTONS: Final = 1000.0
"""Collected by a white pixel at full exposure."""
_READ_NOISE: Final = 0.004  # standard deviation as a share of white: one gray level

_CROP_SPREAD: Final = (0.027, 0.038, 0.134, 6.9)
"""Standard deviations of the agent's crops relative to those of FER-2013: shift right and down in crop sides, logarithm
of the side, roll in degrees. Measured on 2,004 faces, robustly around the median (`python -m tests.bench.framing`), and
including FER-2013's own variation. For crops sized by the eyes alone; sized by the box too, as in `edge.align`, the
logarithm has 0.130."""


def brightness(image: Image, gray_levels: float, rng: Generator) -> Image:
    """Adds or subtracts gray levels: a tenth to half of the range, as in ImageNet-C."""
    return _to_uint8(image + _sign(rng) * gray_levels)


def contrast(image: Image, factor: float, _rng: Generator) -> Image:
    """Scales the deviation from the mean gray level: fog, a dirty lens, backlight.

    ImageNet-C scales by 0.4 to 0.05, CIFAR-10-C by 0.75 to 0.15; these levels lie in between.
    """
    mean = image.mean()
    return _to_uint8(mean + factor * (image - mean))


def gamma(image: Image, exponent: float, rng: Generator) -> Image:
    """Applies a gamma curve, darkening half of the images and brightening the others.

    Level 2.2 is a display gamma that is missing or applied twice, the worst case that is common.
    """
    return _to_uint8(255 * (image / 255) ** exponent ** _sign(rng))


def low_light(image: Image, exposure: float, rng: Generator) -> Image:
    """Underexposes, with shot noise and read noise of the sensor (Foi et al., IEEE TIP 17, 2008).

    Every second level halves the light. White has 500 to 120 photons, and brightness is not compensated; the shot noise
    of CIFAR-10-C has 500 to 50 photons at full brightness.
    """
    light = rng.poisson(image * (exposure * _PHOTONS / 255)) / _PHOTONS
    return _to_uint8(255 * (light + rng.normal(0, _READ_NOISE, image.shape)))


def motion_blur(image: Image, length_px: float, rng: Generator) -> Image:
    """Blurs along a line in a random direction.

    A person walking past (1.4 m/s, with 0.2 m of the scene in the crop) moves 11 pixels in an exposure of 1/30 s.
    """
    size = int(length_px)
    line = np.zeros((size, size), np.float32)
    line[size // 2] = 1
    rotation_matrix = cv2.getRotationMatrix2D((size // 2, size // 2), rng.uniform(0, 180), 1.0)
    line = cv2.warpAffine(line, rotation_matrix, (size, size))
    return _image(cv2.filter2D(image, -1, line / line.sum(), borderType=cv2.BORDER_REPLICATE))


def defocus_blur(image: Image, sigma_px: float, _rng: Generator) -> Image:
    """Blurs isotropically: out of focus, or a distant face upscaled to the crop.

    At this resolution a Gaussian approximates the disc kernel of a lens, with radius 2 sigma. The strongest levels of
    ImageNet-C, CIFAR-10-C and Tiny ImageNet-C correspond to 1.1 pixels here.
    """
    return _image(cv2.GaussianBlur(image, (0, 0), sigma_px, borderType=cv2.BORDER_REPLICATE))


def jpeg(image: Image, quality: float, _rng: Generator) -> Image:
    """Compresses with the JPEG qualities of ImageNet-C."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    return _image(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))


def rotation(image: Image, degrees: float, rng: Generator) -> Image:
    """Rotates to either side by up to 45 degrees, as heads tilt. Detectors without eye positions do not correct it."""
    return _crop(image, roll_degrees=_sign(rng) * degrees)


def scale(image: Image, factor: float, rng: Generator) -> Image:
    """Makes the crop too large or too small; the spread of the agent's own crops lies between levels 1 and 2."""
    return _crop(image, side=factor ** _sign(rng))


def detector_crop(image: Image, spreads: float, rng: Generator) -> Image:
    """Shifts, scales and rotates the crop by a multiple of the measured spread of the agent's own crops.

    Level 1 is normal detector performance, with one in twenty errors beyond three times the spread; at level 3 it is
    one in three.
    """
    right, down, log_side, roll = spreads * np.array(_CROP_SPREAD) * rng.normal(size=4)
    return _crop(image, right=right, down=down, side=math.exp(log_side), roll_degrees=roll)


def occlusion(image: Image, side: float, rng: Generator) -> Image:
    """Covers a square with uniform gray: from a tenth of the crop, like sunglasses, to half of it, like a mask."""
    covered_px = round(side * SIZE_PX)
    left, top = (rng.uniform(size=2) * (SIZE_PX - covered_px)).round().astype(int)
    covered = image.copy()
    covered[top : top + covered_px, left : left + covered_px] = rng.integers(256)
    return covered


@dataclass(frozen=True, slots=True)
class Corruption:
    """A corruption and its levels.

    Attributes:
        apply: Function that corrupts an image.
        unit: Unit or meaning of the levels.
        levels: One level for each of `SEVERITIES`.
    """

    apply: Callable[[Image, float, Generator], Image]
    unit: str
    levels: tuple[float, float, float, float, float]

    @property
    def name(self) -> str:
        """Identifier used in JSON."""
        return self.apply.__name__

    @property
    def title(self) -> str:
        """Display name."""
        return self.name.replace("_", " ")


CORRUPTIONS: Final = (
    Corruption(brightness, "gray levels added or subtracted", (26, 51, 77, 102, 128)),
    Corruption(contrast, "contrast factor", (0.5, 0.4, 0.3, 0.2, 0.1)),
    Corruption(gamma, "gamma or its inverse", (1.4, 1.8, 2.2, 2.7, 3.3)),
    Corruption(low_light, "exposure", (0.5, 0.35, 0.25, 0.17, 0.12)),
    Corruption(motion_blur, "kernel length in pixels", (3, 5, 7, 9, 11)),
    Corruption(defocus_blur, "sigma in pixels", (0.5, 0.8, 1.1, 1.5, 2.0)),
    Corruption(jpeg, "quality", (25, 18, 15, 10, 7)),
    Corruption(rotation, "degrees", (9, 18, 27, 36, 45)),
    Corruption(scale, "scale factor or its inverse", (1.1, 1.2, 1.3, 1.45, 1.6)),
    Corruption(detector_crop, "multiples of the detector's spread", (1, 1.5, 2, 2.5, 3)),
    Corruption(occlusion, "side of the square as a share of the crop", (0.3, 0.4, 0.5, 0.6, 0.7)),
)
"""In display order."""


def corrupt(images: NDArray[np.uint8], corruption: Corruption, severity: int) -> NDArray[np.uint8]:
    """Corrupts each image independently of the others.

    Args:
        images: uint8 (N, 48, 48), gray 0-255; not modified.
        corruption: One of `CORRUPTIONS`.
        severity: One of `SEVERITIES`.

    Returns:
        uint8 (N, 48, 48) in the same order.
    """
    level, key = float(corruption.levels[severity - 1]), zlib.crc32(corruption.name.encode())
    corrupted = np.empty_like(images)
    for image, result in zip(images, corrupted, strict=True):
        rng = np.random.default_rng([key, zlib.crc32(image.tobytes())])
        result[:] = corruption.apply(image, level, rng)
    return corrupted


def _sign(rng: Generator) -> int:
    return 1 if rng.random() < 0.5 else -1


def _to_uint8(values: NDArray[np.floating[Any]]) -> Image:
    return values.round().clip(0, 255).astype(np.uint8)


def _image(result: Any) -> Image:
    return np.asarray(result, np.uint8)


def _crop(image: Image, *, right: float = 0, down: float = 0, side: float = 1, roll_degrees: float = 0) -> Image:
    """Crops a square shifted by shares of its side, scaled and rotated; border pixels are replicated."""
    center = (SIZE_PX * (0.5 + right), SIZE_PX * (0.5 + down))
    return extract_crop(image, CropSquare(center, SIZE_PX * side, math.radians(roll_degrees)), SIZE_PX)
