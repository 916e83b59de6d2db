"""Writes copies of photos and videos, annotated with the detected faces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.contract.errors import UserError
from edge.errors import SourceUnavailable
from edge.source.opencv import is_utf8, open_video
from edge.source.recording import IMAGE_SUFFIXES, is_folder, is_image

_GREEN_BGR = (80, 220, 80)
_BLACK_BGR = (0, 0, 0)
_VIDEO_CODECS = {".avi": "MJPG", ".m4v": "mp4v", ".mkv": "mp4v", ".mov": "mp4v", ".mp4": "mp4v"}


class AnnotatedFace(Protocol):
    """A face with what is drawn of it."""

    @property
    def box(self) -> tuple[float, float, float, float]: ...
    @property
    def emotion(self) -> str: ...
    @property
    def confidence(self) -> float: ...


def plan_outputs(files: Sequence[Path], output: Path) -> dict[Path, Path]:
    """Maps each file to the path of its annotated copy: `output` itself for a single file, else a file in that folder.

    Raises:
        UserError: A copy would overwrite an input, or the copy of a video would have no video suffix.
    """
    if len(files) == 1 and output.suffix and not is_folder(output):
        if not is_image(files[0]) and output.suffix.lower() not in _VIDEO_CODECS:
            raise UserError("is not a file name for a video", where=output,
                            remedy=f"Use one of the suffixes {' '.join(_VIDEO_CODECS)}")  # fmt: skip
        planned = {files[0]: output}
    else:
        planned = _unique_targets(files, output)
    inputs = {file.resolve() for file in files}
    for target in planned.values():
        if target.resolve() in inputs:
            raise UserError("is an input file and would be overwritten", where=target,
                            remedy="Pass another file or folder to --annotate")  # fmt: skip
    return planned


def _unique_targets(files: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Maps each file to one of the same name in a folder, with a number appended to duplicates."""
    targets: dict[Path, Path] = {}
    counts: dict[str, int] = {}  # the last number tried for each name in use
    for file in files:
        suffix = file.suffix if file.suffix.lower() in IMAGE_SUFFIXES | _VIDEO_CODECS.keys() else ".mp4"
        name = plain = f"{file.stem}{suffix}"
        while name in counts:
            counts[plain] += 1
            name = f"{file.stem}-{counts[plain]}{suffix}"
        counts[name] = 1
        targets[file] = folder / name
    return targets


class Annotator:
    """Writes one annotated photo or video; without a target, it does nothing.

    Args:
        target: Path of the copy; its folder is created if necessary.
        video_fps: Frame rate of a video; None for a photo.

    Raises:
        UserError: The target cannot be written completely.
    """

    def __init__(self, target: Path | None, *, video_fps: float | None) -> None:
        self._target = target
        self._video_fps = video_fps
        self._video: cv2.VideoWriter | None = None
        self._frames = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *exc_info: object) -> None:
        if self._target is None or self._video is None:
            return
        self._video.release()
        # OpenCV does not report a full disk.
        if exc_type is None and _frames_in(self._target) < self._frames:
            raise _not_writable(self._target)

    def add(self, image_bgr: NDArray[np.uint8], faces: Sequence[AnnotatedFace]) -> None:
        """Adds an image with its detected faces."""
        if self._target is None:
            return
        annotated = draw(image_bgr, faces)
        if self._video_fps is None:
            _write_picture(self._target, annotated)
            return
        if self._video is None:
            self._video = _open_video(self._target, self._video_fps, annotated)
        self._video.write(annotated)
        self._frames += 1


def draw(image_bgr: NDArray[np.uint8], faces: Sequence[AnnotatedFace]) -> NDArray[np.uint8]:
    """Returns a copy of a uint8 (H, W, 3) image with a box and a label for each face."""
    annotated = image_bgr.copy()
    line = max(1, round(min(image_bgr.shape[:2]) / 200))
    for face in faces:
        left, top, right, bottom = (round(edge) for edge in face.box)
        cv2.rectangle(annotated, (left, top), (right, bottom), _GREEN_BGR, line)
        _label(annotated, f"{face.emotion} {face.confidence:.0%}", left, top, line)
    return annotated


def _label(image_bgr: NDArray[np.uint8], text: str, left: int, top: int, line: int) -> None:
    """Draws the text on a filled bar above the box, or at its visible top if there is no room above."""
    scale = 0.35 * line + 0.15
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, line)
    top = max(0, top)
    bottom = top if top > height + below else top + height + below
    left = max(0, min(left, image_bgr.shape[1] - width))
    cv2.rectangle(image_bgr, (left, bottom - height - below), (left + width, bottom), _GREEN_BGR, cv2.FILLED)
    cv2.putText(image_bgr, text, (left, bottom - below // 2), cv2.FONT_HERSHEY_SIMPLEX, scale, _BLACK_BGR, line,
                cv2.LINE_AA)  # fmt: skip


def _open_video(target: Path, fps: float, first: NDArray[np.uint8]) -> cv2.VideoWriter:
    _make_folder(target)
    name = str(target.absolute())  # as in `open_video`
    if not is_utf8(name):
        raise _not_writable(target, "its name is not UTF-8")
    codec = cv2.VideoWriter.fourcc(*_VIDEO_CODECS[target.suffix.lower()])
    video = cv2.VideoWriter(name, codec, fps, (first.shape[1], first.shape[0]))
    if not video.isOpened():
        raise _not_writable(target)
    return video


def _frames_in(video: Path) -> int:
    """Counts the readable frames: the header of a truncated AVI still states the full number."""
    try:
        capture = open_video(video)
    except SourceUnavailable:
        return 0
    frames = 0
    while capture.grab():
        frames += 1
    capture.release()
    return frames


def _write_picture(target: Path, image_bgr: NDArray[np.uint8]) -> None:
    _make_folder(target)
    if not is_utf8(target.suffix):
        raise _not_writable(target, "its name is not UTF-8")
    try:
        encoded, data = cv2.imencode(target.suffix, image_bgr)
    except cv2.error as error:  # no encoder for this suffix
        raise _not_writable(target) from error
    if not encoded:
        raise _not_writable(target)
    try:
        target.write_bytes(data.tobytes())
    except OSError as error:
        raise _not_writable(target, error.strerror) from error


def _make_folder(target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder cannot be created ({error.strerror})", where=target.parent,
                        remedy="Pass another file or folder to --annotate") from error  # fmt: skip


def _not_writable(target: Path, reason: str | None = None) -> UserError:
    return UserError(f"cannot be written ({reason})" if reason else "cannot be written", where=target,
                     remedy="Check the folder's permissions, that the disk is not full, and that the name ends in "
                     ".jpg, .png or .mp4")  # fmt: skip
