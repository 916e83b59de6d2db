"""`edge check`: tries every part that the agent needs, one after the other, and says how each fares."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.text import Text

from edge.bootstrap import broker_settings, camera_source, face_detector
from edge.classify import BundleClassifier
from edge.config import CameraConfig, Config, load_config
from edge.contract.errors import UserError
from edge.domain import Frame
from edge.errors import SourceLost, StateError
from edge.mqtt import probe_broker
from edge.ports import Source
from edge.runtime import runtime_name
from edge.state import new_client_id

_FIRST_FRAME_WITHIN_S = 10.0
_LOOK_FOR_S = 2.0
_LOOK_AT_FRAMES = 20

Part = tuple[str, Callable[[], str]]
"""What is tried, and a function that tries it: returns what is found, or raises a `UserError`."""


def run(arguments: argparse.Namespace) -> int:
    """Tries all parts. Returns 0, or the exit code of the first fault."""
    console = Console(highlight=False, soft_wrap=True)
    faults: list[UserError] = []
    try:
        config = load_config(arguments.config, os.environ)
    except UserError as error:
        _show_fault(console, "configuration", error)
        return error.exit_code
    _show(console, "configuration", f"{arguments.config}")
    for name, attempt in _parts(config):
        try:
            _show(console, name, attempt())
        except UserError as error:
            _show_fault(console, name, error)
            faults.append(error)
    return faults[0].exit_code if faults else 0


def _show(console: Console, name: str, found: str) -> None:
    console.print(Text.assemble(("OK    ", "bold green"), f"{name:<16}", found))


def _show_fault(console: Console, name: str, error: UserError) -> None:
    for line in str(error).splitlines():
        console.print(Text.assemble(("WRONG ", "bold red"), f"{name:<16}", line))


def _parts(config: Config) -> Iterator[Part]:
    yield "state folder", partial(_check_state_dir, config.device.state_dir)
    yield "model", partial(_check_model, config)
    yield "detector", partial(_check_detector, config)
    for camera in config.camera:
        yield f"camera {camera.name}", partial(_check_camera, camera)
    yield "broker", partial(_check_broker, config)


def _check_state_dir(folder: Path) -> str:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise StateError(
            f"cannot be written ({error.strerror})", where=existing,
            remedy="Make it writable for this user, name another as device.state_dir, or run this as the agent's user",
        ) from error  # fmt: skip
    return f"{folder}, writable" if existing == folder else f"{folder}, will be made"


def _check_model(config: Config) -> str:
    classifier = BundleClassifier(config.model.path, runtime=config.model.runtime, threads=config.model.threads)
    manifest = classifier.bundle.manifest
    runtime = runtime_name(config.model.runtime)
    return f"{manifest.name} {manifest.version} passed its self-test on {runtime} ({config.model.path})"


def _check_detector(config: Config) -> str:
    return face_detector(config).name


def _check_camera(camera: CameraConfig) -> str:
    with camera_source(camera) as source:
        frames = _look(source)
    if not frames:
        raise SourceLost(f"opened, but gave no frame within {_FIRST_FRAME_WITHIN_S:g} s", where=camera.name,
                         remedy="Try another size or rate, or see whether another program uses it")  # fmt: skip
    first, last = frames[0], frames[-1]
    size = f"{first.width_px}x{first.height_px}"
    if first is last:
        return f"{size}, a single picture"
    rate = (last.index - first.index) / (last.time_s - first.time_s)
    return f"{size}, {rate:.3g} frames a second"


def _look(source: Source) -> list[Frame]:
    """The first frames, without waiting long for more than one."""
    frames: list[Frame] = []
    until_s = time.monotonic() + _FIRST_FRAME_WITHIN_S
    try:
        while len(frames) < _LOOK_AT_FRAMES and (left_s := until_s - time.monotonic()) > 0:
            frame = source.read(left_s)
            if frame is not None and not frames:
                until_s = time.monotonic() + _LOOK_FOR_S
            if frame is not None:
                frames.append(frame)
    except EOFError:
        pass
    return frames


def _check_broker(config: Config) -> str:
    settings = broker_settings(config, new_client_id())
    protocol = probe_broker(settings)
    return f"{settings.address} speaks {protocol}" + (" over TLS" if settings.tls else "")
