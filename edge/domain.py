"""Immutable data types passed between the stages: frames, faces, tracks, readings and messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]
"""x and y in pixels of the frame."""


@dataclass(frozen=True, slots=True)
class Instant:
    """A moment on both the wall clock and the monotonic clock.

    Attributes:
        wall_s: Unix seconds (UTC). It jumps when the clock is set.
        mono_s: Monotonic clock of the machine, which never jumps.
        synced: Whether the wall clock is synchronized.
    """

    wall_s: float
    mono_s: float
    synced: bool

    def wall_at(self, mono_s: float) -> float:
        """Returns the wall clock time, by its current setting, of another moment on the monotonic clock."""
        return self.wall_s + (mono_s - self.mono_s)


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One image from a source.

    Attributes:
        image_bgr: uint8 (H, W, 3) in BGR order, as OpenCV provides it.
        index: Position in the source, counted from 0 and including dropped frames.
        time_s: Seconds on a clock that never jumps: the monotonic clock for a live source, the position in the
            recording for a file. The stages measure durations with it.
        mono_s: Monotonic time of capture; for a recording, of reading.
    """

    image_bgr: NDArray[np.uint8]
    index: int
    time_s: float
    mono_s: float

    @property
    def width_px(self) -> int:
        return int(self.image_bgr.shape[1])

    @property
    def height_px(self) -> int:
        return int(self.image_bgr.shape[0])


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels of the frame; it may extend beyond the frame."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top

    @property
    def area(self) -> float:
        return max(0.0, self.width) * max(0.0, self.height)

    def iou(self, other: Box) -> float:
        """Returns the intersection over union with `other`, 0 to 1."""
        overlap_width = min(self.right, other.right) - max(self.left, other.left)
        overlap_height = min(self.bottom, other.bottom) - max(self.top, other.top)
        if overlap_width <= 0 or overlap_height <= 0:
            return 0.0
        overlap = overlap_width * overlap_height
        return overlap / (self.area + other.area - overlap)


@dataclass(frozen=True, slots=True)
class Face:
    """A detected face.

    Attributes:
        box: Bounding box from forehead to chin and ear to ear, as defined by the detector.
        score: The detector's confidence, 0 to 1.
        eyes: Centers of the left and the right eye as seen in the image; None if the detector provides none.
    """

    box: Box
    score: float
    eyes: tuple[Point, Point] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """A face and its classification on one frame.

    Attributes:
        face: The detected face.
        logits: Calibrated logits, float32 (7,) in label order.
        quality: Quality of the crop, 0 to 1 (its resolution, and how much of it lies inside the frame).
    """

    face: Face
    logits: NDArray[np.float32]
    quality: float


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """One face tracked over time.

    Attributes:
        id: Ephemeral number, counted from 1 per camera and session; it does not identify a person.
        observation: The newest observation.
        last_seen_s: Time of that observation, on the clock of `Frame.time_s`.
        missed: Number of consecutive detections that missed it.
    """

    id: int
    observation: Observation
    last_seen_s: float
    missed: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """The smoothed emotion of one track at one moment.

    Attributes:
        track_id: The id of the track.
        emotion: One of the labels, or `unknown`.
        confidence: Probability of `emotion`, 0 to 1; while it is `unknown`, that of the most likely label.
        probabilities: One per label, in label order; they sum to 1.
        since_s: Start of `emotion`, on the clock of `Frame.time_s`.
        box: Position of the face.
        quality: 0 to 1, as in `Observation`.
    """

    track_id: int
    emotion: str
    confidence: float
    probabilities: tuple[float, ...]
    since_s: float
    box: Box
    quality: float


@dataclass(frozen=True, slots=True)
class Transition:
    """The start, change or end of an emotion on a track.

    Attributes:
        kind: `start` with the first emotion of a track, `change` when another replaces it, `end` when the track ends.
        reading: The reading at that moment; for `end` the last one.
        previous: The emotion before; None for `start`.
    """

    kind: Literal["start", "change", "end"]
    reading: Reading
    previous: str | None


@dataclass(frozen=True, slots=True)
class Message:
    """One MQTT message, ready to be published.

    Attributes:
        topic: Full topic name.
        payload: UTF-8 text, mostly JSON; an empty payload clears a retained message.
        qos: 0 or 1.
        retain: Whether the broker retains it for later subscribers.
        expiry_s: Message expiry interval in seconds (MQTT 5); None for no expiry.
        durable: True for events: kept on disk until the broker has acknowledged them. Otherwise only the newest
            message of a topic matters.
        content_type: MIME type (MQTT 5).
        user_properties: Name-value pairs sent along with the payload (MQTT 5).
    """

    topic: str
    payload: bytes
    qos: Literal[0, 1] = 0
    retain: bool = False
    expiry_s: int | None = None
    durable: bool = False
    content_type: str = "application/json"
    user_properties: tuple[tuple[str, str], ...] = ()
