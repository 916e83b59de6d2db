"""Atomic writes and file locks."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from trainer.disk import atomic_create, atomic_replace, lock

Write = Callable[[Path], AbstractContextManager[Path]]


def test_a_file_is_replaced_once_it_is_complete(tmp_path: Path) -> None:
    """Meanwhile, readers see the old file; afterwards, no temporary file is left."""
    path = tmp_path / "arrays.npz"
    path.write_text("before")
    with atomic_replace(path) as fresh:
        fresh.write_text("after")
        assert path.read_text() == "before"
        assert fresh.suffix == ".npz"  # else numpy would append it
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("arrays.npz", "after")]


@pytest.mark.parametrize("write", [atomic_replace, atomic_create])
def test_a_failed_write_leaves_nothing(write: Write, tmp_path: Path) -> None:
    """Neither a partial file nor a temporary one."""

    def fail(fresh: Path) -> None:
        fresh.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"), write(tmp_path / "config.json") as fresh:
        fail(fresh)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("links", [True, False])
def test_of_two_files_the_first_stays(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However close they are; also on memory cards with a file system without hard links."""
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    path = tmp_path / "config.json"
    with atomic_create(path) as fresh:
        fresh.write_text("first")
    with pytest.raises(FileExistsError), atomic_create(path) as fresh:
        fresh.write_text("second")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("config.json", "first")]


def refuse(path: Path, target: Path) -> None:
    """Fails like a hard link on FAT."""
    raise PermissionError(errno.EPERM, "Operation not permitted", str(path), None, str(target))


def test_a_file_is_locked_until_it_is_closed(tmp_path: Path) -> None:
    """Meanwhile, a second lock fails; the content of the file is left alone."""
    path = tmp_path / "lock"
    path.write_text("mine")
    first = lock(path)
    assert first is not None
    assert lock(path) is None
    first.close()
    again = lock(path)
    assert again is not None
    again.close()
    assert path.read_text() == "mine"
