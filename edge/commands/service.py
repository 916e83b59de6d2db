"""How `edge check` and `edge doctor` read a configuration: that of the service with what systemd gives the service."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from edge.cli import DEFAULT_CONFIG
from edge.config import Config, load_config

_CREDENTIALS: Final = Path("/run/credentials/emotion-edge.service")
"""Where systemd shows the service its secrets while it runs; its user and root may look, and nobody else."""

_STATE: Final = Path("/var/lib/emotion-edge")
"""What systemd makes of the unit's StateDirectory=, at the service's first start."""


def load_as_service(file: Path) -> Config:
    """Reads and checks a configuration.

    For the service's own, its state folder and its secrets stand in where the environment names none: `sudo -u
    emotion-edge edge doctor` then looks at the same state, and is let in by the broker just as the service is. The
    secrets are for the broker that this file names, and no other.

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
