"""Recordings: the frames of a video, an image or a folder of images, as fast as they are read or in real time."""

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
from edge.source.opencv import as_bgr, open_video, read_image

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})

_DEFAULT_VIDEO_FPS = 25.0
_Images = Iterator[tuple[NDArray[np.uint8], float]]
"""Images, uint8 (H, W, 3) BGR, each with its strictly increasing position in seconds."""


def is_image(path: Path) -> bool:
    """Returns whether a file is an image by its suffix; any other file is treated as a video."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def is_folder(path: Path) -> bool:
    """Returns whether a path is a folder. An inaccessible one counts as a file, so that reading reports the reason."""
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir() would raise


class Recording:
    """A video, an image or a folder of images, of which no frame is dropped.

    Args:
        path: The file or folder.
        loop: Whether to start over at the end, with time continuing.
        fps: Frames per second of a folder of images. A video has its own rate.

    Attributes:
        fps: Frames per second; for a video, valid once it is open.
    """

    def __init__(self, *, path: Path, loop: bool = False, fps: float | None = None) -> None:
        self.fps = fps or 1.0
        self._path = path
        self._loop = loop
        self._unreadable: set[Path] = set()
        self._images: _Images = iter(())
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
                remedy="Check the path, its permissions, and that its disk is mounted",
            ) from error
        self._images = self._play_looped() if self._loop else self._play_once()
        self._index = 0
        self._next = next(self._images, None)
        if self._next is None:
            raise SourceUnavailable("contains no readable image", where=self._path, remedy="Use another file or folder")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._images = iter(())  # drops an unfinished generator, which releases its video
        self._next = None

    def read(self, timeout_s: float) -> Frame | None:  # noqa: ARG002 - a file is never waited for
        if self._next is None:
            raise EOFError(f"end of {self._path}")
        image_bgr, time_s = self._next
        frame = Frame(image_bgr=image_bgr, index=self._index, time_s=time_s, mono_s=time.monotonic())
        self._index += 1
        try:
            self._next = next(self._images, None)
        except SourceUnavailable as error:  # removed between two loops
            raise SourceLost(error.what, where=error.where, remedy=error.remedy) from error
        return frame

    @property
    def next_time_s(self) -> float | None:
        """The position of the frame that `read` returns next; None at the end."""
        return self._next[1] if self._next is not None else None

    @property
    def dropped(self) -> int:
        return 0

    def _play_once(self) -> _Images:
        if is_folder(self._path):
            return self._read_images(_files_in(self._path))
        if is_image(self._path):
            return self._read_images([self._path])
        return self._read_video()

    def _play_looped(self) -> _Images:
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

    def _read_images(self, files: list[Path]) -> _Images:
        index = 0
        for path in files:
            try:
                image_bgr, reason = read_image(path), "is not a readable image"
            except SourceUnavailable as error:
                if path == self._path:
                    raise
                image_bgr, reason = None, error.what
            if image_bgr is not None:
                yield image_bgr, index / self.fps
                index += 1
            elif path not in self._unreadable:
                self._unreadable.add(path)
                log.warning("skipping %s: it %s", path, reason)

    def _read_video(self) -> _Images:
        capture = open_video(self._path)
        try:
            fps = capture.get(cv2.CAP_PROP_FPS)
            self.fps = fps if fps > 0 else _DEFAULT_VIDEO_FPS
            period_s = 1 / self.fps
            time_s = -period_s
            while capture.grab():
                position_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                time_s = position_s if position_s > time_s else time_s + period_s  # some formats have no timestamps
                ok, image = capture.retrieve()
                image_bgr = as_bgr(image) if ok else None
                if image_bgr is not None:
                    yield image_bgr, time_s
        finally:
            capture.release()


def _files_in(folder: Path) -> list[Path]:
    try:
        files = sorted(filter(is_image, folder.iterdir()))
    except OSError as error:
        raise SourceUnavailable(
            f"cannot be read ({error.strerror})", where=folder, remedy="Check the permissions of the folder"
        ) from error
    if not files:
        raise SourceUnavailable(
            "the folder contains no images",
            where=folder,
            remedy=f"Add image files ({' '.join(sorted(IMAGE_SUFFIXES))})",
        )
    return files


class RealTime:
    """A recording in real time, like a camera: frames that are not read in time are dropped."""

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
        # A decoder slower than real time never catches up, so the deadline ends the loop.
        while self._next_is_due() and time.monotonic() < deadline_s:
            del frame  # frees its memory, because the recording reads ahead
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
