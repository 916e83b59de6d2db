"""The installer on a machine that it may change: what it refuses, and (on request) a whole installation."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.e2e.nspawn import Machine, why_not
from tests.e2e.service import CONFIG, PROJECT, STATE, UNIT

CHECKOUT = "/srv/checkout"
INSTALLER = f"{CHECKOUT}/deploy/install.sh"
BOARD = "/sys/firmware/devicetree/base/model"
DOWNLOAD_S = 800
"""How long an installation may take."""
INSTALLED_MB = 360
"""What it may take on the disk: README.md says 350 MB."""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A booted machine with this checkout and nothing of it installed."""
    if reason := why_not():
        pytest.skip(reason)
    with Machine(folder=tmp_path_factory.mktemp("machine"), binds={CHECKOUT: PROJECT}) as machine:
        yield machine


def test_it_asks_for_root(bare: Machine) -> None:
    """Without root's rights, the installer says how to get them."""
    answer = bare.run("setpriv", "--reuid=65534", "--clear-groups", INSTALLER, check=False)
    assert "Run it with sudo" in answer


def test_it_refuses_a_32_bit_system(bare: Machine) -> None:
    """On a 32-bit Raspberry Pi OS, the installer says what to do before it changes anything."""
    bare.write("/srv/pi32/dpkg", "#!/bin/sh\necho armhf\n", mode=0o755)
    answer = bare.run("sh", "-c", f"PATH=/srv/pi32:$PATH {INSTALLER}; echo exit $?")
    assert "32-bit system (armhf)" in answer
    assert "Raspberry Pi OS (64-bit)" in answer
    assert "exit 1" in answer
    assert not (bare.root / "opt/emotion-edge").exists()


def test_it_refuses_an_old_release(bare: Machine) -> None:
    """On Debian 11, whose Python is too old, the installer names the release that is needed."""
    release = (bare.root / "usr/lib/os-release").read_text(encoding="utf-8")
    bare.write("/usr/lib/os-release", 'ID=debian\nVERSION_ID="11"\n')
    answer = bare.run(INSTALLER, check=False)
    bare.write("/usr/lib/os-release", release)
    assert "12 (Bookworm) or newer" in answer


@pytest.mark.timeout(1800)
@pytest.mark.skipif(not os.environ.get("TEST_INSTALL"), reason="downloads 100 MB: set TEST_INSTALL=1 to run it")
def test_install_upgrade_uninstall(bare: Machine) -> None:
    """Installed, the service runs; a second run keeps the configuration; removed, it leaves only what it said.

    It is Debian on a Raspberry Pi, which has no package for the camera on the flat cable, and the installation was
    interrupted before.
    """
    bare.run("mount", "-t", "tmpfs", "tmpfs", "/sys/firmware")
    bare.write(BOARD, "Raspberry Pi 4 Model B Rev 1.4")
    bare.run("mkdir", "--parents", "/opt/emotion-edge/venv/bin")
    assert "going on without python3-picamera2" in bare.run(INSTALLER, timeout_s=DOWNLOAD_S)
    assert bare.show(UNIT, "ActiveState") == "active"
    assert bare.systemctl("is-enabled", UNIT).strip() == "enabled"
    assert bare.run("setpriv", "--reuid=emotion-edge", "--clear-groups", "edge", "--version").startswith("edge ")
    assert int(bare.run("du", "--summarize", "--block-size=MB", "/opt/emotion-edge").partition("MB")[0]) < INSTALLED_MB

    bare.run("sh", "-c", f"echo '# mine' >> {CONFIG}")
    first = bare.show(UNIT, "MainPID")
    assert "keeping" in bare.run(INSTALLER, timeout_s=DOWNLOAD_S)
    assert bare.show(UNIT, "MainPID") != first
    assert "# mine" in bare.run("cat", CONFIG)

    bare.run(INSTALLER, "--uninstall")
    assert not present(bare, "/opt/emotion-edge", f"/etc/systemd/system/{UNIT}", "/usr/local/bin/edge")
    assert present(bare, CONFIG, STATE) == [CONFIG, STATE]

    bare.run(INSTALLER, "--uninstall", "--purge")
    assert not present(bare, CONFIG, STATE)


def present(machine: Machine, *paths: str) -> list[str]:
    """Those of the paths that are there, dangling links included."""
    return machine.run("sh", "-c", 'ls -d "$@" 2>/dev/null || true', "sh", *paths).split()
