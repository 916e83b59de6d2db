"""The door to OpenCV's cameras, streams, videos and pictures: opens them, keeps them quiet, checks what they give."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import SourceUnavailable
from edge.source_name import masked

_SILENT = 0  # OpenCV's LOG_LEVEL_SILENT, a name that 4.12 does not have


def open_camera(
    device: Path, *, width: int | None = None, height: int | None = None, fps: float | None = None
) -> cv2.VideoCapture:
    """Open a V4L2 camera such as /dev/video0; the camera takes the size and rate nearest to those asked for.

    Raises:
        SourceUnavailable: It is not there, not ours to read, busy, or no camera that OpenCV can use.
    """
    try:
        device.stat()
    except OSError as error:
        raise SourceUnavailable("no such camera", where=device, remedy=_other_cameras()) from error
    if not os.access(device, os.R_OK | os.W_OK):
        raise SourceUnavailable(
            "no permission to use the camera",
            where=device,
            remedy="Add the user to the group video: `sudo usermod -aG video $USER`, then log in again",
        )
    wishes = {cv2.CAP_PROP_FRAME_WIDTH: width, cv2.CAP_PROP_FRAME_HEIGHT: height, cv2.CAP_PROP_FPS: fps}
    capture = _open(str(device), cv2.CAP_V4L2, {})
    if capture is None:
        raise SourceUnavailable(
            "gives no pictures",
            where=device,
            remedy="See whether another program uses it (`fuser -v /dev/video*`); for a Pi camera on the flat cable"
            " use the source csi:0",
        )
    for wish, value in wishes.items():
        if value is not None:
            capture.set(wish, value)
    return capture


def open_stream(url: str, *, open_timeout_s: float, read_timeout_s: float) -> cv2.VideoCapture:
    """Open an RTSP or HTTP stream.

    Raises:
        SourceUnavailable: Nothing answers in time, it refuses, or it sends no video.
    """
    timeouts = {
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: round(open_timeout_s * 1000),
        cv2.CAP_PROP_READ_TIMEOUT_MSEC: round(read_timeout_s * 1000),
    }
    capture = _open(url, cv2.CAP_FFMPEG, timeouts)
    if capture is None:
        raise SourceUnavailable(
            "the stream does not open",
            where=masked(url),
            remedy="Check the address, user and password, and that the camera is reachable, for example with ffplay",
        )
    return capture


def open_video(path: Path) -> cv2.VideoCapture:
    """Open a video file.

    Raises:
        SourceUnavailable: It is not there, cannot be read or is no video, or OpenCV cannot be told its name.
    """
    _open_file(path).close()
    name = str(path.absolute())  # FFmpeg takes what stands before a colon for a protocol, but not in a path with a /
    if not is_utf8(name):
        raise SourceUnavailable(
            "its name is not UTF-8", where=path, remedy="Rename it, or the folder whose name is not"
        )
    capture = _open(name, cv2.CAP_FFMPEG, {})
    if capture is None:
        raise SourceUnavailable(
            "is no video that OpenCV can read",
            where=path,
            remedy="Give a video (mp4, avi, mkv, webm), a picture (jpg, png, bmp, webp) or a folder of pictures",
        )
    return capture


def read_picture(path: Path) -> NDArray[np.uint8] | None:
    """The picture in a file as uint8 (H, W, 3) BGR, turned as its EXIF data say; None if it is none.

    Raises:
        SourceUnavailable: The file is not there or not ours to read.
    """
    _hush()
    with _open_file(path) as file:
        try:
            # By its number: OpenCV takes no name that is not UTF-8, and imdecode() would need the whole file in memory.
            return as_bgr(cv2.imread(f"/proc/self/fd/{file.fileno()}", cv2.IMREAD_COLOR))
        except cv2.error:  # a picture of more pixels than OpenCV accepts
            return None


def is_utf8(name: str) -> bool:
    """Whether a name can be handed to OpenCV: one that is not UTF-8 takes the process down."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_bgr(image: NDArray[Any] | None) -> NDArray[np.uint8] | None:
    """The picture as uint8 (H, W, 3) BGR if it is one, gray and BGRA included; None for anything else."""
    if image is None or image.size == 0 or image.dtype != np.uint8:
        return None
    channels = 1 if image.ndim == 2 else image.shape[-1] if image.ndim == 3 else 0
    if channels == 3:
        return image
    conversions = {1: cv2.COLOR_GRAY2BGR, 4: cv2.COLOR_BGRA2BGR}
    return cv2.cvtColor(image, conversions[channels]) if channels in conversions else None


def _open_file(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise SourceUnavailable(
            f"cannot be read ({error.strerror})", where=path, remedy="Check that it is a file and its rights"
        ) from error


def _open(name: str, backend: int, parameters: dict[int, int]) -> cv2.VideoCapture | None:
    if not is_utf8(name):
        return None
    _hush()
    try:
        capture = cv2.VideoCapture(name, backend, [value for item in parameters.items() for value in item])
    except cv2.error:
        return None
    if capture.isOpened():
        return capture
    capture.release()
    return None


def _hush() -> None:
    """Keep OpenCV and FFmpeg from writing to stderr: what matters of it comes as an error, and URLs hold passwords."""
    logging = getattr(cv2.utils, "logging", cv2)  # in `cv2` itself up to OpenCV 4.12
    logging.setLogLevel(_SILENT)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET


def _other_cameras() -> str:
    # /dev/video* has codecs and image processors too, a dozen of them on a Raspberry Pi. udev names the USB cameras; of
    # each, the first node gives pictures.
    named, all_of_them = Path("/dev/v4l/by-id").glob("*-video-index0"), Path("/dev").glob("video*")
    found = sorted(map(str, named)) or sorted(map(str, all_of_them))
    if found:
        return f"There are {', '.join(found)}"
    return "Plug one in; for a Pi camera on the flat cable use the source csi:0"
