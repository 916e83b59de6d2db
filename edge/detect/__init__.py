"""Face detectors: BlazeFace if its models are installed, otherwise OpenCV's Haar cascade."""

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
    """Creates a detector.

    Args:
        name: The detector, see `DetectorChoice`. Its attribute `name` tells what `auto` resolved to.
        min_score: Minimum score of a face; above 0, below 1.
        min_face_px: Minimum size of a face in pixels of the frame; 1 or more.
        runtime: The TFLite runtime for BlazeFace.
        threads: Threads for one inference of BlazeFace.

    Raises:
        RuntimeMissing: A package that the detector needs is not installed.
    """
    if name == "auto" and find_model("full") is None:
        log.warning("BlazeFace is not installed; using the less accurate Haar detector. Run `%s`", INSTALL_COMMAND)
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
