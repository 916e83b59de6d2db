"""The disk under the state folder: whether it takes anything, who may read it, and names that outlive a power cut."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

from edge.errors import StateError

REMEDY: Final = "Make the state folder writable for the agent's user and see that the disk is not full"

PRIVATE_FOLDER: Final = 0o700
PRIVATE_FILE: Final = 0o600
"""Modes of what is made: with the client id another can take the device's place, and emotions are nobody's business."""

_ROOM_BYTES: Final = 256 * 1024
"""More than the memory and the outbox need when they are opened."""


def require_room(folder: Path) -> None:
    """Tries whether an agent could be opened with this state folder.

    Args:
        folder: It is made if it is not there.

    Raises:
        StateError: It cannot be written, or the disk is full.
    """
    try:
        folder.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_ROOM_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StateError(f"nothing can be written there ({error.strerror})", where=folder, remedy=REMEDY) from error


def flush_folder(folder: Path) -> None:
    """Sees that the names in it outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
