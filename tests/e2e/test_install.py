"""The installer on a disposable machine: what it rejects, and (optionally) a complete installation."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.nspawn import Machine, unavailable_reason
from tests.e2e.service import CONFIG, PROJECT, STATE, UNIT, VENV
from tests.mosquitto import wait_until

pytestmark = pytest.mark.timeout(3600)
"""One machine runs at a time; the first test's time includes waiting for the others."""

CHECKOUT = "/srv/checkout"
INSTALLER = f"{CHECKOUT}/deploy/install.sh"
BROKEN = "/srv/broken"
APP = "/opt/emotion-edge"
SECRET = "/etc/credstore/emotion-edge.mqtt_password"  # noqa: S105 - a path, not a password
UPGRADE_UNIT = "upgrade.service"
TEMPORARY = ("/tmp/*", "/var/tmp/*")  # noqa: S108 - only listed
BOARD_MODEL = "/sys/firmware/devicetree/base/model"
PREPARATION_S = 120
"""Timeout until the first download."""
INSTALLATION_S = 800
"""Timeout of an installation."""
MAX_INSTALLED_MB = 360
"""Maximum disk usage of an installation; README.md says 345 MB."""


@pytest.fixture(scope="module")
def clean_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A booted machine with this checkout, but without an installation."""
    if reason := unavailable_reason():
        pytest.skip(reason)
    with Machine(folder=tmp_path_factory.mktemp("machine"), binds={CHECKOUT: PROJECT}) as machine:
        yield machine


@pytest.fixture
def earlier_install(clean_machine: Machine) -> Iterator[Machine]:
    """The machine with an earlier release installed, whose venv belongs to a Python that the system no longer has."""
    clean_machine.write(f"{VENV}/bin/edge", "#!/bin/sh\necho edge 0.0.1\n", mode=0o755)
    yield clean_machine
    clean_machine.run("rm", "--recursive", APP)


def test_without_root_the_installer_suggests_sudo(clean_machine: Machine) -> None:
    """Without root privileges, the installer suggests sudo."""
    output = clean_machine.run("setpriv", "--reuid=65534", "--clear-groups", INSTALLER, check=False)
    assert "Run it with sudo" in output


def test_a_32_bit_system_is_rejected(clean_machine: Machine) -> None:
    """On a 32-bit Raspberry Pi OS, the error names the alternative, and nothing is changed."""
    clean_machine.write("/srv/pi32/dpkg", "#!/bin/sh\necho armhf\n", mode=0o755)
    output = clean_machine.run("sh", "-c", f"PATH=/srv/pi32:$PATH {INSTALLER}; echo exit $?")
    assert "32-bit system (armhf)" in output
    assert "Raspberry Pi OS (64-bit)" in output
    assert "exit 1" in output
    assert not (clean_machine.root / "opt/emotion-edge").exists()


def test_an_old_debian_release_is_rejected(clean_machine: Machine) -> None:
    """On Debian 11, whose Python is too old, the error names the required release."""
    release = (clean_machine.root / "usr/lib/os-release").read_text(encoding="utf-8")
    clean_machine.write("/usr/lib/os-release", 'ID=debian\nVERSION_ID="11"\n')
    output = clean_machine.run(INSTALLER, check=False)
    clean_machine.write("/usr/lib/os-release", release)
    assert "12 (Bookworm) or newer" in output


def test_an_upgrade_needs_disk_space_for_two_installations(clean_machine: Machine) -> None:
    """If a second installation does not fit beside the running one, the error names free and required space."""
    clean_machine.run("mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", "/opt")
    clean_machine.run("mkdir", "--parents", VENV)
    output = clean_machine.run(INSTALLER, check=False)
    clean_machine.run("umount", "/opt")
    assert "/opt has 400 MB free; 500 MB are needed" in output


def test_a_killed_upgrade_leaves_the_installation_unchanged(earlier_install: Machine) -> None:
    """After SIGKILL or SIGTERM, the installed program still works; the next upgrade removes files of the killed one."""
    with upgrade_that_downloads(earlier_install):
        earlier_install.systemctl("kill", "--signal=KILL", UPGRADE_UNIT)
    assert earlier_install.run(f"{VENV}/bin/edge") == "edge 0.0.1\n"
    assert len(existing(earlier_install, f"{APP}/*")) > 1

    temporary = existing(earlier_install, *TEMPORARY)
    with upgrade_that_downloads(earlier_install):
        earlier_install.systemctl("kill", "--signal=TERM", UPGRADE_UNIT)
    assert earlier_install.run(f"{VENV}/bin/edge") == "edge 0.0.1\n"
    assert existing(earlier_install, f"{APP}/*") == [VENV]
    assert existing(earlier_install, *TEMPORARY) == temporary


def test_concurrent_installations_are_rejected(earlier_install: Machine) -> None:
    """While an installation runs, a second one and an uninstallation are rejected and leave its files alone."""
    with upgrade_that_downloads(earlier_install):
        unfinished = existing(earlier_install, f"{APP}/*")
        for second in ([INSTALLER], [INSTALLER, "--uninstall"]):
            assert "Another installation is running" in earlier_install.run(*second, check=False)
        assert existing(earlier_install, f"{APP}/*") == unfinished
        earlier_install.systemctl("kill", UPGRADE_UNIT)


def test_without_network_an_upgrade_leaves_the_installation_unchanged(earlier_install: Machine) -> None:
    """If downloads fail, the last line suggests to run the installer again, and the installed program still works."""
    no_local_packages = ["--unset=PIP_FIND_LINKS", "PIP_CONFIG_FILE=/dev/null", "PIP_RETRIES=0"]
    output = earlier_install.run("unshare", "--net", "env", *no_local_packages, INSTALLER, check=False)
    assert "run this again" in output.splitlines()[-1]
    assert earlier_install.run("stat", "--format=%U %a", STATE).split() == ["emotion-edge", "700"]  # for `edge doctor`
    assert earlier_install.run(f"{VENV}/bin/edge") == "edge 0.0.1\n"
    assert existing(earlier_install, f"{APP}/*") == [VENV]


def test_uninstall_clears_a_failed_service(clean_machine: Machine) -> None:
    """After --uninstall, systemd no longer lists a service that had failed."""
    clean_machine.write(f"/etc/systemd/system/{UNIT}", "[Service]\nType=oneshot\nExecStart=/bin/false\n")
    clean_machine.systemctl("daemon-reload")
    clean_machine.systemctl("start", UNIT, check=False)
    assert UNIT in clean_machine.systemctl("list-units", "--all")
    clean_machine.run(INSTALLER, "--uninstall")
    assert UNIT not in clean_machine.systemctl("list-units", "--all")


@pytest.mark.skipif(not os.environ.get("TEST_INSTALL"), reason="downloads 100 MB: set TEST_INSTALL=1 to run it")
def test_install_upgrade_uninstall(clean_machine: Machine) -> None:
    """The installed service runs; a second run keeps the configuration.

    --uninstall keeps password, configuration and state; --purge removes them. A release that does not run on this
    machine leaves the installation unchanged.

    The machine is Debian on a Raspberry Pi, which has no package for flat-cable (CSI) cameras. Before each run, the
    program looks as if an older installer, which installed in place, had been interrupted.
    """
    clean_machine.run("mount", "-t", "tmpfs", "tmpfs", "/sys/firmware")
    clean_machine.write(BOARD_MODEL, "Raspberry Pi 4 Model B Rev 1.4")
    clean_machine.run("mkdir", "--parents", f"{VENV}/bin")
    assert "going on without python3-picamera2" in clean_machine.run(INSTALLER, timeout_s=INSTALLATION_S)
    assert clean_machine.show(UNIT, "ActiveState") == "active"
    assert clean_machine.systemctl("is-enabled", UNIT).strip() == "enabled"
    assert clean_machine.run("setpriv", "--reuid=emotion-edge", "--clear-groups", "edge", "--version").startswith(
        "edge "
    )
    assert int(clean_machine.run("du", "--summarize", "--block-size=MB", APP).partition("MB")[0]) < MAX_INSTALLED_MB

    main_pid = clean_machine.show(UNIT, "MainPID")
    program_before = clean_machine.run("readlink", VENV)
    parts = ("pyproject.toml", "README.md", "edge", "trainer", "models", "deploy")
    clean_machine.run("sh", "-c", f"mkdir {BROKEN} && cd {CHECKOUT} && cp -R {' '.join(parts)} {BROKEN}")
    clean_machine.run("sh", "-c", f"echo 'import nothing_of_that_name' >> {BROKEN}/edge/classify.py")
    output = clean_machine.run(f"{BROKEN}/deploy/install.sh", timeout_s=INSTALLATION_S, check=False)
    assert "No module named 'nothing_of_that_name'" in output
    assert "The new program does not run here; the existing installation is unchanged." in output
    assert (clean_machine.run("readlink", VENV), clean_machine.show(UNIT, "MainPID")) == (program_before, main_pid)

    clean_machine.run("sh", "-c", f"echo '# mine' >> {CONFIG}")
    clean_machine.run("sh", "-c", f"rm {VENV}/bin/edge {VENV}/lib/*/site-packages/edge_emotion-*/RECORD")
    assert "keeping" in clean_machine.run(INSTALLER, timeout_s=INSTALLATION_S)
    assert clean_machine.show(UNIT, "MainPID") != main_pid
    assert "Scheduled restart job" not in clean_machine.journal(UNIT)
    assert "# mine" in clean_machine.run("cat", CONFIG)
    program = clean_machine.run("readlink", VENV).strip()
    assert existing(clean_machine, f"{APP}/*") == [f"{APP}/models", VENV, program]

    clean_machine.write(SECRET, "s3cret", mode=0o600)
    clean_machine.run(INSTALLER, "--uninstall")
    assert not existing(clean_machine, APP, f"/etc/systemd/system/{UNIT}", "/usr/local/bin/edge")
    assert existing(clean_machine, SECRET, CONFIG, STATE) == [SECRET, CONFIG, STATE]

    clean_machine.run(INSTALLER, "--uninstall", "--purge")
    assert not existing(clean_machine, SECRET, CONFIG, STATE)


@contextmanager
def upgrade_that_downloads(machine: Machine) -> Iterator[None]:
    """An upgrade that waits for a download while the context is open; at the end, waits until it has stopped."""
    with socket.create_server(("127.0.0.1", 0)) as index:
        index.settimeout(PREPARATION_S)
        address = f"http://127.0.0.1:{index.getsockname()[1]}/"
        settings = [f"--setenv=PIP_{name}" for name in (f"INDEX_URL={address}", "CONFIG_FILE=/dev/null")]
        machine.run("systemd-run", "--collect", f"--unit={UPGRADE_UNIT}", *settings, INSTALLER, "--no-start")
        connection, _ = index.accept()
        with connection:
            yield
        wait_until(lambda: machine.show(UPGRADE_UNIT, "ActiveState") != "active")


def existing(machine: Machine, *patterns: str) -> list[str]:
    """Returns the existing paths that match the patterns, including dangling links."""
    return machine.run("sh", "-c", f"ls -d {' '.join(patterns)} 2>/dev/null || true").split()
