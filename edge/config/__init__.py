"""The agent's configuration: a TOML file, overridden by environment variables and validated before the agent starts."""

from edge.config.loading import load_config
from edge.config.sections import CameraConfig, Config
from edge.config.values import default_bundle, read_password

__all__ = ["CameraConfig", "Config", "default_bundle", "load_config", "read_password"]
