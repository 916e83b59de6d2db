"""Stand-ins for the four ports, scripted by the test that uses them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Self

import numpy as np
from numpy.typing import NDArray

from edge.contract import EMOTIONS
from edge.domain import Box, Face, Frame, Instant, Message
from edge.errors import SourceUnavailable


def frame(index: int, fps: float = 10.0) -> Frame:
    """A black 640x360 frame of a live camera."""
    return Frame(np.zeros((360, 640, 3), np.uint8), index, time_s=index / fps, mono_s=index / fps)


class StandingClock:
    """The machine's clocks, which stand still until a test moves them: at first, where frame 0 is taken."""

    def __init__(self) -> None:
        self.instant = Instant(wall_s=1_700_000_000.0, mono_s=0.0, synced=True)

    def now(self) -> Instant:
        return self.instant


class ScriptedSource:
    """Gives what each visit's script says: a frame, None for nothing in time, or an error to raise.

    Args:
        visits: One script for each time that it is opened; an error as the script makes opening fail.
    """

    def __init__(self, visits: Iterable[Iterable[Frame | Exception | None] | Exception]) -> None:
        self._visits = iter(visits)
        self._script: Iterator[Frame | Exception | None] = iter(())
        self.opened = 0
        self.closed = 0
        self.dropped = 0

    def __enter__(self) -> Self:
        visit = next(self._visits, SourceUnavailable("the script is at its end"))
        if isinstance(visit, Exception):
            raise visit
        self.opened += 1
        self._script = iter(visit)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.closed += 1

    def read(self, timeout_s: float) -> Frame | None:
        step = next(self._script, None)
        if isinstance(step, Exception):
            raise step
        if step is None:
            time.sleep(min(timeout_s, 0.01))
        return step


class ScriptedDetector:
    """Finds what a function of the call's number says."""

    name = "scripted"

    def __init__(self, faces: Callable[[int], list[Face]]) -> None:
        self._faces = faces
        self.calls = 0

    def detect(self, image_bgr: NDArray[np.uint8]) -> list[Face]:
        assert image_bgr.ndim == 3
        self.calls += 1
        return self._faces(self.calls - 1)


class SteadyClassifier:
    """Sees the same emotion in every face, until told otherwise."""

    def __init__(self, emotion: str = "happy") -> None:
        self.emotion = emotion
        self.calls = 0
        self.crops_seen = 0

    def classify(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.calls += 1
        self.crops_seen += len(crops)
        logits = np.zeros((len(crops), len(EMOTIONS)), np.float32)
        logits[:, EMOTIONS.index(self.emotion)] = 5
        return logits


class RecordingPublisher:
    """Keeps every message."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def publish(self, message: Message) -> None:
        self.messages.append(message)


def one_face(left: float = 270, top: float = 130, side: float = 100) -> Face:
    """A face in the middle of the frame."""
    return Face(Box(left, top, left + side, top + side), score=0.9)
