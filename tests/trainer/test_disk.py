"""Files that are whole or not there."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from trainer.disk import created, lock, replaced

Write = Callable[[Path], AbstractContextManager[Path]]


def test_a_file_is_replaced_when_all_of_it_is_written(tmp_path: Path) -> None:
    """Who looks meanwhile sees the one of before; afterwards nothing else is left."""
    path = tmp_path / "answers.npz"
    path.write_text("before")
    with replaced(path) as fresh:
        fresh.write_text("after")
        assert path.read_text() == "before"
        assert fresh.suffix == ".npz"  # or numpy would add that
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("answers.npz", "after")]


@pytest.mark.parametrize("write", [replaced, created])
def test_a_writing_that_fails_leaves_nothing(write: Write, tmp_path: Path) -> None:
    """No half file, and none under another name."""

    def fail(fresh: Path) -> None:
        fresh.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"), write(tmp_path / "config.json") as fresh:
        fail(fresh)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("links", [True, False])
def test_of_two_files_the_first_stays(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However close they are; also on a memory card, whose file system knows no links."""
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    path = tmp_path / "config.json"
    with created(path) as fresh:
        fresh.write_text("first")
    with pytest.raises(FileExistsError), created(path) as fresh:
        fresh.write_text("second")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("config.json", "first")]


def refuse(path: Path, target: Path) -> None:
    """What FAT says of a link."""
    raise PermissionError(errno.EPERM, "Operation not permitted", str(path), None, str(target))


def test_a_file_belongs_to_one_process_until_it_is_let_go(tmp_path: Path) -> None:
    """The second is told, and the next may have it; what it holds stays."""
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
