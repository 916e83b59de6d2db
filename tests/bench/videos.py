"""Synthetic face videos with a known emotion in every frame, made from labeled images."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.data import FaceSet

FPS = 10
_SEGMENT_S = (2.0, 8.0)
_IMAGE_S = (0.3, 2.0)
_SHIFT_PX, _SCALE, _ROTATION_DEG, _LIGHT, _NOISE = 1.5, 0.04, 3.0, 0.1, 4.0


@dataclass(frozen=True, slots=True, eq=False)
class Video:
    """Video of one face at `FPS` frames per second.

    Attributes:
        crops: uint8 (N, 48, 48), gray 0-255, one per frame.
        labels: int64 (N,), true emotion of each frame, index into `EMOTIONS`.
    """

    crops: NDArray[np.uint8]
    labels: NDArray[np.int64]


def render_video(faces: FaceSet, seconds: float, seed: int = 0) -> Video:
    """Renders a video: segments of 2 to 8 s with different emotions, distributed as among the images.

    Within a segment, random images of the emotion are shown for 0.3 to 2 s each, as a face moves while its expression
    stays the same; a misclassified image therefore affects consecutive frames. Each frame is slightly shifted, scaled,
    rotated and relit, with noise.
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
            for _ in range(min(end - len(labels), round(random.uniform(*_IMAGE_S) * FPS))):
                crops.append(_view(image, random))
                labels.append(label)
    return Video(np.array(crops), np.array(labels))


def _view(image: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Returns the image as in one frame, with the jitter of camera and detector."""
    side = image.shape[0]
    scale, rotation = 1 + random.uniform(-_SCALE, _SCALE), random.uniform(-_ROTATION_DEG, _ROTATION_DEG)
    matrix = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), rotation, scale)
    matrix[:, 2] += random.uniform(-_SHIFT_PX, _SHIFT_PX, 2)
    moved = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    lit = moved * random.uniform(1 - _LIGHT, 1 + _LIGHT) + random.normal(0, _NOISE, moved.shape)
    return np.asarray(lit.clip(0, 255).round(), np.uint8)
