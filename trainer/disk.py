"""The disk under runs and bundles: files that are whole or not there, and what is told when one cannot be written."""

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

DAMAGE: Final = (OSError, EOFError, LookupError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What numpy and h5py raise for a file that is cut off, changed, or of other variables."""


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


def replaced(path: Path) -> AbstractContextManager[Path]:
    """Gives the block a path beside `path` to write a file to, which takes its place when all of it is on the disk.

    At any moment, also that of a power cut, `path` is the file of before or the whole new one. A block that fails
    changes nothing.

    Raises:
        OSError: It cannot be written.
    """
    return _written_beside(path, Path.replace)


def created(path: Path) -> AbstractContextManager[Path]:
    """The same of a file that must not be there yet.

    Raises:
        FileExistsError: It is there, and stays as it is.
        OSError: It cannot be written.
    """
    return _written_beside(path, _place)


@contextmanager
def _written_beside(path: Path, place: Callable[[Path, Path], object]) -> Iterator[Path]:
    fresh = path.with_name(f"partial.{os.getpid()}.{path.name}")  # the end of a name can tell libraries the format
    try:
        yield fresh
        flush(fresh)
        place(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
    flush(path.parent)


def _place(fresh: Path, path: Path) -> None:
    try:
        path.hardlink_to(fresh)  # which, unlike a renaming, takes no other file's place
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        fresh.replace(path)


def flush(path: Path) -> None:
    """Sees that a file, or the names in a folder, outlive a power cut.

    Raises:
        OSError: The disk did not take them.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
