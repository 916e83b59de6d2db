"""The four protocols that connect the pipeline to cameras, models and the broker; adapters implement them."""

from __future__ import annotations

from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from edge.domain import Face, Frame, Message


class Source(Protocol):
    """Provides frames. A reusable context manager: opens on entry, closes on exit, and can be entered again."""

    def __enter__(self) -> Self:
        """Opens the source.

        Raises:
            SourceUnavailable: The source cannot be opened.
        """

    def __exit__(self, *exc_info: object) -> None: ...

    def read(self, timeout_s: float) -> Frame | None:
        """Returns the newest unread frame, or None if there is none within `timeout_s`.

        Raises:
            SourceLost: The source delivers no more frames until it is opened again.
            EOFError: The recording has ended.
        """

    @property
    def dropped(self) -> int:
        """Number of frames dropped since it was opened, because they were not read in time."""


class Detector(Protocol):
    """Detects faces."""

    def detect(self, image_bgr: NDArray[np.uint8]) -> list[Face]:
        """Returns the faces in a BGR image, uint8 (H, W, 3), highest score first."""


class Classifier(Protocol):
    """Predicts the emotion of faces."""

    def classify(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns calibrated logits, float32 (N, 7) in label order, for gray crops, uint8 (N, 48, 48); N may be 0."""


class Publisher(Protocol):
    """Delivers messages to the broker."""

    def publish(self, message: Message) -> None:
        """Queues a message for delivery. Does not block, and does not raise because of the broker."""
