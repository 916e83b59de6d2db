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

IMMEDIATE_EVENTS = """
[detector]
interval_s = 0

[tracking]
max_gap_s = 0.15

[smoothing]
min_dwell_s = 0

[adaptation]
enabled = false
"""
"""Settings with which every appearance and disappearance of a face is immediately an event."""

_SESSION_BASE = 4_000_000_000
"""A session number greater than the current Unix time, which is the minimum for a new session."""


def configure(folder: Path, *, bundle: Path, port: int, camera: str, more: str = "") -> Path:
    """Writes the device's configuration file and returns its path.

    Args:
        folder: Folder for the file `config.toml` and the state folder `state`.
        bundle: The model bundle.
        port: Port of the broker.
        camera: Keys of the camera, in TOML.
        more: Further tables, in TOML.
    """
    create_state(folder / "state")
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
    """Returns the number of the device's first, second, ... session, of a state folder made by `create_state`."""
    return _SESSION_BASE + start


def create_state(state_dir: Path) -> None:
    """Creates a state folder in which session numbers are consecutive rather than taken from the clock."""
    state_dir.mkdir(exist_ok=True)
    (state_dir / "state.json").write_text(json.dumps({"client_id": new_client_id(), "session": session(0)}))


def create_images(folder: Path, photograph: Path) -> Path:
    """Creates a folder with six images for a camera: three with a face, then three without."""
    images = folder / "images"
    images.mkdir()
    for number in range(3):
        shutil.copy(photograph, images / f"{number}.png")
        cv2.imwrite(str(images / f"{number + 3}.png"), np.full((512, 512, 3), 90, np.uint8))
    return images


@dataclass(frozen=True)
class ResourceUsage:
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
    def of(cls, pid: int) -> ResourceUsage:
        """Reads the resources of a process (Linux)."""
        process = Path("/proc") / str(pid)
        pages = int((process / "statm").read_text().split()[1])
        threads, files = (len(list((process / folder).iterdir())) for folder in ("task", "fd"))
        return cls(rss_mb=pages * os.sysconf("SC_PAGE_SIZE") / 1e6, threads=threads, files=files)
