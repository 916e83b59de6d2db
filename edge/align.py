"""From faces in a frame to the crops that the model was trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge.contract.crop import CropSquare, extract_crop, square_from_box, square_from_eyes
from edge.contract.manifest import Framing
from edge.domain import Face, Frame

_LEAST_EYE_DISTANCE = 0.15
"""Of the box's width. Eyes closer together are a profile's or a mistake: they do not tell how the face is turned."""


def align(frame: Frame, faces: Sequence[Face], framing: Framing, size_px: int) -> tuple[NDArray[np.uint8], list[float]]:
    """Cuts out each face.

    Returns:
        uint8 (N, size_px, size_px) gray crops, and for each its quality, 0 to 1: a face that fills the crop with
        its own pixels and lies wholly in the frame has 1.
    """
    squares = [crop_square(face, framing) for face in faces]
    crops = np.empty((len(faces), size_px, size_px), np.uint8)
    for crop, square in zip(crops, squares, strict=True):
        crop[:] = extract_crop(frame.image_bgr, square, size_px)
    return crops, [_quality(square, frame, size_px) for square in squares]


def crop_square(face: Face, framing: Framing) -> CropSquare:
    """The square to cut out: placed and turned by the eyes where they say how, and sized by them and the box."""
    box = face.box
    around_box = square_from_box(box.left, box.top, box.right, box.bottom, framing)
    if face.eyes is not None and math.dist(*face.eyes) > _LEAST_EYE_DISTANCE * box.width:
        return square_from_eyes(*face.eyes, framing, min_side=around_box.side)
    return around_box


def _quality(square: CropSquare, frame: Frame, size_px: int) -> float:
    return min(1.0, square.side / size_px) * square.fraction_inside(frame.width_px, frame.height_px)
