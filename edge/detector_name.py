"""What a detector may be called, and which faces it leaves out if nobody says; `edge.detect` makes it."""

from __future__ import annotations

from typing import Final, Literal

DetectorChoice = Literal["auto", "blazeface-full", "blazeface-short", "haar"]
"""`auto` is `blazeface-full`, or `haar` where the package with BlazeFace's models is not installed."""

MIN_SCORE: Final = 0.6
MIN_FACE_PX: Final = 32
"""What a face must have at least: certainty, and pixels of the frame."""
