"""Helpers for the state folder: permissions, a write test, and durable directory entries."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

from edge.errors import StateError

REMEDY: Final = "Make the state folder writable for the agent's user, and check that the disk is not full"

PRIVATE_FOLDER: Final = 0o700
PRIVATE_FILE: Final = 0o600
"""Modes of new folders and files: the client id lets others impersonate the device, and emotions are private."""

_TEST_BYTES: Final = 256 * 1024
"""More than the state file and the outbox need when they are opened."""


def require_writable(folder: Path) -> None:
    """Checks that an agent can be opened with a state folder, by writing a temporary file.

    Args:
        folder: The state folder; created if missing.

    Raises:
        StateError: The folder is not writable, or the disk is full.
    """
    try:
        folder.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_TEST_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StateError(f"is not writable ({error.strerror})", where=folder, remedy=REMEDY) from error


def flush_folder(folder: Path) -> None:
    """Flushes the entries of a folder to disk, so that created and renamed files survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
