"""Raspberry Pi cameras on the flat cable: picamera2 in a process of its own, which is killed when it hangs.

`_csi_helper.py` beside this file is that process and explains the memory that both share.
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
_CHECK_CAMERA = "Check the flat cable, and that `rpicam-hello --list-cameras` shows the camera"
_INSTALL = "Run `sudo apt install python3-picamera2`"


class CsiSource:
    """A Raspberry Pi camera through picamera2.

    Args:
        camera: Its number in `rpicam-hello --list-cameras`.
        width: Pixels to ask for; the camera may settle for others.
        height: The same.
        fps: Frames a second to ask for; without it the camera decides.
        python: The interpreter that the distribution's picamera2 belongs to.
        open_timeout_s: After this time an attempt to open it is given up.
        stall_timeout_s: After this time without a frame it is lost.
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
        # -P keeps the modules beside the helper from hiding those that picamera2 imports.
        self._command = [str(python), "-P", str(_HELPER)]
        self._command += [f"--camera={camera}", f"--width={width}", f"--height={height}"]
        if fps is not None:
            self._command.append(f"--fps={fps:g}")
        self._open_timeout_s = open_timeout_s
        self._stall_timeout_s = stall_timeout_s
        self._helper: _Helper | None = None
        self._last_helper: _Helper | None = None
        self._size = (0, 0)
        self._taken = 0
        self._dropped = 0
        self._newest_s = 0.0

    def __enter__(self) -> Self:
        if self._last_helper is not None and self._last_helper.is_alive():  # a second one would only hang beside it
            raise DriverHangs(where=self._label, remedy=_CHECK_CAMERA)
        helper = self._last_helper = _Helper(self._command, label=self._label)
        try:
            helper.wait_until_ready(self._open_timeout_s)
        except BaseException:
            helper.close()
            raise
        if (helper.width, helper.height) != self._size:  # no news at every attempt with one that gives no frames
            log.info("%s is open: %dx%d", self._label, helper.width, helper.height)
            self._size = helper.width, helper.height
        self._helper = helper
        self._taken = self._dropped = 0
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
        while self._helper.count <= self._taken and now_s < deadline_s:
            self._helper.wait_for_news(deadline_s - now_s)
            now_s = time.monotonic()
        frame = self._helper.newest_frame() if self._helper.count > self._taken else None
        if frame is not None:
            self._dropped += frame.index - self._taken
            self._taken = frame.index + 1
            self._newest_s = now_s
        elif now_s >= stalled_s and self._helper.count <= self._taken:  # not one that was written over meanwhile
            raise SourceLost(f"gave no frame for {self._stall_timeout_s:g} s", where=self._label, remedy=_CHECK_CAMERA)
        return frame

    @property
    def dropped(self) -> int:
        return self._dropped


class _Helper:
    """The helper process with its pipes and the memory that it shares; killed when closed."""

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
            self._process = subprocess.Popen(  # noqa: S603 - this package's own file
                [*command, f"--memory={self._memory_fd}", f"--notify={writing_fd}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=(self._memory_fd, writing_fd),
                start_new_session=True,  # Ctrl-C is for the agent alone, which closes its camera
                env={"LIBCAMERA_LOG_LEVELS": "*:WARN", **os.environ},
            )
        except OSError as error:
            self._resources.close()
            raise SourceUnavailable(
                f"its helper does not start ({error.strerror})",
                where=command[0],
                remedy="Run `sudo apt install python3`",
            ) from error
        finally:
            os.close(writing_fd)
        self._resources.callback(self._kill)

    def wait_until_ready(self, timeout_s: float) -> None:
        """Take the helper's first line and map the memory.

        Raises:
            SourceUnavailable: It reports a fault, ends, is silent or talks nonsense.
        """
        deadline_s = time.monotonic() + timeout_s
        received = b""
        while b"\n" not in received:
            if not self._readable(deadline_s - time.monotonic()):
                raise self._unavailable(f"did not start within {timeout_s:g} s")
            chunk = os.read(self._notify_fd, select.PIPE_BUF)
            if not chunk:
                raise self._unavailable(f"its helper {self._ending()}")
            received += chunk
        try:
            self._accept(json.loads(received.split(b"\n")[0]))
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise self._unavailable(f"its helper answers nonsense ({error})") from error

    def wait_for_news(self, timeout_s: float) -> None:
        """Return when the helper says that there is a newer frame, or after `timeout_s`.

        Raises:
            SourceLost: The helper has ended.
        """
        if self._readable(timeout_s) and not os.read(self._notify_fd, select.PIPE_BUF):
            raise SourceLost(f"its helper {self._ending()}", where=self._label, remedy=_CHECK_CAMERA)

    @property
    def count(self) -> int:
        """How many frames the helper has written."""
        return int(COUNT.unpack_from(self._mapped(), 0)[0])

    def newest_frame(self) -> Frame | None:
        """A copy of the newest frame; None if it was overwritten meanwhile."""
        memory, count, size = self._mapped(), self.count, self.width * self.height * 3
        index = count - 1
        slot = index % SLOTS
        (time_s,) = TIME.unpack_from(memory, COUNT.size + slot * TIME.size)
        image = np.frombuffer(memory, np.uint8, count=size, offset=HEADER_BYTES + slot * size).copy()
        # The helper overwrites it with frame index + SLOTS, which it begins once it has counted that many.
        if self.count >= index + SLOTS:
            return None
        return Frame(image_bgr=image.reshape(self.height, self.width, 3), index=index, time_s=time_s, mono_s=time_s)

    def close(self) -> None:
        """Kill the process and give everything back."""
        self._resources.close()

    def is_alive(self) -> bool:
        """Whether the process runs; after `close`, whether it hangs in the kernel, where no signal reaches it."""
        return self._process.poll() is None

    def _accept(self, answer: dict[str, Any]) -> None:
        if "error" in answer:
            raise self._unavailable(str(answer["error"]))
        self.width, self.height = int(answer["width"]), int(answer["height"])
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

    def _ending(self) -> str:
        try:
            status = self._process.wait(_KILL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "has closed its pipe"
        return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"

    def _kill(self) -> None:
        self._process.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(_KILL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            log.warning("%s: process %d hangs in the kernel and cannot be killed", self._label, self._process.pid)
