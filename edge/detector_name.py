"""Names of the face detectors and their default thresholds; `edge.detect` creates them."""

from __future__ import annotations

from typing import Final, Literal

DetectorChoice = Literal["auto", "blazeface-full", "blazeface-short", "haar"]
"""`auto` is `blazeface-full`, or `haar` if the package with the BlazeFace models is not installed."""

MIN_SCORE: Final = 0.6
MIN_FACE_PX: Final = 32
"""Minimum score, and minimum size in pixels of the frame, of a face."""
