"""The folder of a bundle is replaced atomically, and other folders never."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge.contract import UserError, load_bundle
from trainer.bundle import require_replaceable, write_bundle


@pytest.fixture
def bundle(tmp_path: Path, bundle_path: Path) -> Path:
    """A bundle to be replaced."""
    return shutil.copytree(bundle_path, tmp_path / "models" / "mine")


def fresh_files(bundle: Path) -> dict[str, bytes]:
    """Files of the new bundle."""
    return {file.name: file.read_bytes() for file in bundle.iterdir()} | {"MODEL_CARD.md": b"new"}


def test_bundles_and_empty_folders_can_be_replaced(tmp_path: Path, bundle: Path) -> None:
    """A bundle, signed or not, a new and an empty folder can be written to."""
    require_replaceable(bundle)
    (bundle / "manifest.json.sig").write_text("signed")
    require_replaceable(bundle)
    require_replaceable(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    require_replaceable(tmp_path / "empty")


@pytest.mark.parametrize("manifest", [None, '{"name": "my web app"}', ""])
def test_other_folders_are_not_replaced(manifest: str | None, tmp_path: Path) -> None:
    """Folders with another manifest.json, such as of web apps, are not replaced."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_text("dear")
    if manifest is not None:
        (tmp_path / "photos" / "manifest.json").write_text(manifest)
    with pytest.raises(UserError, match=r"photos: already exists and is not a readable bundle\. Choose a new folder"):
        require_replaceable(tmp_path / "photos")
    with pytest.raises(UserError, match=r"me\.jpg: already exists and is not a readable bundle"):
        require_replaceable(tmp_path / "photos" / "me.jpg")


@pytest.mark.parametrize("other", ["notes.txt", "photos/me.jpg", "report.json/me.jpg"])
def test_a_bundle_with_other_files_is_not_replaced(other: str, bundle: Path) -> None:
    """The error names the file and a remedy."""
    shutil.rmtree(bundle / "report.json", ignore_errors=True)
    (bundle / "report.json").unlink(missing_ok=True)
    (bundle / other).parent.mkdir(exist_ok=True)
    (bundle / other).write_text("dear")
    name = other.partition("/")[0]
    with pytest.raises(UserError, match=rf"mine: contains {name}, which is not .* bundle .*\. Move it elsewhere"):
        require_replaceable(bundle)


def test_a_bundle_is_replaced_completely(bundle: Path) -> None:
    """Neither old files nor the staging folder remain."""
    fresh = fresh_files(bundle)
    (bundle / "manifest.json.sig").write_text("signed")
    write_bundle(bundle, fresh)
    assert {file.name: file.read_bytes() for file in bundle.iterdir()} == fresh
    assert list(bundle.parent.iterdir()) == [bundle]


def test_a_link_to_a_bundle_is_kept(tmp_path: Path, bundle: Path) -> None:
    """The target of a symbolic link is replaced."""
    link = tmp_path / "current"
    link.symlink_to(bundle)
    write_bundle(link, fresh_files(bundle))
    assert link.readlink() == bundle
    assert (bundle / "MODEL_CARD.md").read_text() == "new"
    assert sorted(tmp_path.iterdir()) == [link, bundle.parent]


def test_a_failed_write_changes_nothing(bundle: Path) -> None:
    """An error, such as a full disk, leaves the old bundle."""
    before = (bundle / "MODEL_CARD.md").read_bytes()
    with pytest.raises(OSError, match="nowhere"):
        write_bundle(bundle, {**fresh_files(bundle), "nowhere/card.md": b""})
    assert (bundle / "MODEL_CARD.md").read_bytes() == before
    assert list(bundle.parent.iterdir()) == [bundle]


KILLED = """
import os, signal, sys
from pathlib import Path
from trainer.bundle import write_bundle

rename, renamed = Path.rename, []

def rename_or_die(path, target):
    if len(renamed) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    renamed.append(target)
    return rename(path, target)

Path.rename = rename_or_die
write_bundle(Path(sys.argv[1]), {"MODEL_CARD.md": b"new"})
"""


@pytest.mark.parametrize("renamings", [0, 1])
def test_the_old_bundle_is_restored_after_a_killed_export(renamings: int, bundle: Path) -> None:
    """The next export first restores the old bundle, even if it fails afterwards."""
    command = [sys.executable, "-c", KILLED, str(bundle), str(renamings)]
    assert subprocess.run(command, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}).returncode == -signal.SIGKILL
    assert bundle.exists() == (renamings == 0)
    require_replaceable(bundle)
    load_bundle(bundle)
    assert list(bundle.parent.iterdir()) == [bundle]
