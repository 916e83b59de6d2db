"""Finding faces: BlazeFace where its models are installed, OpenCV's Haar cascade otherwise."""

from __future__ import annotations

import logging

from edge.detect.blazeface import INSTALL_COMMAND, BlazeFaceDetector, find_model
from edge.detect.haar import HaarDetector
from edge.detector_name import MIN_FACE_PX, MIN_SCORE, DetectorChoice
from edge.runtime import RuntimeChoice

__all__ = ["BlazeFaceDetector", "DetectorChoice", "HaarDetector", "create_detector"]

log = logging.getLogger(__name__)


def create_detector(
    name: DetectorChoice = "auto",
    *,
    min_score: float = MIN_SCORE,
    min_face_px: int = MIN_FACE_PX,
    runtime: RuntimeChoice = "auto",
    threads: int = 1,
) -> BlazeFaceDetector | HaarDetector:
    """Make the detector of that name.

    Args:
        name: Which one, see `DetectorChoice`. The one that was made tells its own in `name`.
        min_score: Faces less certain than this are left out; above 0, below 1.
        min_face_px: Faces smaller than this many pixels of the frame are left out; 1 or more.
        runtime: The TFLite runtime for BlazeFace.
        threads: Threads for one inference of BlazeFace.

    Raises:
        RuntimeMissing: Something that the detector needs is not installed.
    """
    if name == "auto" and find_model("full") is None:
        log.warning("BlazeFace is not installed, the weaker Haar detector is used instead. Run `%s`", INSTALL_COMMAND)
        name = "haar"
    if name == "haar":
        return HaarDetector(min_score=min_score, min_face_px=min_face_px)
    return BlazeFaceDetector(
        reach="short" if name == "blazeface-short" else "full",
        min_score=min_score,
        min_face_px=min_face_px,
        runtime=runtime,
        threads=threads,
    )
