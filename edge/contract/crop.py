"""Crops a face from an image with the framing of the model's training images.

Used by the agent, and wherever a detector's crops are evaluated: by the trainer's corruption `detector_crop` and the
framing benchmark.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.contract.manifest import Framing

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class CropSquare:
    """A square in the image, possibly rotated, possibly extending beyond the image.

    Attributes:
        center: x and y in pixels.
        side: Length of the side in pixels.
        angle: Rotation of the face in radians, clockwise as seen in the image.
    """

    center: Point
    side: float
    angle: float = 0.0

    def fraction_inside(self, width_px: int, height_px: int) -> float:
        """Returns the fraction of the square that lies inside the image, 0 to 1, ignoring its rotation."""
        half = self.side / 2
        (x, y) = self.center
        inside_x = min(x + half, width_px) - max(x - half, 0)
        inside_y = min(y + half, height_px) - max(y - half, 0)
        return min(1.0, max(0.0, inside_x) * max(0.0, inside_y) / self.side**2)


def square_from_eyes(left: Point, right: Point, framing: Framing, *, min_side: float = 0.0) -> CropSquare:
    """Returns the square in which the eyes of a frontal face are where the training images have them.

    For a turned head, whose eyes appear closer together, only the midpoint between the eyes is.

    Args:
        left: Position of the eye on the left of the image.
        right: Position of the other eye.
        framing: Position of the eyes in the training images.
        min_side: Minimum side, from the size of the face as measured otherwise; used for a turned head.
    """
    side = max(math.dist(left, right) / framing.eye_distance, min_side)
    angle = math.atan2(right[1] - left[1], right[0] - left[0])
    middle_x, middle_y = (left[0] + right[0]) / 2, (left[1] + right[1]) / 2
    along, down = (0.5 - framing.eyes_x) * side, (0.5 - framing.eye_y) * side
    cos, sin = math.cos(angle), math.sin(angle)
    return CropSquare((middle_x + along * cos - down * sin, middle_y + along * sin + down * cos), side, angle)


def square_from_box(left: float, top: float, right: float, bottom: float, framing: Framing) -> CropSquare:
    """Returns the upright square around a detector's box, for detectors without eye positions."""
    width, height = right - left, bottom - top
    center = ((left + right) / 2, (top + bottom) / 2 + framing.box_shift_y * height)
    return CropSquare(center, max(width, height) * framing.box_scale)


def extract_crop(image: NDArray[np.uint8], square: CropSquare, size_px: int) -> NDArray[np.uint8]:
    """Crops the square and scales it.

    Args:
        image: uint8 (H, W, 3) BGR or (H, W) gray.
        square: The region to crop; beyond the image, its edge pixels are repeated.
        size_px: Side of the result.

    Returns:
        uint8 (size_px, size_px) gray.
    """
    region, left, top = _region(image, square)
    gray = cv2.cvtColor(region, cv2.COLOR_BGR2GRAY) if region.ndim == 3 else region
    gray, factor = _downscale(gray, square.side / size_px)
    to_region = _affine(square, size_px, left, top)
    # Pixel centers are at +0.5: scale about the corner, not about the center of the first pixel.
    to_region[:, :2] /= factor
    to_region[:, 2] = (to_region[:, 2] + 0.5) / factor - 0.5
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    face = cv2.warpAffine(gray, to_region, (size_px, size_px), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(face, np.uint8)


def _region(image: NDArray[np.uint8], square: CropSquare) -> tuple[NDArray[np.uint8], int, int]:
    """Returns the upright region of the image that contains the square, and the region's left and top.

    Only this region needs to be converted to gray.
    """
    half = square.side / 2 * (abs(math.cos(square.angle)) + abs(math.sin(square.angle))) + 2
    height, width = image.shape[:2]
    # np.clip takes five times as long for a single number.
    left, right = (int(min(max(square.center[0] + d, 0), width)) for d in (-half, half))
    top, bottom = (int(min(max(square.center[1] + d, 0), height)) for d in (-half, half))
    left, top = min(left, width - 1), min(top, height - 1)
    return image[top : max(bottom, top + 1), left : max(right, left + 1)], left, top


def _downscale(gray: NDArray[np.uint8], step: float) -> tuple[NDArray[np.uint8], int]:
    """Downscales the image if a crop pixel covers more than two of its pixels; returns it with the factor.

    Bilinear sampling reads only 2x2 pixels, so stronger downscaling needs averaging first to avoid aliasing. `step` is
    the number of image pixels per crop pixel. The factor is an integer, for which OpenCV is several times as fast; the
    remaining pixels at the right and bottom edges are dropped.
    """
    factor = min(math.ceil(step / 2), *gray.shape)
    if factor <= 1:
        return gray, 1
    height, width = (n // factor for n in gray.shape)
    whole = gray[: height * factor, : width * factor]
    return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), np.uint8), factor


def _affine(square: CropSquare, size_px: int, left: int, top: int) -> NDArray[np.float64]:
    """Returns the float64 (2, 3) matrix that maps a crop pixel (u, v, 1) to a region pixel."""
    step = square.side / size_px
    cos, sin = step * math.cos(square.angle), step * math.sin(square.angle)
    middle = (size_px - 1) / 2
    # Image coordinates refer to pixel corners, those of the warp to pixel centers.
    x, y = square.center[0] - 0.5 - left, square.center[1] - 0.5 - top
    return np.array([[cos, -sin, x - cos * middle + sin * middle], [sin, cos, y - sin * middle - cos * middle]])
