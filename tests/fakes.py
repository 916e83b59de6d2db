"""Fake implementations of the four ports, and data types for tests."""

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


class ManualClock:
    """A clock that only changes when a test sets `instant`; it starts at the capture time of frame 0."""

    def __init__(self) -> None:
        self.instant = Instant(wall_s=1_700_000_000.0, mono_s=0.0, synced=True)

    def now(self) -> Instant:
        return self.instant


class ScriptedSource:
    """Plays one script per opening: frames, None for a timeout, or errors to raise.

    Args:
        scripts: One script per opening; an error instead of a script makes the opening fail.
    """

    def __init__(self, scripts: Iterable[Iterable[Frame | Exception | None] | Exception]) -> None:
        self._scripts = iter(scripts)
        self._script: Iterator[Frame | Exception | None] = iter(())
        self.opened = 0
        self.closed = 0
        self.dropped = 0

    def __enter__(self) -> Self:
        script = next(self._scripts, SourceUnavailable("no scripts left"))
        if isinstance(script, Exception):
            raise script
        self.opened += 1
        self._script = iter(script)
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
    """Returns the faces that a function computes from the index of the call."""

    name = "scripted"

    def __init__(self, faces: Callable[[int], list[Face]]) -> None:
        self._faces = faces
        self.calls = 0

    def detect(self, image_bgr: NDArray[np.uint8]) -> list[Face]:
        assert image_bgr.ndim == 3
        self.calls += 1
        return self._faces(self.calls - 1)


class ConstantClassifier:
    """Predicts `emotion` for every face."""

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
    """Records all messages."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def publish(self, message: Message) -> None:
        self.messages.append(message)


def one_face(left: float = 270, top: float = 130, side: float = 100) -> Face:
    """A face, by default in the middle of the frame."""
    return Face(Box(left, top, left + side, top + side), score=0.9)
