"""The device `hall` of the end-to-end tests, with a camera `door`."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edge.client_id import new_client_id

RESTLESS = """
[detector]
interval_s = 0

[tracking]
max_gap_s = 0.15

[smoothing]
min_dwell_s = 0

[adaptation]
enabled = false
"""
"""Settings with which every appearance and disappearance of a face is an event."""

_AHEAD_OF_THE_CLOCK = 4_000_000_000


def configure(folder: Path, *, bundle: Path, port: int, camera: str, more: str = "") -> Path:
    """Writes the device's configuration.

    Args:
        folder: Folder for the file `config.toml` and the state folder `state`.
        bundle: The model bundle.
        port: Port of the broker.
        camera: Keys of the camera, in TOML.
        more: Further tables, in TOML.
    """
    count_sessions(folder / "state")
    path = folder / "config.toml"
    path.write_text(f"""
[device]
name = "hall"
state_dir = "state"

[model]
path = "{bundle}"

[mqtt]
port = {port}

[[camera]]
name = "door"
{camera}
{more}
""")
    return path


def session(start: int) -> int:
    """Returns the number of the device's first, second, ... session, after `count_sessions`."""
    return _AHEAD_OF_THE_CLOCK + start


def count_sessions(state_dir: Path) -> None:
    """Creates a state folder with which sessions are numbered consecutively rather than by the time."""
    state_dir.mkdir(exist_ok=True)
    (state_dir / "state.json").write_text(json.dumps({"client_id": new_client_id(), "session": session(0)}))


def visitors(folder: Path, photograph: Path) -> Path:
    """Creates a folder of six images: three with a face, then three without."""
    pictures = folder / "visitors"
    pictures.mkdir()
    for number in range(3):
        shutil.copy(photograph, pictures / f"{number}.png")
        cv2.imwrite(str(pictures / f"{number + 3}.png"), np.full((512, 512, 3), 90, np.uint8))
    return pictures


@dataclass(frozen=True)
class Vitals:
    """The resources used by a process.

    Attributes:
        rss_mb: Resident memory in MB (10^6 bytes).
        threads: Number of threads.
        files: Number of open file descriptors.
    """

    rss_mb: float
    threads: int
    files: int

    @classmethod
    def of(cls, pid: int) -> Vitals:
        """Reads the resources of a process (Linux)."""
        process = Path("/proc") / str(pid)
        pages = int((process / "statm").read_text().split()[1])
        threads, files = (len(list((process / folder).iterdir())) for folder in ("task", "fd"))
        return cls(rss_mb=pages * os.sysconf("SC_PAGE_SIZE") / 1e6, threads=threads, files=files)
