"""The MQTT payloads: one frozen model per payload, from which the published JSON schemas are generated.

Within version 1, fields are only added. The models forbid extra fields, so that nothing undocumented is ever sent; the
published schemas allow them, so that a consumer that validates with an older schema accepts a newer agent.
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
"""The labels of the contract and `unknown`. Literal types must be static; a test compares them with the contract."""

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Milliseconds = Annotated[float, Field(ge=0)]
Timestamp = Annotated[
    str,
    Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$", json_schema_extra={"format": "date-time"}),
]
"""UTC, ISO 8601 with milliseconds."""


def timestamp(wall_s: float) -> str:
    """Formats Unix seconds as `2026-01-31T23:59:59.123Z`."""
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def fraction(value: float) -> float:
    """Returns `value` clipped to 0-1 and rounded to four places, which is more than its accuracy."""
    return round(min(1.0, max(0.0, float(value))), 4)


def mark_historical(payload: bytes) -> bytes:
    """Sets `historical` to true in a JSON payload that has this field; returns any other payload unchanged.

    The payload is edited rather than validated, because the outbox may still contain events of an older agent.
    """
    try:
        fields = json.loads(payload)
    except ValueError:
        return payload
    if not isinstance(fields, dict) or "historical" not in fields:
        return payload
    return json.dumps({**fields, "historical": True}, separators=(",", ":"), ensure_ascii=False).encode()


def _allow_additional_properties(schema: dict[str, Any]) -> None:
    schema.pop("additionalProperties", None)


class Part(BaseModel):
    """Part of a payload. Frozen; extra fields are forbidden."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        json_schema_extra=_allow_additional_properties,
        json_schema_serialization_defaults_required=True,
    )


class Payload(Part):
    """A complete payload, which names its schema."""

    schema_id: str = Field(alias="schema", description="Name and major version of the payload's schema.")

    def encode(self) -> bytes:
        """Returns the payload as compact UTF-8 JSON, with the fields in the order of the model."""
        return self.model_dump_json(by_alias=True).encode()


class Status(StrEnum):
    """Status of a device or a camera, published as plain text on the `status` topics."""

    ONLINE = "online"
    OFFLINE = "offline"
    PAUSED = "paused"


class ModelInfo(Part):
    """The model bundle in use."""

    name: str = Field(description="Name of the model.")
    version: str = Field(description="Semantic version of the model bundle.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 checksum of the .tflite file.")


class NormalisedBox(Part):
    """Bounding box of a face, as fractions of the frame's width and height from its top left corner."""

    left: Fraction
    top: Fraction
    right: Fraction
    bottom: Fraction


class Probabilities(Part):
    """Probability of each label, in label order. They sum to 1, except for rounding."""

    angry: Fraction
    disgust: Fraction
    fear: Fraction
    happy: Fraction
    sad: Fraction
    surprise: Fraction
    neutral: Fraction


class FaceReading(Part):
    """The current emotion of one face."""

    track_id: int = Field(
        ge=1,
        description="Ephemeral number of the face while it is in view, unique within the session. It does not "
        "identify a person.",
    )
    emotion: Emotion = Field(description="Current emotion; `unknown` while no label is confident enough.")
    confidence: Fraction = Field(
        description="Probability of `emotion`; while it is `unknown`, of the most likely label."
    )
    probs: Probabilities
    since: Timestamp = Field(description="When `emotion` started.")
    box: NormalisedBox
    quality: Fraction = Field(
        description="Quality of the face image: its resolution, and how much of it lies inside the frame."
    )


class DevicePayload(Payload):
    """Fields common to all payloads of a device."""

    device: str = Field(description="Name of the device.")
    session: Count = Field(
        description="Session number, which increases with every start of the agent, including reloads and model "
        "updates: the start time in Unix seconds, or the previous number plus one if the clock is behind. It therefore "
        "also increases if the device's state is lost or restored from a backup, unless its clock is wrong as well."
    )
    ts: Timestamp = Field(description="When the message was composed, by the wall clock.")
    mono_ms: Count = Field(description="When the message was composed, by the device's monotonic clock.")
    time_synced: bool = Field(description="Whether the wall clock is synchronized, so that timestamps can be trusted.")


