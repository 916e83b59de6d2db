"""The disk under runs and bundles: who may write a file, and what is told when it cannot be written."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from edge.contract import UserError


def lock(path: Path) -> IO[bytes] | None:
    """Claims a file for this process, until what is returned is closed or the process ends; None if another has it.

    The file is made where there is none, and its content is left alone.

    Raises:
        OSError: The file cannot be opened.
    """
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Tells of a full disk, or of what else keeps the block from writing, where and what to do.

    Raises:
        UserError: Something cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot be written ({error.strerror or error})", where=place,
            remedy="Make room there and repeat the command, with --resume where the run has begun",
        ) from error  # fmt: skip
