"""What is said on the topics: one frozen model for each payload, from which the published JSON schemas are made.

Version 1 grows only by addition. The models themselves are closed, so that nothing undocumented is ever sent;
the published schemas are open, so that a consumer who validates with an older one does not reject a newer agent.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StrictInt

from edge.adapt import Reason
from edge.domain import Instant

Emotion = Literal["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral", "unknown"]
"""The contract's labels and `unknown`, spelled out because a type cannot be computed; a test compares the two."""

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Milliseconds = Annotated[float, Field(ge=0)]
Timestamp = Annotated[
    str,
    Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$", json_schema_extra={"format": "date-time"}),
]
"""UTC, ISO 8601 with milliseconds."""


def timestamp(wall_s: float) -> str:
    """Seconds since 1970 as `2026-01-31T23:59:59.123Z`."""
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def fraction(value: float) -> float:
    """`value` clipped to 0-1 and rounded to four places, which is more than any of these figures mean."""
    return round(min(1.0, max(0.0, float(value))), 4)


def mark_historical(payload: bytes) -> bytes:
    """The same JSON payload with `historical` true; any other payload as it is.

    It is edited rather than validated, because the outbox may still hold events of an older agent.
    """
    try:
        fields = json.loads(payload)
    except ValueError:
        return payload
    if not isinstance(fields, dict) or "historical" not in fields:
        return payload
    return json.dumps({**fields, "historical": True}, separators=(",", ":"), ensure_ascii=False).encode()


def _leave_open(schema: dict[str, Any]) -> None:
    schema.pop("additionalProperties", None)


