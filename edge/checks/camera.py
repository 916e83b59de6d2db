"""Checks of the cameras: each is opened and looked at for a moment."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.adapters import camera_source
from edge.checks.finding import Chain, Check, Doubt
from edge.config import CameraConfig, Config
from edge.domain import Frame
from edge.errors import SourceError, SourceLost
from edge.ports import Source
from edge.source_name import SourceKind, source_kind
from edge.state import in_use

_FIRST_FRAME_WITHIN_S = 10.0
_LOOK_FOR_S = 2.0
_LOOK_AT_FRAMES = 20
_PATCHES = (32, 18)  # across and down: their means have little of a sensor's noise left
_LEAST_DEVIATION = 1.0  # of the patches, in gray levels: the demo's photographs at 3 % of theirs have about two


def cameras(config: Config) -> Iterator[Chain]:
    """Whether each camera gives frames, of what size and how many a second, and whether anything is on them."""
    for camera in config.camera:
        yield (Check(f"camera {camera.name}", partial(_camera, camera, config)),)


def on_this_machine(camera: CameraConfig) -> bool:
    """Whether it is a device of this machine, which serves one program at a time."""
    return source_kind(camera.source) in {SourceKind.CAMERA, SourceKind.CSI}


def _camera(camera: CameraConfig, config: Config) -> str:
    try:
        return _describe(camera, is_live=source_kind(camera.source) is not SourceKind.RECORDING)
    except SourceError as error:
        if not (on_this_machine(camera) and in_use(config.device.state_dir)):
            raise
        raise Doubt(
            f"{error.what}; the running agent may be using it", where=error.where,
            remedy="Look at the camera's status in `edge watch`, or stop the agent and try again",
        ) from error  # fmt: skip


def _describe(camera: CameraConfig, *, is_live: bool) -> str:
    with camera_source(camera) as source:
        seen = _look(source)
    if seen is None:
        raise SourceLost(f"opened, but gave no frame within {_FIRST_FRAME_WITHIN_S:g} s", where=camera.name,
                         remedy="Try another size or rate, or see whether another program uses it")  # fmt: skip
    first, last = seen
    described = f"{first.width_px}x{first.height_px}, {_rate(first, last)}"
    if is_live and _is_blank(last.image_bgr):
        raise Doubt(f"{described}, and nothing can be made out",
                    remedy="Take the cover off the lens or open its shutter, and see that there is light")  # fmt: skip
    return described


def _rate(first: Frame, last: Frame) -> str:
    if first is last:
        return "a single picture"
    return f"{(last.index - first.index) / (last.time_s - first.time_s):.3g} frames a second"


def _is_blank(image_bgr: NDArray[np.uint8]) -> bool:
    """Whether nothing can be made out, as behind a cover."""
    patches = cv2.resize(image_bgr, _PATCHES, interpolation=cv2.INTER_AREA)
    return float(patches.std(axis=(0, 1)).max()) < _LEAST_DEVIATION


def _look(source: Source) -> tuple[Frame, Frame] | None:
    """The first frame and the last of twenty, or of as many as come shortly after it; None if none comes."""
    first = last = None
    count = 0
    until_s = time.monotonic() + _FIRST_FRAME_WITHIN_S
    with suppress(EOFError):  # a recording may be shorter than the look
        while count < _LOOK_AT_FRAMES and (left_s := until_s - time.monotonic()) > 0:
            frame = source.read(left_s)
            if frame is None:
                continue
            if first is None:
                first = frame
                until_s = time.monotonic() + _LOOK_FOR_S
            last = frame
            count += 1
    return None if first is None or last is None else (first, last)
