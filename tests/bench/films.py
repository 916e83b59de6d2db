"""Films of faces of which the emotion is known at every moment, made from labelled images."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.data import FaceSet

FPS = 10
_SEGMENT_S = (2.0, 8.0)
_LOOK_S = (0.3, 2.0)
_SHIFT_PX, _SCALE, _TURN_DEG, _LIGHT, _NOISE = 1.5, 0.04, 3.0, 0.1, 4.0


@dataclass(frozen=True, slots=True, eq=False)
class Film:
    """One face, at `FPS` frames a second.

    Attributes:
        crops: uint8 (N, 48, 48), gray 0-255.
        labels: int64 (N,), the emotion that is shown, index into `EMOTIONS`.
    """

    crops: NDArray[np.uint8]
    labels: NDArray[np.int64]


def shoot(faces: FaceSet, seconds: float, seed: int = 0) -> Film:
    """Makes a film: an emotion for 2 to 8 s, then another one, as often as each occurs among the images.

    An emotion is shown by one image after the other for 0.3 to 2 s each, as a face moves while it feels the same; so a
    misread look lasts for a while. Each frame is another view of it: shifted, scaled, turned and lit a little
    differently, with noise.
    """
    random = np.random.default_rng(seed)
    crops: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    while len(labels) < seconds * FPS:
        others = np.flatnonzero(faces.labels != labels[-1]) if labels else np.arange(len(faces))
        label = int(faces.labels[random.choice(others)])
        of_label = np.flatnonzero(faces.labels == label)
        end = len(labels) + round(random.uniform(*_SEGMENT_S) * FPS)
        while len(labels) < end:
            image = faces.images[random.choice(of_label)]
            for _ in range(min(end - len(labels), round(random.uniform(*_LOOK_S) * FPS))):
                crops.append(_view(image, random))
                labels.append(label)
    return Film(np.array(crops), np.array(labels))


def _view(image: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """The image as a camera and a detector, which are never quite still, give it in one frame."""
    side = image.shape[0]
    scale, turn = 1 + random.uniform(-_SCALE, _SCALE), random.uniform(-_TURN_DEG, _TURN_DEG)
    matrix = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), turn, scale)
    matrix[:, 2] += random.uniform(-_SHIFT_PX, _SHIFT_PX, 2)
    moved = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    lit = moved * random.uniform(1 - _LIGHT, 1 + _LIGHT) + random.normal(0, _NOISE, moved.shape)
    return np.asarray(lit.clip(0, 255).round(), np.uint8)
