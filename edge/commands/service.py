"""Loads the configuration for `edge check` and `edge doctor` with the environment that systemd gives the service."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from edge.cli import DEFAULT_CONFIG
from edge.config import Config, load_config

_CREDENTIALS: Final = Path("/run/credentials/emotion-edge.service")
"""The service's systemd credentials while it runs; only its user and root can read them."""

_STATE: Final = Path("/var/lib/emotion-edge")
"""The unit's StateDirectory=, created by systemd when the service first starts."""


def load_as_service(file: Path) -> Config:
    """Reads and validates a configuration.

    For the service's configuration file, STATE_DIRECTORY and CREDENTIALS_DIRECTORY default to the service's own, so
    that `sudo -u emotion-edge edge doctor` uses the same state and logs in to the broker like the service. For other
    files they do not, as the secrets are meant only for the broker in the service's configuration.

    Raises:
        ConfigError: As `load_config` does.
    """
    environ = dict(os.environ)
    if file == DEFAULT_CONFIG:
        if _STATE.is_dir():
            environ.setdefault("STATE_DIRECTORY", str(_STATE))
        if os.access(_CREDENTIALS, os.X_OK):
            environ.setdefault("CREDENTIALS_DIRECTORY", str(_CREDENTIALS))
    return load_config(file, environ)
