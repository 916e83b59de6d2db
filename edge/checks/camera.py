"""Checks of the cameras: each is opened, and a few of its frames are read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.adapters import camera_source
from edge.checks.check import Chain, Check, CheckWarning
from edge.config import CameraConfig, Config
from edge.domain import Frame
from edge.errors import SourceError, SourceLost
from edge.ports import Source
from edge.source_name import SourceKind, source_kind
from edge.state import in_use

_FIRST_FRAME_WITHIN_S = 10.0
_SAMPLE_S = 2.0
_SAMPLE_FRAMES = 20
_PATCHES = (32, 18)  # columns and rows; averaging over a patch removes most of the sensor noise
_MIN_DEVIATION = 1.0  # of the patches, in gray levels; the demo's photographs at 3 % brightness have about 2


def cameras(config: Config) -> Iterator[Chain]:
    """Checks that each camera delivers frames that are not blank, and reports their size and rate."""
    for camera in config.camera:
        yield (Check(f"camera {camera.name}", partial(_camera, camera, config)),)


def on_this_machine(camera: CameraConfig) -> bool:
    """Whether the camera is a local device, which only one program can use at a time."""
    return source_kind(camera.source) in {SourceKind.CAMERA, SourceKind.CSI}


def _camera(camera: CameraConfig, config: Config) -> str:
    try:
        return _describe(camera, is_live=source_kind(camera.source) is not SourceKind.RECORDING)
    except SourceError as error:
        if not (on_this_machine(camera) and in_use(config.device.state_dir)):
            raise
        raise CheckWarning(
            f"{error.what}; the running agent may be using it", where=error.where,
            remedy="Check the camera's status with `edge watch`, or stop the agent and try again",
        ) from error  # fmt: skip


def _describe(camera: CameraConfig, *, is_live: bool) -> str:
    with camera_source(camera) as source:
        sample = _sample(source)
    if sample is None:
        raise SourceLost(f"opened, but delivered no frame within {_FIRST_FRAME_WITHIN_S:g} s", where=camera.name,
                         remedy="Try another size or frame rate, or check whether another program uses it")  # fmt: skip
    first, last = sample
    description = f"{first.width_px}x{first.height_px}, {_rate(first, last)}"
    if is_live and _is_blank(last.image_bgr):
        raise CheckWarning(f"{description}, but the image is blank",
                           remedy="Uncover the lens or open its shutter, and check the light")  # fmt: skip
    return description


def _rate(first: Frame, last: Frame) -> str:
    if first is last:
        return "a single image"
    return f"{(last.index - first.index) / (last.time_s - first.time_s):.3g} frames per second"


def _is_blank(image_bgr: NDArray[np.uint8]) -> bool:
    """Whether the image shows nothing, as with a covered lens."""
    patches = cv2.resize(image_bgr, _PATCHES, interpolation=cv2.INTER_AREA)
    return float(patches.std(axis=(0, 1)).max()) < _MIN_DEVIATION


def _sample(source: Source) -> tuple[Frame, Frame] | None:
    """Returns the first frame and the last of up to 20 that arrive within 2 s of it, or None without any."""
    first = last = None
    count = 0
    end_s = time.monotonic() + _FIRST_FRAME_WITHIN_S
    with suppress(EOFError):  # a recording may be shorter than the sample
        while count < _SAMPLE_FRAMES and (left_s := end_s - time.monotonic()) > 0:
            frame = source.read(left_s)
            if frame is None:
                continue
            if first is None:
                first = frame
                end_s = time.monotonic() + _SAMPLE_S
            last = frame
            count += 1
    return None if first is None or last is None else (first, last)
