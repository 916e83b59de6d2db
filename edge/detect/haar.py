"""OpenCV's Haar cascade: the detector that every OpenCV 4 carries, slower and less able than BlazeFace.

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
# On the scale of the cascade's last stage, which lets pass what weighs 53.8 or more. In the photographs tried, 95 %
# of the faces weighed 55.4 to 57.7 and most things mistaken for faces 54.3 to 54.6.
_EVEN_ODDS_WEIGHT = 54.5
_MAX_SIDE_PX = 640


class HaarDetector:
    """Finds upright faces that look at the camera. It gives no eyes.

    A face's score is a logistic function of its weight in the cascade's last stage: about 0.4 for a window that just
    passes, 0.9 for a clear face. It is no probability.

    Args:
        min_score: Faces less certain than this are left out; above 0, below 1.
        min_face_px: Faces smaller than this many pixels of the frame are left out. Searching for larger faces only
            is faster.

    Raises:
        RuntimeMissing: This OpenCV carries no cascades.
    """

    name = "haar"

    def __init__(self, *, min_score: float, min_face_px: int) -> None:
        self._cascade = _load_cascade()
        self._min_score = min_score
        self._min_face_px = min_face_px

    def detect(self, image_bgr: NDArray[np.uint8]) -> list[Face]:
        """Faces in a uint8 (H, W, 3) picture, best first."""
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
        """How far the picture can shrink while the smallest face wanted still fills the cascade's window."""
        return min(1.0, _CASCADE_WINDOW_PX / self._min_face_px, _MAX_SIDE_PX / longer_side_px)


def _load_cascade() -> cv2.CascadeClassifier:
    try:
        cascade = cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / _CASCADE))
        if not cascade.empty():
            return cascade
        reason = "its files are not there"
    except (AttributeError, cv2.error) as error:  # OpenCV 5 has no such class
        reason = str(error)
    raise RuntimeMissing(
        f"OpenCV {cv2.__version__} carries no Haar cascades ({reason})",
        remedy="Run `pip install 'opencv-python-headless>=4.10,<5'`",
    )


def _face(box_xywh_px: NDArray[np.int32], weight: float, scale: float) -> Face:
    left, top, width, height = (float(value) / scale for value in box_xywh_px)
    score = 1 / (1 + exp(_EVEN_ODDS_WEIGHT - weight))
    return Face(box=Box(left=left, top=top, right=left + width, bottom=top + height), score=score)
