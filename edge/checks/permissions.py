"""Checks of permissions (cameras, state folder, secrets), and of whether an agent is already running."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from edge.checks.camera import on_this_machine
from edge.checks.check import Chain, Check, CheckWarning
from edge.config import Config
from edge.disk import require_writable
from edge.errors import SourceUnavailable, StateError
from edge.source_name import masked
from edge.state import in_use, known_client_id

_OTHERS = 0o007


def devices(config: Config | None) -> Iterator[Chain]:
    """Checks that this user can access local cameras; skipped if the configuration has none."""
    if config is None or any(map(on_this_machine, config.camera)):
        yield (Check("camera access", _devices),)


def secrets(config: Config, config_file: Path) -> Chain:
    """Checks that other users cannot read passwords, keys and the agent's state.

    That the agent itself can read them was verified when the configuration was loaded.
    """
    return (Check("secrets", partial(_secrets, config, config_file)),)


def state_folder(config: Config) -> Chain:
    """Checks that the state folder and the files in it are writable."""
    return (Check("state folder", partial(_state_folder, config.device.state_dir)),)


def agent(config: Config) -> Chain:
    """Reports whether an agent is running with this state folder."""
    return (Check("agent", partial(_agent, config.device.state_dir)),)


def _devices() -> str:
    found = sorted(Path("/dev").glob("video*"))
    denied = [str(device) for device in found if not os.access(device, os.R_OK | os.W_OK)]
    if denied:
        raise SourceUnavailable(
            "no permission to access the camera", where=", ".join(denied),
            remedy="Add the user to the group video: `sudo usermod -aG video $USER`, then log in again",
        )  # fmt: skip
    if os.geteuid() == 0:
        raise CheckWarning("root can access everything, so this says nothing about the agent's own user",
                           remedy="Run it as that user: `sudo -u emotion-edge edge doctor`")  # fmt: skip
    return f"all {len(found)} devices /dev/video* are accessible"


def _secrets(config: Config, config_file: Path) -> str:
    mqtt = config.mqtt
    key_file = mqtt.key_file or mqtt.cert_file  # which then contains the key as well
    files = [file for file in (mqtt.password_file, key_file) if file is not None]
    if any(masked(camera.source) != camera.source for camera in config.camera):
        files.append(config_file)
    if nearest_existing(config.device.state_dir) == config.device.state_dir:
        files.append(config.device.state_dir)
    exposed = [str(file) for file in files if file.stat().st_mode & _OTHERS]
    if exposed:
        raise CheckWarning("other users of this machine can access the secrets in it", where=", ".join(exposed),
                           remedy=f"Run `sudo chmod o= {' '.join(exposed)}`")  # fmt: skip
    return ", ".join(f"{file}, inaccessible to other users" for file in files) or "no secrets"


def _state_folder(folder: Path) -> str:
    existing = nearest_existing(folder)
    try:
        require_writable(existing)
    except StateError as error:
        raise StateError(
            error.what, where=existing,
            remedy="Make it writable for this user and check that the disk is not full, set device.state_dir to "
            "another folder, or run this as the agent's user",
        ) from error  # fmt: skip
    if denied := [str(file) for file in folder.glob("*") if file.is_file() and not os.access(file, os.R_OK | os.W_OK)]:
        raise StateError(
            "not writable for this user; the agent may have been run here as another user", where=", ".join(denied),
            remedy=f"Run `sudo chown --reference={folder} {' '.join(denied)}`",
        )  # fmt: skip
    return f"{folder}, writable" if existing == folder else f"{folder}, will be created"


def _agent(folder: Path) -> str:
    if in_use(folder):
        return f"running, as client {known_client_id(folder)}"
    return "none is running with this state folder"


def nearest_existing(folder: Path) -> Path:
    """Returns `folder`, or its nearest parent folder that exists, as far as this user can see."""
    # Unlike Path.exists, os.path.exists returns False in a folder that this user may not search.
    return next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))  # noqa: PTH110
