"""Helper process for CSI cameras: captures frames with picamera2 into shared memory, under the system's Python.

picamera2 is a distribution package, built for the distribution's Python and numpy, and can hang. It therefore runs in a
separate process that can be killed. This file imports only the standard library and picamera2. `edge.source.csi` starts
it with

    --memory FD    the shared memory, empty; resized here
    --notify FD    the write end of a pipe
    standard input a pipe that is closed when the agent ends

The first line on the pipe is JSON: {"width": 640, "height": 480}, or {"error": "..."}, after which the helper exits.
Every further byte announces a new frame. The memory contains a header and a ring of SLOTS frames, uint8 (H, W, 3) BGR:

    u64        number of frames written; frame n, counted from 0, is in slot n % SLOTS
    f64 each   for every slot: the monotonic time of its capture
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import mmap
import os
import struct
import sys
import threading
import time
from typing import Any

SLOTS = 3
COUNT = struct.Struct("<Q")
TIME = struct.Struct("<d")
HEADER_BYTES = COUNT.size + SLOTS * TIME.size


def main() -> None:
    """Captures frames until the agent kills this process or ends."""
    arguments = _parse_arguments()
    threading.Thread(target=_exit_with_agent, daemon=True).start()
    try:
        camera, width, height = _start_camera(arguments)
    except Exception as error:  # noqa: BLE001 - whatever libcamera raises is reported to the agent
        _send(arguments.notify, {"error": f"{type(error).__name__}: {error}"})
        sys.exit(1)
    os.ftruncate(arguments.memory, HEADER_BYTES + SLOTS * width * height * 3)
    memory = mmap.mmap(arguments.memory, 0)
    _send(arguments.notify, {"width": width, "height": height})
    os.set_blocking(arguments.notify, False)
    _capture_frames(camera, memory, arguments.notify, (height, width, 3))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camera", type=int, required=True)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--height", type=int, required=True)
    parser.add_argument("--fps", type=float)
    parser.add_argument("--memory", type=int, required=True)
    parser.add_argument("--notify", type=int, required=True)
    return parser.parse_args()


def _exit_with_agent() -> None:
    os.read(sys.stdin.fileno(), 1)
    os._exit(0)  # the main thread may be hung in the driver


def _start_camera(arguments: argparse.Namespace) -> tuple[Any, int, int]:
    # Imported here, so that a missing package is reported like any other error.
    camera = importlib.import_module("picamera2").Picamera2(arguments.camera)
    controls = {}
    if arguments.fps is not None:
        frame_us = round(1e6 / arguments.fps)
        controls["FrameDurationLimits"] = (frame_us, frame_us)
    # The format that libcamera calls RGB888 is in BGR order in memory.
    main_stream = {"size": (arguments.width, arguments.height), "format": "RGB888"}
    camera.configure(camera.create_video_configuration(main=main_stream, controls=controls))
    width, height = camera.camera_configuration()["main"]["size"]
    camera.start()
    return camera, width, height


def _capture_frames(camera: Any, memory: mmap.mmap, notify: int, shape: tuple[int, int, int]) -> None:
    frame_bytes = shape[0] * shape[1] * shape[2]
    count = 0
    while True:
        frame = memoryview(camera.capture_array("main"))
        time_s = time.monotonic()
        if frame.shape != shape or frame.format != "B":
            continue  # invalid; if no valid frame follows, the agent detects a stall
        slot = count % SLOTS
        start = HEADER_BYTES + slot * frame_bytes
        # picamera2 strips row padding, but the result need not be contiguous.
        memory[start : start + frame_bytes] = frame if frame.c_contiguous else frame.tobytes()
        TIME.pack_into(memory, COUNT.size + slot * TIME.size, time_s)
        count += 1
        COUNT.pack_into(memory, 0, count)
        with contextlib.suppress(BlockingIOError):  # the pipe is full of unread notifications already
            os.write(notify, b".")


def _send(notify: int, message: dict[str, Any]) -> None:
    os.write(notify, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main()
