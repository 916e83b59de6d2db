"""All keys of the configuration: type, range, default and description."""

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
Fraction = Annotated[float, Field(ge=0, le=1)]

_RULES: Final = SmoothingRules()


def _web_folder(url: str) -> str:
    parts = urlsplit(url)
    _ = parts.port  # parsed only now; raises ValueError for an invalid one
    has_more = any(sign in parts.netloc for sign in "@ ") or any(sign in url for sign in "?#")
    if parts.scheme not in {"http", "https"} or not parts.hostname or has_more:
        raise ValueError(
            "must be the URL of a folder on a web server, such as https://models.example/ferplus, without a user, a "
            "password or a query"
        )
    return url


class DeviceConfig(Section):
    """The device."""

    name: Annotated[str, AfterValidator(check_device)] = Field(
        default_factory=host_name,
        description="Name of the device in topics: 1 to 64 lower-case letters, digits, `-` and `_`, starting with a "
        "letter or digit.",
        json_schema_extra={"shown_default": "the host name"},
    )
    groups: tuple[Group, ...] = Field(
        default=(),
        description="Groups of the fleet to which the device belongs. It also executes commands on "
        "`<prefix>/fleet/<group>/cmd/<name>`. The same characters are allowed as in `name`.",
    )
    state_dir: FolderPath = Field(
        default=Path("/var/lib/emotion-edge"),
        description="Folder for persistent state: client id, undelivered events, model updates. Under systemd, "
        "`$STATE_DIRECTORY` overrides it.",
    )


class ModelConfig(Section):
    """The emotion model."""

    path: FolderPath = Field(
        default_factory=default_bundle,
        description="Folder of the model bundle.",
        json_schema_extra={"shown_default": f"`models/ferplus` in the checkout, or `{INSTALLED_BUNDLE}`"},
    )
    runtime: RuntimeChoice = Field(
        default="auto",
        description="TFLite runtime. `auto` uses LiteRT if it is installed, otherwise tflite-runtime.",
    )
    threads: int = Field(default=1, ge=1, le=16, description="Number of threads per inference.")


class UpdateConfig(Section):
    """Model updates from a web server. Without `url`, the agent does not check for updates and keeps its model."""

    url: Annotated[str, AfterValidator(_web_folder)] | None = Field(
        default=None,
        description="URL of the folder with the latest bundle and its signature: `http://` or `https://`, without a "
        "user, a password or a query.",
    )
    public_keys: tuple[Annotated[str, AfterValidator(check_public_key)], ...] = Field(
        default=(),
        description="Public keys of trusted signers, as printed by `trainer keygen`. Bundles from the server are used "
        "only if signed with one of these keys; without any key, the installed model is used.",
    )
    ca_file: ReadableFile | None = Field(
        default=None,
        description="PEM file of the certificate authority (CA) that signed the web server's certificate. By default, "
        "the system's CAs are trusted.",
    )
    automatic: bool = Field(
        default=True,
        description="Whether to install a newer release as soon as it is found. If false, it is installed only on the "
        "command `update`, which Home Assistant's *Install* button sends.",
    )
    interval_h: float = Field(default=24.0, ge=0.01, le=8760, description="Hours between two checks for updates.")

    @model_validator(mode="after")
    def _requires_a_key(self) -> Self:
        if self.url is not None and not self.public_keys:
            raise ValueError("public_keys must list at least one key if url is set")
        return self


class CameraConfig(Section):
    """A camera. Repeat this table for each camera."""

    name: Annotated[str, AfterValidator(check_camera)] = Field(
        description="Name of the camera in topics: 1 to 64 lower-case letters, digits, `-` and `_`, starting with a "
        "letter or digit."
    )
    source: SourceName = Field(
        coerce_numbers_to_str=True,
        repr=False,  # a stream's URL may contain a password
        description="Source of its frames: the number or device file of a camera, `csi:0` for a Raspberry Pi camera "
        "on the flat cable, the URL of an RTSP or HTTP stream, a video file, a folder of images (treated as frames "
        "of one scene: a face that stays in position is tracked as one face), or `demo` for two animated "
        "photographs.",
    )
    width_px: Annotated[int, Field(ge=16, le=7680)] | None = Field(
        default=None,
        description="Frame width to request from the camera. By default, the camera decides; for a `csi` camera, 640.",
    )
    height_px: Annotated[int, Field(ge=16, le=4320)] | None = Field(
        default=None,
        description="Frame height to request from the camera. By default, the camera decides; for a `csi` camera, 480.",
    )
    fps: Annotated[float, Field(gt=0, le=240)] | None = Field(
        default=None,
        description="Frame rate to request from the camera, in frames per second. By default, the camera decides. For "
        "a folder of images, the rate at which they play; by default, 1.",
    )
    realtime: bool = Field(
        default=False,
        description="Whether a video or a folder of images plays in real time, dropping late frames like a camera.",
    )
    loop: bool = Field(
        default=False,
        description="Whether a video or a folder of images restarts at its end. Without this, the agent exits when all "
        "cameras have reached their end, and the service then restarts it.",
    )


