"""Helpers for reading frames from a source."""

from __future__ import annotations

import time

from edge.domain import Frame
from edge.ports import Source
from tests.mosquitto import PATIENCE_S


def read_frame(source: Source) -> Frame:
    """Returns the next frame; fails if none arrives."""
    give_up_s = time.monotonic() + PATIENCE_S
    while (frame := source.read(1.0)) is None:
        assert time.monotonic() < give_up_s, "no frame arrived"
    return frame


def read_for(source: Source, seconds: float) -> None:
    """Reads continuously for a duration, like the agent, and discards the frames."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        source.read(0.1)
