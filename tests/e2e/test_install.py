"""The installer on a machine that it may change: what it refuses, and (on request) a whole installation."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.nspawn import Machine, why_not
from tests.e2e.service import CONFIG, PROJECT, STATE, UNIT, VENV
from tests.mosquitto import wait_until

pytestmark = pytest.mark.timeout(3600)
"""One machine runs at a time: for the first test, waiting for the others counts."""

CHECKOUT = "/srv/checkout"
INSTALLER = f"{CHECKOUT}/deploy/install.sh"
BROKEN = "/srv/broken"
APP = "/opt/emotion-edge"
SECRET = "/etc/credstore/emotion-edge.mqtt_password"  # noqa: S105 - where it is
UPGRADE = "upgrade.service"
TEMPORARY = ("/tmp/*", "/var/tmp/*")  # noqa: S108, nothing is written there
BOARD = "/sys/firmware/devicetree/base/model"
PREPARED_S = 120
"""How long it may take until something is to be downloaded."""
DOWNLOAD_S = 800
"""How long an installation may take."""
INSTALLED_MB = 360
"""What it may take on the disk: README.md says 345 MB."""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A booted machine with this checkout and nothing of it installed."""
    if reason := why_not():
        pytest.skip(reason)
    with Machine(folder=tmp_path_factory.mktemp("machine"), binds={CHECKOUT: PROJECT}) as machine:
        yield machine


@pytest.fixture
def earlier(bare: Machine) -> Iterator[Machine]:
    """The machine with the program of an earlier release, which a Python made that the system no longer has."""
    bare.write(f"{VENV}/bin/edge", "#!/bin/sh\necho edge 0.0.1\n", mode=0o755)
    yield bare
    bare.run("rm", "--recursive", APP)


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


def test_an_upgrade_asks_for_room_for_two(bare: Machine) -> None:
    """Where a second program does not fit beside the one that runs, the installer says how much is wanting."""
    bare.run("mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", "/opt")
    bare.run("mkdir", "--parents", VENV)
    answer = bare.run(INSTALLER, check=False)
    bare.run("umount", "/opt")
    assert "/opt has 400 MB free; 500 MB are needed" in answer


def test_an_upgrade_that_is_killed_changes_nothing(earlier: Machine) -> None:
    """Killed at any time, an upgrade leaves the program as it was; the next one takes away what the first one left."""
    with upgrade_that_downloads(earlier):
        earlier.systemctl("kill", "--signal=KILL", UPGRADE)
    assert earlier.run(f"{VENV}/bin/edge") == "edge 0.0.1\n"
    assert len(present(earlier, f"{APP}/*")) > 1

    temporary = present(earlier, *TEMPORARY)
    with upgrade_that_downloads(earlier):
        earlier.systemctl("kill", "--signal=TERM", UPGRADE)
    assert earlier.run(f"{VENV}/bin/edge") == "edge 0.0.1\n"
    assert present(earlier, f"{APP}/*") == [VENV]
    assert present(earlier, *TEMPORARY) == temporary


def test_two_at_once_do_not_meet(earlier: Machine) -> None:
    """While one installation runs, another one, or a removal, says so and leaves its work alone."""
    with upgrade_that_downloads(earlier):
        under_way = present(earlier, f"{APP}/*")
        for second in ([INSTALLER], [INSTALLER, "--uninstall"]):
            assert "Another installation is running" in earlier.run(*second, check=False)
        assert present(earlier, f"{APP}/*") == under_way
        earlier.systemctl("kill", UPGRADE)


def test_without_network_it_can_be_run_again(earlier: Machine) -> None:
    """When nothing can be downloaded, the last line says what to do, and the program is as it was."""
    nothing_near = ["--unset=PIP_FIND_LINKS", "PIP_CONFIG_FILE=/dev/null", "PIP_RETRIES=0"]
    answer = earlier.run("unshare", "--net", "env", *nothing_near, INSTALLER, check=False)
    assert "run this again" in answer.splitlines()[-1]
    assert earlier.run("stat", "--format=%U %a", STATE).split() == ["emotion-edge", "700"]  # for `edge doctor`
    assert earlier.run(f"{VENV}/bin/edge") == "edge 0.0.1\n"
    assert present(earlier, f"{APP}/*") == [VENV]


