"""The language between the stages: frames, faces, tracks, readings and messages, all immutable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]
"""x and y in pixels of the frame."""


@dataclass(frozen=True, slots=True)
class Instant:
    """One moment on both clocks of the machine.

    Attributes:
        wall_s: UTC seconds since 1970, for people to read. It jumps when the clock is set.
        mono_s: The machine's monotonic clock, which never jumps.
        synced: Whether `wall_s` can be trusted.
    """

    wall_s: float
    mono_s: float
    synced: bool

    def wall_at(self, mono_s: float) -> float:
        """What the wall clock, as it is set now, shows or would have shown at another moment of the monotonic clock."""
        return self.wall_s + (mono_s - self.mono_s)


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture from a source.

    Attributes:
        image_bgr: uint8 (H, W, 3), blue-green-red 0-255, as OpenCV gives it.
        index: Position in the source, counted from 0; dropped frames count too.
        time_s: Seconds on a clock that never jumps: the machine's monotonic clock for a live source,
            the position in the recording for a file. Stages measure durations with it.
        mono_s: The machine's monotonic clock at capture; of a file, when it was read.
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
    """A rectangle in pixels of the frame; it may reach over the frame's edge."""

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
        """Intersection over union with `other`, 0 to 1."""
        overlap_width = min(self.right, other.right) - max(self.left, other.left)
        overlap_height = min(self.bottom, other.bottom) - max(self.top, other.top)
        if overlap_width <= 0 or overlap_height <= 0:
            return 0.0
        overlap = overlap_width * overlap_height
        return overlap / (self.area + other.area - overlap)


@dataclass(frozen=True, slots=True)
class Face:
    """A face as a detector found it.

    Attributes:
        box: Forehead to chin, ear to ear, as the detector draws it.
        score: The detector's confidence, 0 to 1.
        eyes: Centres of the eye on the left and the eye on the right of the picture, where the
            detector gives them.
    """

    box: Box
    score: float
    eyes: tuple[Point, Point] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """A face together with what the classifier says of it.

    Attributes:
        face: Where it was found.
        logits: float32 (7,), calibrated log-odds in label order.
        quality: 0 to 1, how far the crop can be trusted (its size, how much of it lies in the frame).
    """

    face: Face
    logits: NDArray[np.float32]
    quality: float


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """One face followed through time.

    Attributes:
        id: Ephemeral number, counted from 1 for each run of a camera; it identifies nobody.
        observation: The newest observation.
        last_seen_s: When, on the frames' clock (`Frame.time_s`).
        missed: How many detections in a row have not found it.
    """

    id: int
    observation: Observation
    last_seen_s: float
    missed: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """The smoothed emotion of one track at one moment.

    Attributes:
        track_id: The track's number.
        emotion: One of the labels, or `unknown`.
        confidence: Probability of `emotion`, 0 to 1 (of the likeliest label while it is `unknown`).
        probabilities: One a label, in label order, sum 1.
        since_s: Since when `emotion` holds, on the frames' clock.
        box: Where the face is.
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
    """An emotion that began, changed or ended on a track.

    Attributes:
        kind: `start` with a track's first emotion, `change` when another takes over, `end` when the track is gone.
        reading: The reading at that moment; for `end` the last one.
        previous: The emotion before, None at `start`.
    """

    kind: Literal["start", "change", "end"]
    reading: Reading
    previous: str | None


@dataclass(frozen=True, slots=True)
class Message:
    """One MQTT message, ready to be sent.

    Attributes:
        topic: Full topic name.
        payload: UTF-8 text, mostly JSON; empty clears a retained topic.
        qos: 0 or 1.
        retain: Whether the broker keeps it for later subscribers.
        expiry_s: After how many seconds the broker forgets it (MQTT 5), None for never.
        durable: True for events: kept on disk until the broker has acknowledged them. Otherwise only
            the newest message of a topic counts.
        content_type: MIME type (MQTT 5).
        user_properties: Pairs of name and value that travel beside the payload (MQTT 5).
    """

    topic: str
    payload: bytes
    qos: Literal[0, 1] = 0
    retain: bool = False
    expiry_s: int | None = None
    durable: bool = False
    content_type: str = "application/json"
    user_properties: tuple[tuple[str, str], ...] = ()