@dataclass(frozen=True, slots=True)
class Sender:
    """The origin of payloads: a device and its session.

    Attributes:
        device: The device's name.
        session: The session number.
    """

    device: str
    session: int

    def envelope(self, now: Instant) -> dict[str, Any]:
        """Returns the fields of a `DevicePayload` composed now."""
        return {
            "device": self.device,
            "session": self.session,
            "ts": timestamp(now.wall_s),
            "mono_ms": round(now.mono_s * 1000),
            "time_synced": now.synced,
        }


class CameraPayload(DevicePayload):
    """Fields common to all payloads of a camera."""

    ts: Timestamp = Field(description="When the frame was captured (or the camera closed), by the wall clock.")
    mono_ms: Count = Field(description="When the message was composed, by the device's monotonic clock.")
    camera: str = Field(description="Name of the camera.")
    seq: Count


class Event(FaceReading, CameraPayload):
    """The start, change or end of an emotion on one face.

    `device`, `camera`, `session` and `seq` identify an event: a duplicate, as may occur after a crash, has the same
    values. `session` and `seq` order the events of a camera, and `seq` is assigned without gaps. A higher session ends
    all emotions still open in lower ones, because an agent that is killed cannot publish their `end`.
    """

    schema_id: Literal["emotion.event/1"] = Field(default="emotion.event/1", alias="schema")
    seq: int = Field(ge=1, description="Sequence number of the event, counted from 1 per camera and session.")
    event: Literal["start", "change", "end"] = Field(
        description="Kind of event. At `end`, the fields of the face are those of its last reading, and `ts` is when "
        "its track ended."
    )
    previous: Emotion | None = Field(
        description="The emotion before; null at `start`, and the one that ended at `end`."
    )
    historical: bool = Field(
        description="Whether delivery was delayed: there was no connection, earlier delayed events came first, or the "
        "broker rejected it."
    )
    model: ModelInfo
    latency_ms: Milliseconds = Field(description="Time from the capture of the frame to the message.")


class CameraState(CameraPayload):
    """The current state of a camera: the most prominent face, and all faces in view."""

    schema_id: Literal["emotion.state/1"] = Field(default="emotion.state/1", alias="schema")
    seq: Count = Field(description="Sequence number of the newest event that this state reflects; 0 before the first.")
    emotion: Emotion | None = Field(description="Emotion of the most prominent face; null if there is no face.")
    confidence: Fraction | None = Field(description="Confidence of the most prominent face; null if there is no face.")
    track_id: Annotated[int, Field(ge=1)] | None = Field(
        description="Track of the most prominent face; null if there is no face."
    )
    since: Timestamp | None = Field(description="When `emotion` started; null if there is no face.")
    face_count: Count = Field(description="Number of faces in view.")
    faces: tuple[FaceReading, ...] = Field(description="All faces in view, the most prominent one first.")
    model: ModelInfo
    latency_ms: Milliseconds = Field(description="Time from the capture of the frame to the message.")


class AgentInfo(Part):
    """The agent software."""

    name: str = Field(description="Name of the program.")
    version: str = Field(description="Version of the program.")
    python: str = Field(description="Version of the Python interpreter.")


class CameraInfo(Part):
    """The configuration of one camera."""

    name: str = Field(description="Name of the camera.")
    source: str = Field(description="The source as configured, with credentials masked.")
    width: Count | None = Field(default=None, description="Configured width in pixels; null if not set.")
    height: Count | None = Field(default=None, description="Configured height in pixels; null if not set.")


class Info(DevicePayload):
    """Description of a device, published at every start."""

    schema_id: Literal["emotion.info/1"] = Field(default="emotion.info/1", alias="schema")
    agent: AgentInfo
    model: ModelInfo
    runtime: str = Field(description="Name and version of the TFLite runtime.")
    platform: str = Field(description="Operating system, kernel release and machine architecture.")
    cameras: tuple[CameraInfo, ...] = Field(description="The configured cameras.")
    groups: tuple[str, ...] = Field(default=(), description="Fleet groups whose commands the device also executes.")


class Percentiles(Part):
    """Percentiles of a latency over its last 500 measurements, in milliseconds."""

    p50: Milliseconds = Field(description="Median.")
    p95: Milliseconds = Field(description="95th percentile.")