class Part(BaseModel):
    """A piece of a payload. Frozen, and closed to fields that it does not name."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        json_schema_extra=_leave_open,
        json_schema_serialization_defaults_required=True,
    )


class Payload(Part):
    """A whole payload, which names its schema."""

    schema_id: str = Field(alias="schema", description="Name and major version of this payload's schema.")

    def encode(self) -> bytes:
        """The payload as compact UTF-8 JSON, fields in the order of the model."""
        return self.model_dump_json(by_alias=True).encode()


class Status(StrEnum):
    """Whether a device or a camera works: plain text on the `status` topics."""

    ONLINE = "online"
    OFFLINE = "offline"
    PAUSED = "paused"


class ModelInfo(Part):
    """The model bundle in use."""

    name: str
    version: str = Field(description="Semantic version of the bundle.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Of the .tflite file.")


class NormalisedBox(Part):
    """A face's place as fractions of the frame's width and height, from its top left corner."""

    left: Fraction
    top: Fraction
    right: Fraction
    bottom: Fraction


class Probabilities(Part):
    """One probability for each label, in label order; their sum is 1 but for rounding."""

    angry: Fraction
    disgust: Fraction
    fear: Fraction
    happy: Fraction
    sad: Fraction
    surprise: Fraction
    neutral: Fraction


class FaceReading(Part):
    """What one face shows."""

    track_id: int = Field(
        ge=1,
        description="Ephemeral number of a face while the camera sees it, unique in the session. It identifies nobody.",
    )
    emotion: Emotion
    confidence: Fraction = Field(description="Probability of `emotion`; of the likeliest label while it is unknown.")
    probs: Probabilities
    since: Timestamp = Field(description="Since when `emotion` holds.")
    box: NormalisedBox
    quality: Fraction = Field(description="How far the picture of the face can be trusted.")


class DevicePayload(Payload):
    """What every payload of a device says about itself."""

    device: str
    session: Count = Field(
        description="Number of the agent's start; it grows with each, also with a reload and a newer model: the time "
        "in Unix seconds, or one more than the last where the clock is behind. So it is also higher than before on a "
        "device whose memory was lost or put back, unless its clock is wrong too."
    )
    ts: Timestamp = Field(description="When it was composed, by the wall clock.")
    mono_ms: Count = Field(description="The same moment on the machine's monotonic clock.")
    time_synced: bool = Field(description="Whether `ts` can be trusted.")


@dataclass(frozen=True, slots=True)
class Sender:
    """An agent, as its payloads name it.

    Attributes:
        device: The device's name.
        session: Number of the agent's start.
    """

    device: str
    session: int

    def envelope(self, now: Instant) -> dict[str, Any]:
        """The fields of a `DevicePayload` that is composed now."""
        return {
            "device": self.device,
            "session": self.session,
            "ts": timestamp(now.wall_s),
            "mono_ms": round(now.mono_s * 1000),
            "time_synced": now.synced,
        }


class CameraPayload(DevicePayload):
    """What every payload of a camera says about itself."""

    ts: Timestamp = Field(description="When the picture was taken (or the camera stopped looking), by the wall clock.")
    mono_ms: Count = Field(description="When this message was composed, on the machine's monotonic clock.")
    camera: str
    seq: Count


class Event(FaceReading, CameraPayload):
    """An emotion that began, changed or ended on one face.

    `device`, `camera`, `session` and `seq` name an event: one that comes twice, as it may after a crash, has them all
    the same. `session` and `seq` order a camera's events, and `seq` has no gaps. A higher session ends what is still
    open in the lower ones: an agent that was killed could not say so.
    """

    schema_id: Literal["emotion.event/1"] = Field(default="emotion.event/1", alias="schema")
    seq: int = Field(ge=1, description="Counts the camera's events from 1 in each session.")
    event: Literal["start", "change", "end"] = Field(
        description="At `end`, the reading is the last one, and `ts` when the face was missed for good."
    )
    previous: Emotion | None = Field(description="The emotion before; null at `start`, at `end` the one that ends.")
    historical: bool = Field(
        description="True if it had to wait: for a connection, behind others that had, or because it was refused."
    )
    model: ModelInfo
    latency_ms: Milliseconds = Field(description="From the picture to this message.")


class CameraState(CameraPayload):
    """What a camera sees now: the most prominent face, and all faces."""

    schema_id: Literal["emotion.state/1"] = Field(default="emotion.state/1", alias="schema")
    seq: Count = Field(description="The newest event that this state includes; 0 before the first.")
    emotion: Emotion | None = Field(description="Of the most prominent face; null when nobody is there.")
    confidence: Fraction | None
    track_id: Annotated[int, Field(ge=1)] | None
    since: Timestamp | None
    face_count: Count
    faces: tuple[FaceReading, ...] = Field(description="The most prominent one first.")
    model: ModelInfo
    latency_ms: Milliseconds = Field(description="From the picture to this message.")


class AgentInfo(Part):
    """The software."""

    name: str
    version: str
    python: str


class CameraInfo(Part):
    """One camera as it is configured; the source carries no password."""

    name: str
    source: str
    width: Count | None = None
    height: Count | None = None


class Info(DevicePayload):
    """What the device is. Published at each start."""

    schema_id: Literal["emotion.info/1"] = Field(default="emotion.info/1", alias="schema")
    agent: AgentInfo
    model: ModelInfo
    runtime: str = Field(description="The TFLite interpreter and its version.")
    platform: str = Field(description="Operating system and machine.")
    cameras: tuple[CameraInfo, ...]
    groups: tuple[str, ...] = Field(default=(), description="The groups of the fleet whose commands it follows too.")


class Percentiles(Part):
    """How long something took, over its newest 500 times."""

    p50: Milliseconds
    p95: Milliseconds


class CameraHealth(Part):
    """How one camera fares."""

    status: Status
    fps: Annotated[float, Field(ge=0)] = Field(description="Frames analysed per second.")
    dropped_frames: Count = Field(
        description="Passed over since the source was opened, because newer ones were there or a rate was asked for."
    )
    faults: Count = Field(description="How often the camera had to be opened again.")
    latency_ms: dict[str, Percentiles] = Field(
        description="By stage of the pipeline; `align` and `classify` only once a face was seen."
    )
    max_fps: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Most frames analysed per second at present; null for no limit."
    )


class MqttHealth(Part):
    """How delivery fares. Counts are since the start of the agent."""

    connected: bool = Field(description="Whether the broker had let the agent in when this was composed.")
    queue_depth: Count = Field(description="Events that the broker has not acknowledged.")
    dropped: Count = Field(description="Events lost because the outbox was full or its file damaged.")
    rejected: Count = Field(description="Refusals by the broker; an event that is sent again may have several.")
    lost: Count = Field(default=0, description="Events given up because the broker would refuse them at any time.")
    reconnects: Count


class AdaptationHealth(Part):
    """How far the agent does less than it was configured to, to spare the device."""

    level: Count = Field(description="0 as configured; each step asks less of the device.")
    reasons: tuple[Reason, ...] = Field(description="Why the level was lowered last; empty at level 0.")
    detection_factor: int = Field(ge=1, description="How many times more seldom faces are looked for.")
    max_fps: Annotated[float, Field(gt=0)] | None = Field(description="Most frames analysed per second and camera.")


class Health(DevicePayload):
    """How the device fares. Published at a slow pace."""

    schema_id: Literal["emotion.health/1"] = Field(default="emotion.health/1", alias="schema")
    uptime_s: Annotated[float, Field(ge=0)]
    cameras: dict[str, CameraHealth]
    mqtt: MqttHealth
    model: ModelInfo
    temperature_c: float | None = Field(description="Of the processor; null where it cannot be read.")
    throttling: tuple[str, ...] | None = Field(description="Reasons in force; null where it cannot be read.")
    rss_bytes: Count = Field(description="Resident memory.")
    adaptation: AdaptationHealth | None = Field(default=None, description="Null if it is switched off.")


class Release(Part):
    """A release of the model."""

    name: str
    version: str
    release: int = Field(ge=1, description="Rises with every release.")


class Update(DevicePayload):
    """Which model is installed, and whether there is a newer one. Published where an update server is configured."""

    schema_id: Literal["emotion.update/1"] = Field(default="emotion.update/1", alias="schema")
    installed: Release
    latest: Release | None = Field(description="The newest that is known; null before the server has answered.")
    checked: Timestamp | None = Field(description="When the server answered last.")
    installing: bool = Field(description="Whether it is being fetched and tried out now.")
    error: str | None = Field(description="Why looking or installing failed last; null if it did not.")


class CommandRequest(Part):
    """What a request on a `cmd/<name>` topic may say. An unknown field is an error, so that a typo is noticed."""

    model_config = ConfigDict(json_schema_extra={})

    id: Annotated[str, Field(min_length=1, max_length=128)] | StrictInt = Field(description="Echoed in the response.")
    camera: str | None = Field(default=None, description="The camera that is meant; all of them if null.")
    value: bool | float | str | None = Field(
        default=None, description="The argument of `rate` (frames per second) and `pause`."
    )


class CommandResponse(Payload):
    """The answer on `cmd/<name>/response`."""

    schema_id: Literal["emotion.response/1"] = Field(default="emotion.response/1", alias="schema")
    device: str
    command: str
    id: str | int | None = Field(description="The request's id; null if it had none that could be read.")
    ts: Timestamp
    ok: bool
    error: str | None = Field(description="What was wrong; null if nothing was.")
    result: JsonValue = Field(description="What the command gives back, if anything.")