class DetectorConfig(Section):
    """Face detection."""

    name: DetectorChoice = Field(
        default="auto",
        description="Face detector: `blazeface-full` detects faces up to about 5 m away; `blazeface-short` is faster "
        "and made for 2 m; `haar` requires only OpenCV. `auto` uses `blazeface-full` if it is installed, otherwise "
        "`haar`.",
    )
    min_score: float = Field(
        default=MIN_SCORE, gt=0, lt=1, description="Faces that the detector scores lower than this are ignored."
    )
    min_face_px: int = Field(
        default=MIN_FACE_PX, ge=8, description="Faces smaller than this, in pixels of the frame, are ignored."
    )
    interval_s: float = Field(
        default=0.2,
        ge=0,
        le=5,
        description="Minimum time between two detections. In the frames between, faces are classified where they were "
        "last detected. 0 runs the detector on every frame.",
    )


class TrackingConfig(Section):
    """Tracking of faces from frame to frame."""

    max_gap_s: float = Field(
        default=1.0,
        gt=0,
        le=60,
        description="How long a face may go undetected before its track ends. A single missed detection never ends a "
        "track.",
    )
    min_iou: float = Field(
        default=0.3,
        gt=0,
        lt=1,
        description="Minimum overlap (intersection over union) with its previous box for a face to be the same.",
    )


class SmoothingConfig(Section):
    """Smoothing of emotions over time."""

    time_constant_s: float = Field(
        default=_RULES.time_constant_s,
        gt=0,
        le=60,
        description="Time constant of the exponential average over frames: it follows 63 % of a change in this time.",
    )
    min_dwell_s: float = Field(
        default=_RULES.min_dwell_s, ge=0, le=60, description="How long an emotion must lead before it is reported."
    )
    margin: Fraction = Field(
        default=_RULES.margin,
        description="How much more probable than the current emotion another one must be to replace it; not required "
        "if the current one is uncertain.",
    )
    unknown_below: Fraction | None = Field(
        default=None,
        description="Confidence below which the emotion is `unknown`; the current emotion may drop another 0.05 lower.",
        json_schema_extra={"shown_default": "set by the model bundle"},
    )


class PublishConfig(Section):
    """What is published, and how often."""

    min_interval_s: float = Field(
        default=1.0, ge=0.1, le=3600, description="Minimum time between two state messages of a camera."
    )
    heartbeat_s: float = Field(
        default=30.0,
        validate_default=True,
        ge=1,
        le=3600,
        description="Time after which an unchanged state is published again.",
    )
    health_interval_s: float = Field(default=30.0, ge=1, le=3600, description="Time between two health reports.")
    outbox_limit: int = Field(
        default=100_000,
        ge=100,
        le=300_000,
        description="Maximum number of undelivered events kept on disk; beyond it, the oldest are dropped and counted.",
    )
    snapshots: bool = Field(
        default=False,
        description="Whether the command `snapshot` returns the newest frame, at most 640 pixels wide and high. "
        "Everybody with access to the device's responses can then see people: enable this only while setting up a "
        "camera. No image is stored or retained.",
    )

    @field_validator("heartbeat_s")
    @classmethod
    def _is_at_least_min_interval(cls, value: float, info: ValidationInfo) -> float:
        if value < info.data.get("min_interval_s", value):
            raise ValueError("must not be smaller than publish.min_interval_s")
        return value


class AdaptationConfig(Section):
    """Gradual reduction of the workload while the processor is throttled or hot, or too slow for the live frames."""

    enabled: bool = Field(default=True, description="Whether the agent reduces its workload.")
    cool_c: float = Field(
        default=72.0,
        ge=0,
        le=120,
        description="Processor temperature in °C below which the workload may rise again.",
    )
    hot_c: float = Field(
        default=78.0,
        validate_default=True,
        ge=0,
        le=120,
        description="Processor temperature in °C from which the workload is reduced. A Raspberry Pi throttles at 80.",
    )

    @field_validator("hot_c")
    @classmethod
    def _is_above_cool(cls, value: float, info: ValidationInfo) -> float:
        if value <= info.data.get("cool_c", -1.0):
            raise ValueError("must be greater than adaptation.cool_c")
        return value


class MetricsConfig(Section):
    """Prometheus metrics: the health report on `http://<host>:<port>/metrics`."""

    port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        default=None, description="Port on which to serve metrics. Without it, none are served."
    )
    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address on which to serve metrics; the agent waits for an address that the device does not have "
        "yet. On any address but a loopback one, everyone on the network can read them.",
    )


class LoggingConfig(Section):
    """Logging to standard error."""

    level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(lower_case)] = Field(
        default="info", description="Minimum severity of the messages that are logged."
    )


class Config(Section):
    """The complete configuration."""

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
    def _names_are_unique(cls, cameras: tuple[CameraConfig, ...]) -> tuple[CameraConfig, ...]:
        first: dict[str, int] = {}
        for index, camera in enumerate(cameras):
            if first.setdefault(camera.name, index) != index:
                duplicate = ValueError(f"is already the name of camera[{first[camera.name]}]")
                raise ValidationError.from_exception_data(
                    cls.__name__,
                    [
                        {
                            "type": "value_error",
                            "loc": (index, "name"),
                            "input": camera.name,
                            "ctx": {"error": duplicate},
                        }
                    ],
                )
        return cameras


def tables() -> dict[str, type[Section]]:
    """Returns the file's tables by name, in the order of the documentation."""
    found: dict[str, type[Section]] = {}
    for name, field in Config.model_fields.items():
        kind: Any = field.annotation
        found[name] = kind if isinstance(kind, type) else get_args(kind)[0]
    return found