class CameraHealth(Part):
    """Health of one camera."""

    status: Status
    fps: Annotated[float, Field(ge=0)] = Field(description="Frames processed per second.")
    dropped_frames: Count = Field(
        description="Frames dropped since the source was opened, because a newer one was available or the frame rate "
        "was limited."
    )
    faults: Count = Field(description="Number of failures after which the camera had to be reopened.")
    latency_ms: dict[str, Percentiles] = Field(
        description="Latency of each pipeline stage; `align` and `classify` are absent until a face has been seen."
    )
    max_fps: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Frame rate limit in force, in frames per second; null for no limit."
    )


class MqttHealth(Part):
    """Health of message delivery. All counters start at 0 with the agent."""

    connected: bool = Field(description="Whether the agent was connected to the broker when the report was composed.")
    queue_depth: Count = Field(description="Events not acknowledged by the broker yet.")
    dropped: Count = Field(description="Events lost because the outbox was full or its file damaged.")
    rejected: Count = Field(
        description="Messages rejected by the broker; a message that is retried may count several times."
    )
    lost: Count = Field(default=0, description="Events given up because the broker would always reject them.")
    reconnects: Count = Field(description="Connections to the broker after the first.")


class AdaptationHealth(Part):
    """How far the agent reduces its load below the configured one, to protect an overloaded device."""

    level: Count = Field(description="Adaptation level: 0 as configured; each higher level reduces the load further.")
    reasons: tuple[Reason, ...] = Field(
        description="Why the load was last reduced: the processor is `throttled` or `hot`, or frames are dropped "
        "because processing is `behind`; empty at level 0."
    )
    detection_factor: int = Field(ge=1, description="Factor by which faces are detected less often than configured.")
    max_fps: Annotated[float, Field(gt=0)] | None = Field(
        description="Limit of the frames processed per second and camera; null for no limit."
    )


class Health(DevicePayload):
    """Health report of a device, published periodically."""

    schema_id: Literal["emotion.health/1"] = Field(default="emotion.health/1", alias="schema")
    uptime_s: Annotated[float, Field(ge=0)] = Field(description="Time since the start of the agent, in seconds.")
    cameras: dict[str, CameraHealth] = Field(description="Health of each camera, by name.")
    mqtt: MqttHealth
    model: ModelInfo
    temperature_c: float | None = Field(
        description="Temperature of the processor in degrees Celsius; null if not available."
    )
    throttling: tuple[str, ...] | None = Field(
        description="Current reasons for throttling of the processor; null if not available."
    )
    rss_bytes: Count = Field(description="Resident memory of the agent, in bytes.")
    adaptation: AdaptationHealth | None = Field(default=None, description="Load adaptation; null if it is disabled.")


class Release(Part):
    """A release of a model."""

    name: str = Field(description="Name of the model.")
    version: str = Field(description="Semantic version of the model bundle.")
    release: int = Field(ge=1, description="Release number, which increases with every release.")


class Update(DevicePayload):
    """The installed model and the newest one available. Published only if an update server is configured."""

    schema_id: Literal["emotion.update/1"] = Field(default="emotion.update/1", alias="schema")
    installed: Release
    latest: Release | None = Field(description="The newest known release; null until the server has responded.")
    checked: Timestamp | None = Field(description="When the server last responded; null until it has.")
    installing: bool = Field(description="Whether a release is being downloaded and tested at the moment.")
    error: str | None = Field(description="Why the last check or installation failed; null if it succeeded.")


class CommandRequest(Part):
    """A request on a `cmd/<name>` topic. Unknown fields are rejected, so that typos are noticed."""

    model_config = ConfigDict(json_schema_extra={})

    id: Annotated[str, Field(min_length=1, max_length=128)] | StrictInt = Field(
        description="Identifier chosen by the requester, returned in the response."
    )
    camera: str | None = Field(default=None, description="Name of the camera; null for all cameras.")
    value: bool | float | str | None = Field(
        default=None, description="Argument of `rate` (frames per second) and `pause` (true or false)."
    )


class CommandResponse(Payload):
    """The response to a command, on `cmd/<name>/response`."""

    schema_id: Literal["emotion.response/1"] = Field(default="emotion.response/1", alias="schema")
    device: str = Field(description="Name of the device.")
    command: str = Field(description="Name of the command.")
    id: str | int | None = Field(description="The `id` of the request; null if it could not be read.")
    ts: Timestamp = Field(description="When the response was composed, by the wall clock.")
    ok: bool = Field(description="Whether the command succeeded.")
    error: str | None = Field(description="Error message; null on success.")
    result: JsonValue = Field(description="Result of the command; null if it has none.")
