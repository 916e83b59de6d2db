"""Checks of who may do what here: use cameras, write state, read secrets; and whether an agent is at it already."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from edge.checks.camera import on_this_machine
from edge.checks.finding import Chain, Check, Doubt
from edge.config import Config
from edge.disk import require_room
from edge.errors import SourceUnavailable, StateError
from edge.source_name import masked
from edge.state import in_use, known_client_id

_OTHERS = 0o007


def devices(config: Config | None) -> Iterator[Chain]:
    """Whether this user may use the cameras of this machine, where the agent is to use any."""
    if config is None or any(map(on_this_machine, config.camera)):
        yield (Check("camera rights", _devices),)


def secrets(config: Config, config_file: Path) -> Chain:
    """Whether passwords, keys and what the agent remembers are hidden from other users.

    That passwords and keys can be read, the configuration has shown.
    """
    return (Check("secrets", partial(_secrets, config, config_file)),)


def state_folder(config: Config) -> Chain:
    """Whether the state folder can be written, and the files in it."""
    return (Check("state folder", partial(_state_folder, config.device.state_dir)),)


def agent(config: Config) -> Chain:
    """Whether an agent is running with that folder."""
    return (Check("agent", partial(_agent, config.device.state_dir)),)


def _devices() -> str:
    found = sorted(Path("/dev").glob("video*"))
    denied = [str(device) for device in found if not os.access(device, os.R_OK | os.W_OK)]
    if denied:
        raise SourceUnavailable(
            "no permission to use the camera", where=", ".join(denied),
            remedy="Add the user to the group video: `sudo usermod -aG video $USER`, then log in again",
        )  # fmt: skip
    if os.geteuid() == 0:
        raise Doubt("root may do everything, so this says nothing of the agent's own user",
                    remedy="Try again as that user: `sudo -u emotion-edge edge doctor`")  # fmt: skip
    return f"{len(found)} devices /dev/video*, all ours to use"


def _secrets(config: Config, config_file: Path) -> str:
    mqtt = config.mqtt
    key_file = mqtt.key_file or mqtt.cert_file  # which then holds the key too
    files = [file for file in (mqtt.password_file, key_file) if file is not None]
    if any(masked(camera.source) != camera.source for camera in config.camera):
        files.append(config_file)
    if nearest_existing(config.device.state_dir) == config.device.state_dir:
        files.append(config.device.state_dir)
    exposed = [str(file) for file in files if file.stat().st_mode & _OTHERS]
    if exposed:
        raise Doubt("every user of this machine may get at the secrets in it", where=", ".join(exposed),
                    remedy=f"Run `sudo chmod o= {' '.join(exposed)}`")  # fmt: skip
    return ", ".join(f"{file}, hidden from others" for file in files) or "there are none"


def _state_folder(folder: Path) -> str:
    existing = nearest_existing(folder)
    try:
        require_room(existing)
    except StateError as error:
        raise StateError(
            error.what, where=existing,
            remedy="Make it writable for this user and see that the disk is not full, name another as "
            "device.state_dir, or run this as the agent's user",
        ) from error  # fmt: skip
    if denied := [str(file) for file in folder.glob("*") if file.is_file() and not os.access(file, os.R_OK | os.W_OK)]:
        raise StateError(
            "not writable for this user; another may have run the agent here", where=", ".join(denied),
            remedy=f"Run `sudo chown --reference={folder} {' '.join(denied)}`",
        )  # fmt: skip
    return f"{folder}, writable" if existing == folder else f"{folder}, will be made"


def _agent(folder: Path) -> str:
    if in_use(folder):
        return f"running, as client {known_client_id(folder)}"
    return "none is running with this state folder"


def nearest_existing(folder: Path) -> Path:
    """`folder`, or the nearest folder above it that is there, as far as this user may see."""
    # os.path's way: False, and no error, in a folder that may not be searched.
    return next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))  # noqa: PTH110
