"""`trainer keygen` and `trainer sign`."""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path

import pytest

from edge.contract.signature import verify_signature
from trainer.cli import main


@pytest.fixture
def bundle(tmp_path: Path, bundle_path: Path) -> Path:
    """A bundle to sign."""
    return shutil.copytree(bundle_path, tmp_path / "ferplus")


def test_a_signed_bundle_is_verified_with_the_public_key(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The public key printed by `keygen` is valid in a device's configuration and verifies the output of `sign`."""
    key = tmp_path / "fleet.key"
    assert main(["keygen", str(key)]) == 0
    assert key.stat().st_mode & 0o077 == 0, "others could read the private key"
    found = re.search(r'^public_keys = \["(\S+)"\]$', capsys.readouterr().out, re.MULTILINE)
    assert found is not None
    assert main(["sign", str(bundle), "--key", str(key)]) == 0
    assert found[1] in capsys.readouterr().out
    manifest, signature = ((bundle / name).read_bytes() for name in ("manifest.json", "manifest.json.sig"))
    verify_signature(manifest, signature, [found[1]], where=bundle)


def test_a_key_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Devices that trust a lost key could not be updated."""
    key = tmp_path / "fleet.key"
    key.write_text("precious")
    assert main(["keygen", str(key)]) == 1
    assert key.read_text() == "precious"
    assert "fleet.key: already exists. Choose another file" in capsys.readouterr().err


def test_a_key_that_cannot_be_written_is_a_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The error names the path and a remedy."""
    assert main(["keygen", str(tmp_path / "nowhere" / "fleet.key")]) == 1
    message = "fleet.key: cannot be written (No such file or directory). Choose a file in a writable folder."
    assert message in capsys.readouterr().err


def test_a_full_disk_leaves_no_key(small_disk: Path) -> None:
    """An empty file would block the next attempt, and look like a key."""
    with contextlib.suppress(OSError):
        (small_disk / "all").write_bytes(bytes(3 * 2**20))
    assert main(["keygen", str(small_disk / "fleet.key")]) == 1
    assert not (small_disk / "fleet.key").exists()


def test_invalid_bundles_and_keys_are_a_clear_error(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A damaged bundle is not signed; an invalid key file is named in the error."""
    key, other = tmp_path / "fleet.key", tmp_path / "other"
    main(["keygen", str(key)])
    other.write_text("-----BEGIN PRIVATE KEY-----")
    assert main(["sign", str(bundle), "--key", str(tmp_path / "nowhere")]) == 1
    assert "nowhere: the key cannot be read (No such file or directory). Generate a key pair" in capsys.readouterr().err
    assert main(["sign", str(bundle), "--key", str(other)]) == 1
    assert "other: is not a private key. Give the file written by trainer keygen." in capsys.readouterr().err
    model = next(bundle.glob("*.tflite"))
    model.write_bytes(model.read_bytes()[:-1])
    assert main(["sign", str(bundle), "--key", str(key)]) == 4
    assert "Copy the bundle from its source again" in capsys.readouterr().err
    assert not (bundle / "manifest.json.sig").exists()


def test_a_signature_that_cannot_be_written_is_a_clear_error(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names the path and a remedy."""
    main(["keygen", str(tmp_path / "fleet.key")])
    (bundle / "manifest.json.sig").mkdir()
    assert main(["sign", str(bundle), "--key", str(tmp_path / "fleet.key")]) == 1
    assert "manifest.json.sig: the signature cannot be written (Is a directory). Copy the" in capsys.readouterr().err
