"""How the tests read a source."""

from __future__ import annotations

import time

from edge.domain import Frame
from edge.ports import Source
from tests.mosquitto import PATIENCE_S


def read_frame(source: Source) -> Frame:
    """The next frame, which must come."""
    give_up_s = time.monotonic() + PATIENCE_S
    while (frame := source.read(1.0)) is None:
        assert time.monotonic() < give_up_s, "no frame came"
    return frame


def read_for(source: Source, seconds: float) -> None:
    """Reads as the agent does, whatever comes."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        source.read(0.1)
