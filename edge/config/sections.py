"""Every key of the configuration: its type, its range, its default and what it means."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from edge.config.broker import MqttConfig
from edge.config.values import (
    INSTALLED_BUNDLE,
    FolderPath,
    ReadableFile,
    Section,
    SourceName,
    default_bundle,
    host_name,
    lower_case,
)
from edge.contract.signature import check_public_key
from edge.detector_name import MIN_FACE_PX, MIN_SCORE, DetectorChoice
from edge.runtime import RuntimeChoice
from edge.smooth import SmoothingRules
from edge.topics import check_camera, check_device, check_segment

Group = Annotated[str, AfterValidator(check_segment)]
Share = Annotated[float, Field(ge=0, le=1)]

_RULES: Final = SmoothingRules()


def _web_folder(address: str) -> str:
    parts = urlsplit(address)
    _ = parts.port  # which is not looked at before
    more = any(sign in parts.netloc for sign in "@ ") or any(sign in address for sign in "?#")
    if parts.scheme not in {"http", "https"} or not parts.hostname or more:
        raise ValueError(
            "must be the address of a folder on a web server, such as https://models.example/ferplus, without a user, "
            "a password or a query"
        )
    return address


class DeviceConfig(Section):
    """This device."""

    name: Annotated[str, AfterValidator(check_device)] = Field(
        default_factory=host_name,
        description="Name of the device in the topics: 1 to 64 lower-case letters, digits, `-` and `_`.",
        json_schema_extra={"shown_default": "the host's name"},
    )
    groups: tuple[Group, ...] = Field(
        default=(),
        description="Groups of the fleet that the device belongs to; it follows the commands on "
        "`<prefix>/fleet/<group>/cmd/<name>` too. Names as in topics.",
    )
    state_dir: FolderPath = Field(
        default=Path("/var/lib/emotion-edge"),
        description="Folder for what outlives a restart: identity, undelivered events, newer models. Under systemd, "
        "`$STATE_DIRECTORY` takes its place.",
    )


class ModelConfig(Section):
    """The emotion model."""

    path: FolderPath = Field(
        default_factory=default_bundle,
        description="Folder of the model bundle.",
        json_schema_extra={"shown_default": f"`models/ferplus` of the checkout, or `{INSTALLED_BUNDLE}`"},
    )
    runtime: RuntimeChoice = Field(
        default="auto",
        description="TFLite runtime; `auto` takes LiteRT where it is installed and tflite-runtime otherwise.",
    )
    threads: int = Field(default=1, ge=1, le=16, description="Threads for one inference.")


class UpdateConfig(Section):
    """Newer releases of the model, from a web server. Without `url`, the agent looks for none and keeps what it has."""

    url: Annotated[str, AfterValidator(_web_folder)] | None = Field(
        default=None,
        description="Address of the folder in which the newest bundle lies with its signature, `http://` or "
        "`https://`, without a user, a password or a query.",
    )
    public_keys: tuple[Annotated[str, AfterValidator(check_public_key)], ...] = Field(
        default=(),
        description="Keys of those who may sign a bundle, as `trainer keygen` tells them. A bundle that none of them "
        "has signed is not used; without any key, the installed model is.",
    )
    ca_file: ReadableFile | None = Field(
        default=None,
        description="PEM file of the authority that signed the web server's certificate; without it, the system's are "
        "trusted.",
    )
    automatic: bool = Field(
        default=True,
        description="Whether a newer release is installed when it is found; if not, only on the command `update`, "
        "which is what Home Assistant's button sends.",
    )
    interval_h: float = Field(default=24.0, ge=0.01, le=8760, description="Hours between two looks.")

    @model_validator(mode="after")
    def _trusts_somebody(self) -> Self:
        if self.url is not None and not self.public_keys:
            raise ValueError("must name at least one key in public_keys, where url is set")
        return self


class CameraConfig(Section):
    """One camera. Repeat the table for each."""

    name: Annotated[str, AfterValidator(check_camera)] = Field(
        description="Name of the camera in the topics: 1 to 64 lower-case letters, digits, `-` and `_`."
    )
    source: SourceName = Field(
        coerce_numbers_to_str=True,
        repr=False,  # a stream's address may hold a password
        description="Where its frames come from: a camera's number or device file, `csi:0` for a Raspberry Pi camera "
        "on the flat cable, the address of an RTSP or HTTP stream, a video file, a folder of pictures (frames of "
        "one scene: a face that stays in its place is one face), or `demo` for two photographs that are filmed.",
    )
    width_px: Annotated[int, Field(ge=16, le=7680)] | None = Field(
        default=None,
        description="Width to ask the camera for. Without it, the camera decides; a `csi` camera is asked for 640.",
    )
    height_px: Annotated[int, Field(ge=16, le=4320)] | None = Field(
        default=None,
        description="Height to ask the camera for. Without it, the camera decides; a `csi` camera is asked for 480.",
    )
    fps: Annotated[float, Field(gt=0, le=240)] | None = Field(
        default=None,
        description="Frames a second to ask the camera for; without it, the camera decides. Of a folder, how many of "
        "its pictures make a second; without it, 1.",
    )
    realtime: bool = Field(
        default=False,
        description="Whether a recording plays at its own speed and late frames are dropped, as with a camera.",
    )
    loop: bool = Field(
        default=False,
        description="Whether a recording begins again at its end. The agent ends when all cameras are recordings that "
        "have ended, and the service then starts it again.",
    )


class DetectorConfig(Section):
    """Finding faces."""

    name: DetectorChoice = Field(
        default="auto",
        description="Which detector: `blazeface-full` finds faces up to about 5 m away, `blazeface-short` is faster "
        "and made for 2 m, `haar` needs nothing but OpenCV. `auto` is `blazeface-full` where it is installed, else "
        "`haar`.",
    )
    min_score: float = Field(
        default=MIN_SCORE, gt=0, lt=1, description="Faces that the detector is less certain of are left out."
    )
    min_face_px: int = Field(
        default=MIN_FACE_PX, ge=8, description="Faces smaller than this, in pixels of the frame, are left out."
    )
    interval_s: float = Field(
        default=0.2,
        ge=0,
        le=5,
        description="Least time between two detections; frames between them are classified where the faces were last "
        "found. 0 detects on every frame.",
    )


class TrackingConfig(Section):
    """Following a face from frame to frame."""

    max_gap_s: float = Field(
        default=1.0,
        gt=0,
        le=60,
        description="For how long a face may be out of sight and stay the same; one detection that misses it never "
        "ends it.",
    )
    min_iou: float = Field(
        default=0.3, gt=0, lt=1, description="How far a face must overlap its last box (intersection over union)."
    )


class SmoothingConfig(Section):
    """When an emotion counts."""

    time_constant_s: float = Field(
        default=_RULES.time_constant_s,
        gt=0,
        le=60,
        description="Time in which the average over frames follows a change by 63 %.",
    )
    min_dwell_s: float = Field(
        default=_RULES.min_dwell_s, ge=0, le=60, description="For how long an emotion must lead before it is reported."
    )
    margin: Share = Field(
        default=_RULES.margin,
        description="By how much probability another emotion must lead over the present one, unless that one is in "
        "doubt.",
    )
    unknown_below: Share | None = Field(
        default=None,
        description="Confidence under which the emotion is `unknown`; the present emotion may sink 0.05 lower.",
        json_schema_extra={"shown_default": "what the model bundle says"},
    )


class PublishConfig(Section):
    """What is sent, and when."""

    min_interval_s: float = Field(
        default=1.0, ge=0.1, le=3600, description="Least time between two states of a camera."
    )
    heartbeat_s: float = Field(
        default=30.0,
        validate_default=True,
        ge=1,
        le=3600,
        description="After how long an unchanged state is sent again.",
    )
    health_interval_s: float = Field(default=30.0, ge=1, le=3600, description="Time between two health messages.")
    outbox_limit: int = Field(
        default=100_000,
        ge=100,
        le=300_000,
        description="How many undelivered events are kept on disk; beyond it, the oldest are dropped and counted.",
    )
    snapshots: bool = Field(
        default=False,
        description="Whether the command `snapshot` is answered with the newest picture, at most 640 pixels wide and "
        "high. Everybody who may read the device's answers then sees people: allow it while a camera is set up, and "
        "not for longer. No picture is stored or retained.",
    )

    @field_validator("heartbeat_s")
    @classmethod
    def _not_faster_than_states(cls, value: float, info: ValidationInfo) -> float:
        if value < info.data.get("min_interval_s", value):
            raise ValueError("must not be smaller than publish.min_interval_s")
        return value


class AdaptationConfig(Section):
    """Doing less, step by step, while the processor is slowed down or hot, or live frames are lost for want of time."""

    enabled: bool = Field(default=True, description="Whether the agent does so.")
    cool_c: float = Field(
        default=72.0, ge=0, le=120, description="Below this temperature of the processor, in °C, it may do more again."
    )
    hot_c: float = Field(
        default=78.0,
        validate_default=True,
        ge=0,
        le=120,
        description="From this temperature on it does less. A Raspberry Pi slows itself down at 80.",
    )

    @field_validator("hot_c")
    @classmethod
    def _is_above_cool(cls, value: float, info: ValidationInfo) -> float:
        if value <= info.data.get("cool_c", -1.0):
            raise ValueError("must be greater than adaptation.cool_c")
        return value


class MetricsConfig(Section):
    """Prometheus metrics: the health report on `http://<host>:<port>/metrics`, for whoever asks."""

    port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        default=None, description="Port to serve them on; without it, there are none."
    )
    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address to serve them on; one that the device does not have yet is waited for. Beyond this host "
        "they are readable for everybody in the network.",
    )


class LoggingConfig(Section):
    """The log, on standard error."""

    level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(lower_case)] = Field(
        default="info", description="The least important messages that are written."
    )


class Config(Section):
    """The whole file."""

    device: DeviceConfig = Field(default_factory=DeviceConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    update: UpdateConfig = Field(default_factory=UpdateConfig)
    mqtt: MqttConfig = Field(default_factory=MqttConfig)
    camera: tuple[CameraConfig, ...] = Field(min_length=1)
    detector: DetectorConfig = Field(default_factory=DetectorConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
    smoothing: SmoothingConfig = Field(default_factory=SmoothingConfig)
    publish: PublishConfig = Field(default_factory=PublishConfig)
    adaptation: AdaptationConfig = Field(default_factory=AdaptationConfig)
    metrics: MetricsConfig = Field(default_factory=MetricsConfig)
    logging: LoggingConfig = Field(default_factory=LoggingConfig)

    @field_validator("camera")
    @classmethod
    def _names_differ(cls, cameras: tuple[CameraConfig, ...]) -> tuple[CameraConfig, ...]:
        first: dict[str, int] = {}
        for index, camera in enumerate(cameras):
            if first.setdefault(camera.name, index) != index:
                fault = ValueError(f"camera[{first[camera.name]}] has that name already")
                raise ValidationError.from_exception_data(
                    cls.__name__,
                    [{"type": "value_error", "loc": (index, "name"), "input": camera.name, "ctx": {"error": fault}}],
                )
        return cameras


def tables() -> dict[str, type[Section]]:
    """The file's tables by name, in the order of the documentation."""
    found: dict[str, type[Section]] = {}
    for name, field in Config.model_fields.items():
        kind: Any = field.annotation
        found[name] = kind if isinstance(kind, type) else get_args(kind)[0]
    return found
