"""A stub of the agent for testing the systemd unit: notifies systemd like the agent, and fails on demand.

It has the agent's command line. Its configuration is a TOML table: `exit_code` makes it exit with that code at once,
`infer` is a .tflite file to run once before it reports readiness. SIGUSR1 makes it hang.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import tomllib
from pathlib import Path
from types import FrameType

from edge import notify


class Stopped(Exception):
    """SIGTERM was received."""


def stop(_signal: int, _frame: FrameType | None) -> None:
    """SIGTERM: raises an exception in the main loop."""
    raise Stopped


def reload(_signal: int, _frame: FrameType | None) -> None:
    """SIGHUP: sends both notifications of a reload."""
    notify.reloading()
    notify.ready("reloaded")


def hang(_signal: int, _frame: FrameType | None) -> None:
    """SIGUSR1: hangs like a camera driver that never returns."""
    while True:
        time.sleep(60)


def infer(model: str) -> None:
    """Runs the model on zeros with the same libraries as the agent."""
    import cv2
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=model, num_threads=2)
    interpreter.allocate_tensors()
    [model_input] = interpreter.get_input_details()
    image = cv2.resize(np.zeros((9, 9, 3), np.uint8), tuple(model_input["shape"][1:3])) @ np.eye(3)
    interpreter.set_tensor(model_input["index"], image[None].astype(model_input["dtype"]))
    interpreter.invoke()
    sys.stderr.write("inference works\n")


def main() -> int:
    """Runs like `edge run --config FILE`."""
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, reload)
    signal.signal(signal.SIGUSR1, hang)
    config = tomllib.loads(Path(sys.argv[3]).read_text(encoding="utf-8"))
    if "exit_code" in config:
        return int(config["exit_code"])
    if "infer" in config:
        infer(config["infer"])
    state = Path(os.environ["STATE_DIRECTORY"]) / "starts"
    starts = int(state.read_text()) + 1 if state.exists() else 1
    state.write_text(str(starts))
    try:
        notify.ready(f"start {starts}")
        while True:
            notify.ping_watchdog()
            time.sleep(notify.watchdog_interval_s() or 1)
    except Stopped:
        notify.stopping("SIGTERM")
        sys.stderr.write("stopped cleanly\n")
        return 0


if __name__ == "__main__":
    sys.exit(main())
