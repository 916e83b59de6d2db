"""What the pipeline asks of the world, and no more: four Protocols that adapters fulfil."""

from __future__ import annotations

from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from edge.domain import Face, Frame, Message


class Source(Protocol):
    """Where frames come from. Opens on entry, closes on exit, and can be entered again after that."""

    def __enter__(self) -> Self:
        """Open it.

        Raises:
            SourceUnavailable: It does not open.
        """

    def __exit__(self, *exc_info: object) -> None: ...

    def read(self, timeout_s: float) -> Frame | None:
        """The newest unread frame, or None if none comes within `timeout_s`.

        Raises:
            SourceLost: It will give no more frames until it is opened again.
            EOFError: A recording is at its end.
        """

    @property
    def dropped(self) -> int:
        """How many frames were passed over since it was opened because nobody read them in time."""


class Detector(Protocol):
    """Finds faces."""

    def detect(self, image_bgr: NDArray[np.uint8]) -> list[Face]:
        """Faces in a uint8 (H, W, 3) picture, best first."""


class Classifier(Protocol):
    """Says which emotion a face shows."""

    def classify(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Calibrated logits float32 (N, 7) in label order for uint8 (N, 48, 48) gray crops; N may be 0."""


class Publisher(Protocol):
    """Takes messages to the broker, now or later. Never blocks and never raises for a broker's sake."""

    def publish(self, message: Message) -> None: ...
