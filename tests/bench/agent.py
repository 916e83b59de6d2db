"""Benchmark of the agent: CPU time per frame, peak memory, and time from start to the first event."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge.commands.embedded_broker import embedded_broker

_FPS = 25
_SHORT, _LONG = 50, 550
_WIDTH, _HEIGHT = 640, 360


@dataclass(frozen=True, slots=True)
class AgentCost:
    """Cost of one configuration of the agent on the test video.

    Attributes:
        cpu_ms_per_frame: User and system time, excluding startup.
        peak_rss_mb: Peak resident set size of the process.
        first_event_s: Wall time from the start of the process to the first message on the event topic.
    """

    cpu_ms_per_frame: float
    peak_rss_mb: float
    first_event_s: float


def render_video(photo: Path, folder: Path, frames: int) -> Path:
    """Writes a 640x360 video that pans slowly over a photograph with one face."""
    picture = np.asarray(cv2.imread(str(photo)))
    scale = _HEIGHT * 1.3 / picture.shape[0]
    picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    margin = cv2.copyMakeBorder(picture, 0, 0, _WIDTH // 2, _WIDTH // 2, cv2.BORDER_REPLICATE)
    path = folder / f"{frames}.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), _FPS, (_WIDTH, _HEIGHT))
    for index in range(frames):
        phase = 2 * np.pi * index / 200
        x = round((margin.shape[1] - _WIDTH) / 2 + 60 * np.sin(phase))
        y = round((margin.shape[0] - _HEIGHT) / 4 * (1 + np.cos(phase)))
        writer.write(margin[y : y + _HEIGHT, x : x + _WIDTH])
    writer.release()
    return path


def measure(photo: Path, folder: Path, *, detection_interval_s: float) -> AgentCost:
    """Runs the agent on a short and a long video; their difference is the cost of the frames."""
    short, _, _ = _run(render_video(photo, folder, _SHORT), folder, detection_interval_s)
    long, rss_mb, first_s = _run(render_video(photo, folder, _LONG), folder, detection_interval_s)
    return AgentCost((long - short) / (_LONG - _SHORT) * 1000, rss_mb, first_s)


def _run(video: Path, folder: Path, detection_interval_s: float) -> tuple[float, float, float]:
    """Returns CPU seconds, peak RSS in MB, and seconds to the first event."""
    with embedded_broker() as port:
        config = folder / "config.toml"
        config.write_text(
            f'[device]\nname = "bench"\nstate_dir = "{folder}/state"\n'
            f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\nhomeassistant = false\n'
            f"[detector]\ninterval_s = {detection_interval_s}\n"
            f'[[camera]]\nname = "film"\nsource = "{video}"\n'
        )
        received: list[float] = []
        with _EventSubscriber(port, received):
            started_s = time.monotonic()
            process = subprocess.Popen(
                [Path(sys.executable).with_name("edge"), "run", "--config", config],
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"},
            )
            _, status, usage = os.wait4(process.pid, 0)
            assert status == 0, "the agent failed"
            time.sleep(0.2)
    first_s = received[0] - started_s if received else float("nan")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000, first_s


class _EventSubscriber:
    """Records the arrival times of events."""

    def __init__(self, port: int, received: list[float]) -> None:
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.on_message = lambda *_: received.append(time.monotonic())
        self._client.connect("127.0.0.1", port)
        self._client.subscribe("emotion/+/+/event")

    def __enter__(self) -> None:
        self._client.loop_start()

    def __exit__(self, *exc_info: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()
