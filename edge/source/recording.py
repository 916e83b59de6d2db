"""Recorded pictures: each frame of a video, a picture or a folder of pictures, in order, at any speed or their own."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.domain import Frame
from edge.errors import SourceLost, SourceUnavailable
from edge.source.opencv import as_bgr, open_video, read_picture

log = logging.getLogger(__name__)

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})

_DEFAULT_VIDEO_FPS = 25.0
_Pictures = Iterator[tuple[NDArray[np.uint8], float]]
"""Pictures uint8 (H, W, 3) BGR, each with its position in seconds, strictly increasing."""


def is_picture(path: Path) -> bool:
    """Whether a file is a picture by its name; any other is taken for a video."""
    return path.suffix.lower() in PICTURE_SUFFIXES


def is_folder(path: Path) -> bool:
    """Whether it is one. Where this user may not look, it counts as a file: reading that tells what is wrong."""
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir() would raise there


class Recording:
    """A video file, a picture or a folder of pictures; every frame is given, none is dropped.

    Args:
        path: Which.
        loop: Whether to begin again at the end, with time going on.
        fps: Pictures a second in a folder. A video brings its own.

    Attributes:
        fps: Frames a second; of a video, once it is open.
    """

    def __init__(self, *, path: Path, loop: bool = False, fps: float | None = None) -> None:
        self.fps = fps or 1.0
        self._path = path
        self._loop = loop
        self._unreadable: set[Path] = set()
        self._pictures: _Pictures = iter(())
        self._next: tuple[NDArray[np.uint8], float] | None = None
        self._index = 0

    def __enter__(self) -> Self:
        self._unreadable.clear()
        try:
            self._path.stat()
        except OSError as error:
            raise SourceUnavailable(
                f"cannot be opened ({error.strerror})",
                where=self._path,
                remedy="Check the path, its rights, and that its disk is mounted",
            ) from error
        self._pictures = self._play_again_and_again() if self._loop else self._play_once()
        self._index = 0
        self._next = next(self._pictures, None)
        if self._next is None:
            raise SourceUnavailable(
                "holds no picture that can be read", where=self._path, remedy="Give another file or folder"
            )
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._pictures = iter(())  # an unfinished generator releases its video when it goes
        self._next = None

    def read(self, timeout_s: float) -> Frame | None:  # noqa: ARG002 - a file needs no waiting for
        if self._next is None:
            raise EOFError(f"{self._path} is at its end")
        image_bgr, time_s = self._next
        frame = Frame(image_bgr=image_bgr, index=self._index, time_s=time_s, mono_s=time.monotonic())
        self._index += 1
        try:
            self._next = next(self._pictures, None)
        except SourceUnavailable as error:  # it went away between two rounds
            raise SourceLost(error.what, where=error.where, remedy=error.remedy) from error
        return frame

    @property
    def next_time_s(self) -> float | None:
        """The position of the frame that `read` gives next; None at the end."""
        return self._next[1] if self._next is not None else None

    @property
    def dropped(self) -> int:
        return 0

    def _play_once(self) -> _Pictures:
        if is_folder(self._path):
            return self._pictures_of(_files_in(self._path))
        if is_picture(self._path):
            return self._pictures_of([self._path])
        return self._frames_of_video()

    def _play_again_and_again(self) -> _Pictures:
        start_s, step_s = 0.0, 1 / self.fps
        while True:
            end_s = None
            for image_bgr, position_s in self._play_once():
                if end_s is not None:
                    step_s = start_s + position_s - end_s
                end_s = start_s + position_s
                yield image_bgr, end_s
            if end_s is None:
                return
            start_s = end_s + step_s

    def _pictures_of(self, files: list[Path]) -> _Pictures:
        index = 0
        for path in files:
            try:
                image_bgr, reason = read_picture(path), "is not a picture that can be read"
            except SourceUnavailable as error:
                if path == self._path:
                    raise
                image_bgr, reason = None, error.what
            if image_bgr is not None:
                yield image_bgr, index / self.fps
                index += 1
            elif path not in self._unreadable:
                self._unreadable.add(path)
                log.warning("%s is left out: it %s", path, reason)

    def _frames_of_video(self) -> _Pictures:
        capture = open_video(self._path)
        try:
            fps = capture.get(cv2.CAP_PROP_FPS)
            self.fps = fps if fps > 0 else _DEFAULT_VIDEO_FPS
            period_s = 1 / self.fps
            time_s = -period_s
            while capture.grab():
                position_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                time_s = position_s if position_s > time_s else time_s + period_s  # some formats carry no positions
                complete, image = capture.retrieve()
                picture = as_bgr(image) if complete else None
                if picture is not None:
                    yield picture, time_s
        finally:
            capture.release()


def _files_in(folder: Path) -> list[Path]:
    try:
        files = sorted(filter(is_picture, folder.iterdir()))
    except OSError as error:
        raise SourceUnavailable(
            f"cannot be read ({error.strerror})", where=folder, remedy="Check the folder's rights"
        ) from error
    if not files:
        raise SourceUnavailable(
            "the folder holds no pictures",
            where=folder,
            remedy=f"Put some into it ({' '.join(sorted(PICTURE_SUFFIXES))})",
        )
    return files


class RealTime:
    """A recording at its own speed, as if it were a camera: frames that nobody reads in time are dropped."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._start_s = 0.0
        self._dropped = 0

    def __enter__(self) -> Self:
        self._recording.__enter__()
        self._start_s = time.monotonic() - (self._recording.next_time_s or 0.0)
        self._dropped = 0
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._recording.__exit__(*exc_info)

    def read(self, timeout_s: float) -> Frame | None:
        deadline_s = time.monotonic() + timeout_s
        if not self._wait_for_next(deadline_s):
            return None
        frame = self._recording.read(timeout_s)
        # A decoder slower than the recording never catches up: the deadline ends the chase.
        while self._next_is_due() and time.monotonic() < deadline_s:
            del frame  # its memory is needed: the recording reads ahead
            frame = self._recording.read(timeout_s)
            self._dropped += 1
        return frame

    @property
    def dropped(self) -> int:
        return self._dropped

    def _wait_for_next(self, deadline_s: float) -> bool:
        due_s = self._start_s + (self._recording.next_time_s or 0.0)
        time.sleep(max(0.0, min(due_s, deadline_s) - time.monotonic()))
        return due_s <= deadline_s

    def _next_is_due(self) -> bool:
        next_time_s = self._recording.next_time_s
        return next_time_s is not None and self._start_s + next_time_s <= time.monotonic()
