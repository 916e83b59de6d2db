"""File access for runs and bundles: atomic writes, file locks, and write errors that tell the user what to do."""

from __future__ import annotations

import errno
import fcntl
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Final

from edge.contract import UserError

CORRUPT_FILE_ERRORS: Final = (
    OSError, EOFError, LookupError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What numpy and h5py raise for a file that is truncated, corrupt, or holds other variables."""


def lock(path: Path) -> IO[bytes] | None:
    """Locks a file exclusively (flock), creating it if missing; its content is left alone.

    Returns:
        The open file, which holds the lock until it is closed or the process ends; None if another process has it.

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
def reporting_write_errors(path: Path) -> Iterator[None]:
    """Turns an OSError inside the block, such as a full disk, into a `UserError` that names `path` and the way out.

    Raises:
        UserError: Something cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot be written ({error.strerror or error})", where=path,
            remedy="Free some space there and repeat the command, with --resume if the run has started",
        ) from error  # fmt: skip


def atomic_replace(path: Path) -> AbstractContextManager[Path]:
    """Yields a temporary path beside `path`; once the block has written it, it is fsynced and renamed to `path`.

    At any moment, even after a power cut, `path` is either the old file or the complete new one. If the block fails,
    nothing changes.

    Raises:
        OSError: The file cannot be written.
    """
    return _written_beside(path, Path.replace)


def atomic_create(path: Path) -> AbstractContextManager[Path]:
    """Like `atomic_replace`, for a file that must not exist yet.

    Raises:
        FileExistsError: It exists, and stays as it is.
        OSError: The file cannot be written.
    """
    return _written_beside(path, _move_to_free_path)


@contextmanager
def _written_beside(path: Path, move: Callable[[Path, Path], object]) -> Iterator[Path]:
    temporary = path.with_name(f"partial.{os.getpid()}.{path.name}")  # same suffix: some libraries go by it
    try:
        yield temporary
        fsync(temporary)
        move(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync(path.parent)


def _move_to_free_path(temporary: Path, path: Path) -> None:
    try:
        path.hardlink_to(temporary)  # unlike a rename, never replaces an existing file
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        temporary.replace(path)


def fsync(path: Path) -> None:
    """Flushes a file, or a folder's entries, to the disk, so that they survive a power cut.

    Raises:
        OSError: The disk reported an error.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
