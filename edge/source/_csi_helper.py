"""Runs outside the agent, under the system's Python: takes pictures with picamera2 and lays them into shared memory.

picamera2 comes from the distribution, is built against its Python and numpy, and can hang. So it lives in a process of
its own that can be killed. This file uses nothing but the standard library and picamera2, and `edge.source.csi` starts
it with

    --memory FD    the shared memory, empty: the file is cut to size here
    --notify FD    the writing end of a pipe
    standard input a pipe from the agent, which ends when the agent does

The first line of the pipe is JSON: {"width": 640, "height": 480}, or {"error": "..."} and the helper ends. After that
each byte says that there is a newer frame. The memory is a header and then SLOTS pictures in turn, uint8 (H, W, 3) BGR:

    u64        how many frames were written; frame n, counted from 0, lies in slot n % SLOTS
    f64 each   for every slot: the monotonic clock at its capture
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
    """Take pictures until the agent ends this process or itself."""
    arguments = _parse_arguments()
    threading.Thread(target=_end_with_agent, daemon=True).start()
    try:
        camera, width, height = _start_camera(arguments)
    except Exception as error:  # noqa: BLE001 - whatever libcamera throws goes to the agent, which shows it
        _say(arguments.notify, {"error": f"{type(error).__name__}: {error}"})
        sys.exit(1)
    os.ftruncate(arguments.memory, HEADER_BYTES + SLOTS * width * height * 3)
    memory = mmap.mmap(arguments.memory, 0)
    _say(arguments.notify, {"width": width, "height": height})
    os.set_blocking(arguments.notify, False)
    _take_pictures(camera, memory, arguments.notify, (height, width, 3))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camera", type=int, required=True)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--height", type=int, required=True)
    parser.add_argument("--fps", type=float)
    parser.add_argument("--memory", type=int, required=True)
    parser.add_argument("--notify", type=int, required=True)
    return parser.parse_args()


def _end_with_agent() -> None:
    os.read(sys.stdin.fileno(), 1)
    os._exit(0)  # the main thread may hang in the driver


def _start_camera(arguments: argparse.Namespace) -> tuple[Any, int, int]:
    # Imported here, so that its absence is told like any other fault.
    camera = importlib.import_module("picamera2").Picamera2(arguments.camera)
    controls = {}
    if arguments.fps is not None:
        frame_us = round(1e6 / arguments.fps)
        controls["FrameDurationLimits"] = (frame_us, frame_us)
    # What libcamera names RGB888 lies as blue, green, red in memory.
    main_stream = {"size": (arguments.width, arguments.height), "format": "RGB888"}
    camera.configure(camera.create_video_configuration(main=main_stream, controls=controls))
    width, height = camera.camera_configuration()["main"]["size"]
    camera.start()
    return camera, width, height


def _take_pictures(camera: Any, memory: mmap.mmap, notify: int, shape: tuple[int, int, int]) -> None:
    picture_bytes = shape[0] * shape[1] * shape[2]
    count = 0
    while True:
        picture = memoryview(camera.capture_array("main"))
        time_s = time.monotonic()
        if picture.shape != shape or picture.format != "B":
            continue  # garbage; if nothing else comes, the agent takes it for a stall
        slot = count % SLOTS
        start = HEADER_BYTES + slot * picture_bytes
        # picamera2 has cut padded rows to their width already; were they not, they could not be written in one piece.
        memory[start : start + picture_bytes] = picture if picture.c_contiguous else picture.tobytes()
        TIME.pack_into(memory, COUNT.size + slot * TIME.size, time_s)
        count += 1
        COUNT.pack_into(memory, 0, count)
        with contextlib.suppress(BlockingIOError):  # the agent is slow, and has been told of it often enough
            os.write(notify, b".")


def _say(notify: int, message: dict[str, Any]) -> None:
    os.write(notify, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main()
