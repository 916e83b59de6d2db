"""The agent's configuration: a TOML file, environment variables over it, and every value checked before work begins."""

from edge.config.broker import MqttConfig
from edge.config.loading import load_config
from edge.config.sections import (
    AdaptationConfig,
    CameraConfig,
    Config,
    DetectorConfig,
    DeviceConfig,
    LoggingConfig,
    MetricsConfig,
    ModelConfig,
    PublishConfig,
    SmoothingConfig,
    TrackingConfig,
)
from edge.config.values import default_bundle, read_password

__all__ = [
    "AdaptationConfig",
    "CameraConfig",
    "Config",
    "DetectorConfig",
    "DeviceConfig",
    "LoggingConfig",
    "MetricsConfig",
    "ModelConfig",
    "MqttConfig",
    "PublishConfig",
    "SmoothingConfig",
    "TrackingConfig",
    "default_bundle",
    "load_config",
    "read_password",
]
