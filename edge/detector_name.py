"""What a detector may be called, for all who choose one; `edge.detect` makes it."""

from __future__ import annotations

from typing import Literal

DetectorChoice = Literal["auto", "blazeface-full", "blazeface-short", "haar"]
"""`auto` is `blazeface-full`, or `haar` where the package with BlazeFace's models is not installed."""
