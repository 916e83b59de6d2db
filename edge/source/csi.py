"""Raspberry Pi CSI cameras: picamera2 in a separate process, which is killed when it hangs.

The process runs `_csi_helper.py`, which documents the shared memory.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
import select
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np

from edge.domain import Frame
from edge.errors import DriverHangs, SourceLost, SourceUnavailable
from edge.source._csi_helper import COUNT, HEADER_BYTES, SLOTS, TIME

log = logging.getLogger(__name__)

_HELPER = Path(__file__).with_name("_csi_helper.py")
_KILL_TIMEOUT_S = 2.0
_MAX_SIDE_PX = 10_000
_CHECK_CAMERA = "Check the flat cable, and that `rpicam-hello --list-cameras` lists the camera"
_INSTALL = "Run `sudo apt install python3-picamera2`"


class CsiSource:
    """A Raspberry Pi camera through picamera2.

    Args:
        camera: Its number in `rpicam-hello --list-cameras`.
        width: Width to request, in pixels; the camera may choose another one.
        height: Height to request, in pixels.
        fps: Frames per second to request; None for the default of the camera.
        python: The interpreter for which the distribution's picamera2 is built.
        open_timeout_s: Time limit for opening.
        stall_timeout_s: Time without a frame after which the camera is lost.
    """

    def __init__(
        self,
        *,
        camera: int,
        width: int = 640,
        height: int = 480,
        fps: float | None = None,
        python: Path = Path("/usr/bin/python3"),
        open_timeout_s: float = 10.0,
        stall_timeout_s: float = 10.0,
    ) -> None:
        self._label = f"csi:{camera}"
        # -P keeps modules in the folder of the helper from shadowing those that picamera2 imports.
        self._command = [str(python), "-P", str(_HELPER)]
        self._command += [f"--camera={camera}", f"--width={width}", f"--height={height}"]
        if fps is not None:
            self._command.append(f"--fps={fps:g}")
        self._open_timeout_s = open_timeout_s
        self._stall_timeout_s = stall_timeout_s
        self._helper: _Helper | None = None
        self._last_helper: _Helper | None = None
        self._size = (0, 0)
        self._next_index = 0
        self._dropped = 0
        self._newest_s = 0.0

    def __enter__(self) -> Self:
        if self._last_helper is not None and self._last_helper.is_alive():  # another process would hang as well
            raise DriverHangs(where=self._label, remedy=_CHECK_CAMERA)
        helper = self._last_helper = _Helper(self._command, label=self._label)
        try:
            helper.wait_until_ready(self._open_timeout_s)
        except BaseException:
            helper.close()
            raise
        if (helper.width, helper.height) != self._size:  # not logged again at every retry
            log.info("%s is open: %dx%d", self._label, helper.width, helper.height)
            self._size = helper.width, helper.height
        self._helper = helper
        self._next_index = self._dropped = 0
        self._newest_s = time.monotonic()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._helper is not None:
            self._helper.close()
            self._helper = None

    def read(self, timeout_s: float) -> Frame | None:
        if self._helper is None:
            raise SourceLost("is not open", where=self._label)
        now_s = time.monotonic()
        stalled_s = self._newest_s + self._stall_timeout_s
        deadline_s = min(now_s + timeout_s, stalled_s)
        while self._helper.count <= self._next_index and now_s < deadline_s:
            self._helper.wait_for_frame(deadline_s - now_s)
            now_s = time.monotonic()
        frame = self._helper.newest_frame() if self._helper.count > self._next_index else None
        if frame is not None:
            self._dropped += frame.index - self._next_index
            self._next_index = frame.index + 1
            self._newest_s = now_s
        elif now_s >= stalled_s and self._helper.count <= self._next_index:  # an overwritten frame is no stall
            raise SourceLost(f"no frame for {self._stall_timeout_s:g} s", where=self._label, remedy=_CHECK_CAMERA)
        return frame

    @property
    def dropped(self) -> int:
        return self._dropped


class _Helper:
    """The helper process with its pipes and shared memory; killed when closed."""

    def __init__(self, command: list[str], *, label: str) -> None:
        self._label = label
        self.width = self.height = 0
        self._resources = ExitStack()
        self._memory_fd = os.memfd_create("edge-csi")
        self._resources.callback(os.close, self._memory_fd)
        self._notify_fd, writing_fd = os.pipe()
        self._resources.callback(os.close, self._notify_fd)
        self._memory: mmap.mmap | None = None
        try:
            self._process = subprocess.Popen(  # noqa: S603 - a file of this package
                [*command, f"--memory={self._memory_fd}", f"--notify={writing_fd}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=(self._memory_fd, writing_fd),
                start_new_session=True,  # Ctrl-C must reach the agent only, which closes the camera
                env={"LIBCAMERA_LOG_LEVELS": "*:WARN", **os.environ},
            )
        except OSError as error:
            self._resources.close()
            raise SourceUnavailable(
                f"the camera helper does not start ({error.strerror})",
                where=command[0],
                remedy="Run `sudo apt install python3`",
            ) from error
        finally:
            os.close(writing_fd)
        self._resources.callback(self._kill)

    def wait_until_ready(self, timeout_s: float) -> None:
        """Reads the helper's first line and maps the shared memory.

        Raises:
            SourceUnavailable: The helper reports an error, exits, times out or sends an invalid line.
        """
        deadline_s = time.monotonic() + timeout_s
        received = b""
        while b"\n" not in received:
            if not self._readable(deadline_s - time.monotonic()):
                raise self._unavailable(f"did not start within {timeout_s:g} s")
            chunk = os.read(self._notify_fd, select.PIPE_BUF)
            if not chunk:
                raise self._unavailable(f"the camera helper {self._exit_reason()}")
            received += chunk
        try:
            self._map_memory(json.loads(received.split(b"\n")[0]))
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise self._unavailable(f"the camera helper sent an invalid reply ({error})") from error

    def wait_for_frame(self, timeout_s: float) -> None:
        """Waits up to `timeout_s` for a new frame.

        Raises:
            SourceLost: The helper has exited.
        """
        if self._readable(timeout_s) and not os.read(self._notify_fd, select.PIPE_BUF):
            raise SourceLost(f"the camera helper {self._exit_reason()}", where=self._label, remedy=_CHECK_CAMERA)

    @property
    def count(self) -> int:
        """Number of frames written by the helper."""
        return int(COUNT.unpack_from(self._mapped(), 0)[0])

    def newest_frame(self) -> Frame | None:
        """Returns a copy of the newest frame; None if it was overwritten while being copied."""
        memory, count, size = self._mapped(), self.count, self.width * self.height * 3
        index = count - 1
        slot = index % SLOTS
        (time_s,) = TIME.unpack_from(memory, COUNT.size + slot * TIME.size)
        image = np.frombuffer(memory, np.uint8, count=size, offset=HEADER_BYTES + slot * size).copy()
        # Frame index + SLOTS overwrites it, and is written once the count has reached that number.
        if self.count >= index + SLOTS:
            return None
        return Frame(image_bgr=image.reshape(self.height, self.width, 3), index=index, time_s=time_s, mono_s=time_s)

    def close(self) -> None:
        """Kills the process and releases all resources."""
        self._resources.close()

    def is_alive(self) -> bool:
        """Returns whether the process exists; after `close`, it then hangs in the kernel and cannot be killed."""
        return self._process.poll() is None

    def _map_memory(self, reply: dict[str, Any]) -> None:
        if "error" in reply:
            raise self._unavailable(str(reply["error"]))
        self.width, self.height = int(reply["width"]), int(reply["height"])
        if not (0 < self.width <= _MAX_SIDE_PX and 0 < self.height <= _MAX_SIDE_PX):
            raise ValueError(f"{self.width}x{self.height} pixels")
        self._memory = mmap.mmap(self._memory_fd, HEADER_BYTES + SLOTS * self.width * self.height * 3)
        self._resources.callback(self._memory.close)

    def _mapped(self) -> mmap.mmap:
        if self._memory is None:
            raise SourceLost("is not open", where=self._label)
        return self._memory

    def _readable(self, timeout_s: float) -> bool:
        return bool(select.select([self._notify_fd], [], [], max(0.0, timeout_s))[0])

    def _unavailable(self, what: str) -> SourceUnavailable:
        remedy = _INSTALL if "No module named" in what else _CHECK_CAMERA
        return SourceUnavailable(what, where=self._label, remedy=remedy)

    def _exit_reason(self) -> str:
        try:
            status = self._process.wait(_KILL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "closed its pipe"
        return f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"

    def _kill(self) -> None:
        self._process.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(_KILL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            log.warning("%s: process %d hangs in the kernel and cannot be killed", self._label, self._process.pid)
