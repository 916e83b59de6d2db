"""OpenCV's Haar cascade, included in every OpenCV 4; slower and less accurate than BlazeFace.

Method: Viola and Jones, "Rapid Object Detection using a Boosted Cascade of Simple Features", CVPR 2001.
"""

from __future__ import annotations

from math import exp
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.domain import Box, Face
from edge.errors import RuntimeMissing

_CASCADE = "haarcascade_frontalface_alt2.xml"
_CASCADE_WINDOW_PX = 20
# Level weight in the last stage of the cascade that maps to a score of 0.5. The stage accepts 53.8 and more. In the
# photographs tested, 95 % of the faces had 55.4 to 57.7, and most false positives 54.3 to 54.6.
_MIDPOINT_WEIGHT = 54.5
_MAX_SIDE_PX = 640


class HaarDetector:
    """Detects upright, frontal faces, without eye positions.

    The score of a face is a logistic function of its level weight in the last stage of the cascade: about 0.4 for a
    window that is barely accepted, 0.9 for a clear face. It is not a probability.

    Args:
        min_score: Minimum score of a face; above 0, below 1.
        min_face_px: Minimum size of a face in pixels of the frame. A larger minimum is faster.

    Raises:
        RuntimeMissing: The installed OpenCV does not include the cascade.
    """

    name = "haar"

    def __init__(self, *, min_score: float, min_face_px: int) -> None:
        self._cascade = _load_cascade()
        self._min_score = min_score
        self._min_face_px = min_face_px

    def detect(self, image_bgr: NDArray[np.uint8]) -> list[Face]:
        """Returns the faces in a BGR image, uint8 (H, W, 3), highest score first."""
        scale = self._scale(max(image_bgr.shape[:2]))
        gray = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2GRAY)
        small = cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else gray
        min_side = max(_CASCADE_WINDOW_PX, round(self._min_face_px * scale))
        boxes, _, weights = self._cascade.detectMultiScale3(
            cv2.equalizeHist(small), minSize=(min_side, min_side), outputRejectLevels=True
        )
        faces = [_face(box, weight, scale) for box, weight in zip(boxes, weights, strict=True)]
        confident = [face for face in faces if face.score >= self._min_score]
        return sorted(confident, key=lambda face: face.score, reverse=True)

    def _scale(self, longer_side_px: int) -> float:
        """Returns the scale at which a face of the minimum size just fills the cascade's window, at most 1.

        It is smaller if the image would otherwise be larger than `_MAX_SIDE_PX`, so that smaller faces are missed.
        """
        return min(1.0, _CASCADE_WINDOW_PX / self._min_face_px, _MAX_SIDE_PX / longer_side_px)


def _load_cascade() -> cv2.CascadeClassifier:
    try:
        cascade = cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / _CASCADE))
        if not cascade.empty():
            return cascade
        reason = "its files are missing"
    except (AttributeError, cv2.error) as error:  # OpenCV 5 has no such class
        reason = str(error)
    raise RuntimeMissing(
        f"OpenCV {cv2.__version__} does not include Haar cascades ({reason})",
        remedy="Run `pip install 'opencv-python-headless>=4.10,<5'`",
    )


def _face(box_xywh_px: NDArray[np.int32], weight: float, scale: float) -> Face:
    left, top, width, height = (float(value) / scale for value in box_xywh_px)
    score = 1 / (1 + exp(_MIDPOINT_WEIGHT - weight))
    return Face(box=Box(left=left, top=top, right=left + width, bottom=top + height), score=score)
