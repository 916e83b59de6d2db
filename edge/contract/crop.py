"""Cuts a face out of a picture the way the model's training images are framed.

The agent runs this code, and what is measured of a detector's crops goes through it too: the trainer's corruption of
that name, and the benchmark of the framing.
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
    """A square in the picture, possibly turned, possibly reaching over its edge.

    Attributes:
        centre: x and y in pixels.
        side: In pixels.
        angle: Radians by which the face is turned, clockwise as seen in the picture.
    """

    centre: Point
    side: float
    angle: float = 0.0

    def share_inside(self, width_px: int, height_px: int) -> float:
        """How much of it lies in the picture, 0 to 1, its turn left out of account."""
        half = self.side / 2
        (x, y) = self.centre
        inside_x = min(x + half, width_px) - max(x - half, 0)
        inside_y = min(y + half, height_px) - max(y - half, 0)
        return min(1.0, max(0.0, inside_x) * max(0.0, inside_y) / self.side**2)


def square_from_eyes(left: Point, right: Point, framing: Framing, *, least_side: float = 0.0) -> CropSquare:
    """The square that puts the middle of the eyes, and the eyes of a frontal face, where the training images have them.

    Args:
        left: The eye on the picture's left.
        right: The other.
        framing: Where eyes lie.
        least_side: What the face measures by other means: the more a head is turned, the nearer its eyes are together.
    """
    side = max(math.dist(left, right) / framing.eye_distance, least_side)
    angle = math.atan2(right[1] - left[1], right[0] - left[0])
    middle_x, middle_y = (left[0] + right[0]) / 2, (left[1] + right[1]) / 2
    along, down = (0.5 - framing.eyes_x) * side, (0.5 - framing.eye_y) * side
    cos, sin = math.cos(angle), math.sin(angle)
    return CropSquare((middle_x + along * cos - down * sin, middle_y + along * sin + down * cos), side, angle)


def square_from_box(left: float, top: float, right: float, bottom: float, framing: Framing) -> CropSquare:
    """The upright square around a detector's box, for detectors that give no eyes."""
    width, height = right - left, bottom - top
    centre = ((left + right) / 2, (top + bottom) / 2 + framing.box_shift_y * height)
    return CropSquare(centre, max(width, height) * framing.box_scale)


def cut(image: NDArray[np.uint8], square: CropSquare, size_px: int) -> NDArray[np.uint8]:
    """Cuts the square out and scales it.

    Args:
        image: uint8 (H, W, 3) BGR or (H, W) gray.
        square: What to cut; where it reaches over the edge, the edge's pixels are repeated.
        size_px: Side of the result.

    Returns:
        uint8 (size_px, size_px) gray.
    """
    region, left, top = _region(image, square)
    gray = cv2.cvtColor(region, cv2.COLOR_BGR2GRAY) if region.ndim == 3 else region
    gray, factor = _shrunk(gray, square.side / size_px)
    to_region = _affine(square, size_px, left, top)
    # Pixel centres lie at +0.5: scale about the corner, not about the first pixel's centre.
    to_region[:, :2] /= factor
    to_region[:, 2] = (to_region[:, 2] + 0.5) / factor - 0.5
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    face = cv2.warpAffine(gray, to_region, (size_px, size_px), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(face, np.uint8)


def _region(image: NDArray[np.uint8], square: CropSquare) -> tuple[NDArray[np.uint8], int, int]:
    """The upright part of the picture that holds the square, and its corner: all else need not be touched."""
    half = square.side / 2 * (abs(math.cos(square.angle)) + abs(math.sin(square.angle))) + 2
    height, width = image.shape[:2]
    # Not np.clip, which takes five times as long for a single number.
    left, right = (int(min(max(square.centre[0] + d, 0), width)) for d in (-half, half))
    top, bottom = (int(min(max(square.centre[1] + d, 0), height)) for d in (-half, half))
    left, top = min(left, width - 1), min(top, height - 1)
    return image[top : max(bottom, top + 1), left : max(right, left + 1)], left, top


def _shrunk(gray: NDArray[np.uint8], step: float) -> tuple[NDArray[np.uint8], int]:
    """The picture made smaller where a crop pixel is `step` of its pixels, and by which factor it was.

    Bilinear sampling reads 2x2 pixels: what shrinks more must be averaged first, or it aliases. By a whole number, for
    which OpenCV is several times as fast; the pixels that are left over at the right and lower edge go.
    """
    factor = min(math.ceil(step / 2), *gray.shape)
    if factor <= 1:
        return gray, 1
    height, width = (n // factor for n in gray.shape)
    whole = gray[: height * factor, : width * factor]
    return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), np.uint8), factor


def _affine(square: CropSquare, size_px: int, left: int, top: int) -> NDArray[np.float64]:
    """float64 (2, 3): crop pixel (u, v, 1) to region pixel."""
    step = square.side / size_px
    cos, sin = step * math.cos(square.angle), step * math.sin(square.angle)
    middle = (size_px - 1) / 2
    # The picture's coordinates count pixel corners, the warp's count pixel centres.
    x, y = square.centre[0] - 0.5 - left, square.centre[1] - 0.5 - top
    return np.array([[cos, -sin, x - cos * middle + sin * middle], [sin, cos, y - sin * middle - cos * middle]])
