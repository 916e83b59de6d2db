"""Crops faces from a frame the way the model's training images were cropped."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge.contract.crop import CropSquare, extract_crop, square_from_box, square_from_eyes
from edge.contract.manifest import Framing
from edge.domain import Face, Frame

_MIN_EYE_DISTANCE = 0.15
"""As a fraction of the box width. Eyes closer together belong to a profile view or are wrong, so they do not show how
the face is rotated."""


def align(frame: Frame, faces: Sequence[Face], framing: Framing, size_px: int) -> tuple[NDArray[np.uint8], list[float]]:
    """Crops each face.

    Returns:
        Gray crops, uint8 (N, size_px, size_px), and the quality of each, 0 to 1: it is 1 if the crop did not have to
        be upscaled and lies completely inside the frame.
    """
    squares = [crop_square(face, framing) for face in faces]
    crops = np.empty((len(faces), size_px, size_px), np.uint8)
    for crop, square in zip(crops, squares, strict=True):
        crop[:] = extract_crop(frame.image_bgr, square, size_px)
    return crops, [_quality(square, frame, size_px) for square in squares]


def crop_square(face: Face, framing: Framing) -> CropSquare:
    """Returns the crop square: positioned and rotated by the eyes if they are usable, and sized by eyes and box."""
    box = face.box
    around_box = square_from_box(box.left, box.top, box.right, box.bottom, framing)
    if face.eyes is not None and math.dist(*face.eyes) > _MIN_EYE_DISTANCE * box.width:
        return square_from_eyes(*face.eyes, framing, min_side=around_box.side)
    return around_box


def _quality(square: CropSquare, frame: Frame, size_px: int) -> float:
    return min(1.0, square.side / size_px) * square.fraction_inside(frame.width_px, frame.height_px)