def test_a_failed_service_is_forgotten(bare: Machine) -> None:
    """After --uninstall, systemd does not list a service that had failed."""
    bare.write(f"/etc/systemd/system/{UNIT}", "[Service]\nType=oneshot\nExecStart=/bin/false\n")
    bare.systemctl("daemon-reload")
    bare.systemctl("start", UNIT, check=False)
    assert UNIT in bare.systemctl("list-units", "--all")
    bare.run(INSTALLER, "--uninstall")
    assert UNIT not in bare.systemctl("list-units", "--all")


@pytest.mark.skipif(not os.environ.get("TEST_INSTALL"), reason="downloads 100 MB: set TEST_INSTALL=1 to run it")
def test_install_upgrade_uninstall(bare: Machine) -> None:
    """Installed, the service runs; a second run keeps the configuration; removed, it leaves only what it said.

    A release that does not run here is not gone over to.

    It is Debian on a Raspberry Pi, which has no package for the camera on the flat cable. Before each run, an earlier
    installer was interrupted, which worked on the program in its place.
    """
    bare.run("mount", "-t", "tmpfs", "tmpfs", "/sys/firmware")
    bare.write(BOARD, "Raspberry Pi 4 Model B Rev 1.4")
    bare.run("mkdir", "--parents", f"{VENV}/bin")
    assert "going on without python3-picamera2" in bare.run(INSTALLER, timeout_s=DOWNLOAD_S)
    assert bare.show(UNIT, "ActiveState") == "active"
    assert bare.systemctl("is-enabled", UNIT).strip() == "enabled"
    assert bare.run("setpriv", "--reuid=emotion-edge", "--clear-groups", "edge", "--version").startswith("edge ")
    assert int(bare.run("du", "--summarize", "--block-size=MB", APP).partition("MB")[0]) < INSTALLED_MB

    first = bare.show(UNIT, "MainPID")
    before = bare.run("readlink", VENV)
    parts = ("pyproject.toml", "README.md", "edge", "trainer", "models", "deploy")
    bare.run("sh", "-c", f"mkdir {BROKEN} && cd {CHECKOUT} && cp -R {' '.join(parts)} {BROKEN}")
    bare.run("sh", "-c", f"echo 'import nothing_of_that_name' >> {BROKEN}/edge/classify.py")
    answer = bare.run(f"{BROKEN}/deploy/install.sh", timeout_s=DOWNLOAD_S, check=False)
    assert "No module named 'nothing_of_that_name'" in answer
    assert "The new program does not run here; the existing installation is unchanged." in answer
    assert (bare.run("readlink", VENV), bare.show(UNIT, "MainPID")) == (before, first)

    bare.run("sh", "-c", f"echo '# mine' >> {CONFIG}")
    bare.run("sh", "-c", f"rm {VENV}/bin/edge {VENV}/lib/*/site-packages/edge_emotion-*/RECORD")
    assert "keeping" in bare.run(INSTALLER, timeout_s=DOWNLOAD_S)
    assert bare.show(UNIT, "MainPID") != first
    assert "Scheduled restart job" not in bare.journal(UNIT)
    assert "# mine" in bare.run("cat", CONFIG)
    program = bare.run("readlink", VENV).strip()
    assert present(bare, f"{APP}/*") == [f"{APP}/models", VENV, program]

    bare.write(SECRET, "s3cret", mode=0o600)
    bare.run(INSTALLER, "--uninstall")
    assert not present(bare, APP, f"/etc/systemd/system/{UNIT}", "/usr/local/bin/edge")
    assert present(bare, SECRET, CONFIG, STATE) == [SECRET, CONFIG, STATE]

    bare.run(INSTALLER, "--uninstall", "--purge")
    assert not present(bare, SECRET, CONFIG, STATE)


@contextmanager
def upgrade_that_downloads(machine: Machine) -> Iterator[None]:
    """An upgrade that has come to downloading; at the end, waits until it has been stopped."""
    with socket.create_server(("127.0.0.1", 0)) as index:
        index.settimeout(PREPARED_S)
        address = f"http://127.0.0.1:{index.getsockname()[1]}/"
        settings = [f"--setenv=PIP_{name}" for name in (f"INDEX_URL={address}", "CONFIG_FILE=/dev/null")]
        machine.run("systemd-run", "--collect", f"--unit={UPGRADE}", *settings, INSTALLER, "--no-start")
        connection, _ = index.accept()
        with connection:
            yield
        wait_until(lambda: machine.show(UPGRADE, "ActiveState") != "active")


def present(machine: Machine, *patterns: str) -> list[str]:
    """What is there of the paths, dangling links included."""
    return machine.run("sh", "-c", f"ls -d {' '.join(patterns)} 2>/dev/null || true").split()
