"""Opens cameras, streams, videos and images with OpenCV, without its log output, and validates their frames."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import SourceUnavailable
from edge.source_name import masked

_SILENT = 0  # LOG_LEVEL_SILENT, which OpenCV 4.12 does not define


def open_camera(
    device: Path, *, width: int | None = None, height: int | None = None, fps: float | None = None
) -> cv2.VideoCapture:
    """Opens a V4L2 camera such as /dev/video0, which selects the size and rate closest to the requested ones.

    Raises:
        SourceUnavailable: The camera is missing, not accessible, busy, or not supported by OpenCV.
    """
    try:
        device.stat()
    except OSError as error:
        raise SourceUnavailable("no such camera", where=device, remedy=_other_cameras()) from error
    if not os.access(device, os.R_OK | os.W_OK):
        raise SourceUnavailable(
            "no permission to use the camera",
            where=device,
            remedy="Add the user to the video group: `sudo usermod -aG video $USER`, then log in again",
        )
    requested = {cv2.CAP_PROP_FRAME_WIDTH: width, cv2.CAP_PROP_FRAME_HEIGHT: height, cv2.CAP_PROP_FPS: fps}
    capture = _open(str(device), cv2.CAP_V4L2, {})
    if capture is None:
        raise SourceUnavailable(
            "delivers no video",
            where=device,
            remedy="Check whether another program uses it (`fuser -v /dev/video*`); for a Raspberry Pi CSI camera, use"
            " the source csi:0",
        )
    for prop, value in requested.items():
        if value is not None:
            capture.set(prop, value)
    return capture


def open_stream(url: str, *, open_timeout_s: float, read_timeout_s: float) -> cv2.VideoCapture:
    """Opens an RTSP or HTTP stream.

    Raises:
        SourceUnavailable: The server does not respond in time, rejects the request, or sends no video.
    """
    timeouts = {
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: round(open_timeout_s * 1000),
        cv2.CAP_PROP_READ_TIMEOUT_MSEC: round(read_timeout_s * 1000),
    }
    capture = _open(url, cv2.CAP_FFMPEG, timeouts)
    if capture is None:
        raise SourceUnavailable(
            "the stream cannot be opened",
            where=masked(url),
            remedy="Check the address, user and password, and that the camera is reachable, for example with ffplay",
        )
    return capture


def open_video(path: Path) -> cv2.VideoCapture:
    """Opens a video file.

    Raises:
        SourceUnavailable: The file is missing, not readable or not a video, or its name is not UTF-8.
    """
    _open_file(path).close()
    name = str(path.absolute())  # absolute, as FFmpeg takes text before a colon for a protocol unless it contains a /
    if not is_utf8(name):
        raise SourceUnavailable(
            "its path is not valid UTF-8", where=path, remedy="Rename the file, or the folder with the invalid name"
        )
    capture = _open(name, cv2.CAP_FFMPEG, {})
    if capture is None:
        raise SourceUnavailable(
            "is not a video that OpenCV can read",
            where=path,
            remedy="Use a video (mp4, avi, mkv, webm), an image (jpg, png, bmp, webp) or a folder of images",
        )
    return capture


def read_image(path: Path) -> NDArray[np.uint8] | None:
    """Reads an image file as uint8 (H, W, 3) BGR, rotated according to EXIF; None if it is not an image.

    Raises:
        SourceUnavailable: The file is missing or not readable.
    """
    _silence_opencv()
    with _open_file(path) as file:
        try:
            # By descriptor: OpenCV accepts only UTF-8 names, and imdecode() would need the whole file in memory.
            return as_bgr(cv2.imread(f"/proc/self/fd/{file.fileno()}", cv2.IMREAD_COLOR))
        except cv2.error:  # more pixels than OpenCV accepts
            return None


def is_utf8(name: str) -> bool:
    """Returns whether a name can be passed to OpenCV, which crashes on names that are not valid UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_bgr(image: NDArray[Any] | None) -> NDArray[np.uint8] | None:
    """Converts a gray, BGR or BGRA image to uint8 (H, W, 3) BGR; returns None for anything else."""
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
            f"cannot be read ({error.strerror})", where=path, remedy="Check that it is a file, and its permissions"
        ) from error


def _open(name: str, backend: int, parameters: dict[int, int]) -> cv2.VideoCapture | None:
    if not is_utf8(name):
        return None
    _silence_opencv()
    try:
        capture = cv2.VideoCapture(name, backend, [value for item in parameters.items() for value in item])
    except cv2.error:
        return None
    if capture.isOpened():
        return capture
    capture.release()
    return None


def _silence_opencv() -> None:
    """Turns off the stderr output of OpenCV and FFmpeg: errors are reported anyway, and URLs contain passwords."""
    logging = getattr(cv2.utils, "logging", cv2)  # directly in `cv2` up to OpenCV 4.12
    logging.setLogLevel(_SILENT)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET


def _other_cameras() -> str:
    # /dev/video* includes codecs and image processors, about a dozen on a Raspberry Pi. udev names USB cameras; the
    # first node of each delivers video.
    named, all_devices = Path("/dev/v4l/by-id").glob("*-video-index0"), Path("/dev").glob("video*")
    found = sorted(map(str, named)) or sorted(map(str, all_devices))
    if found:
        return f"Available: {', '.join(found)}"
    return "Connect one; for a Raspberry Pi CSI camera, use the source csi:0"
