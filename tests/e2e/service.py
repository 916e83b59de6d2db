"""Installs and controls the deployed unit in a machine, with a given program as the agent."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.nspawn import Machine

PROJECT = Path(__file__).parents[2]
PYTHON = "/opt/python"
VENV = "/opt/emotion-edge/venv"
CHECKOUT = "/opt/emotion-edge/checkout"
UNIT = "emotion-edge.service"
CONFIG = "/etc/emotion-edge/config.toml"
STATE = "/var/lib/emotion-edge"

# The tests' Python and checkout may be in a home folder, which the unit cannot access, so they are bind-mounted
# elsewhere. Restarts are not delayed.
SETTINGS = f"""
[Service]
Environment=PYTHONPATH={CHECKOUT} LD_LIBRARY_PATH={PYTHON}/lib
RestartSec=0
"""


def install(machine: Machine, *, program: str, config: str = "") -> None:
    """Installs the deployed unit, with `program` (Python source) as the agent."""
    machine.write(f"{VENV}/bin/edge", f"#!{VENV}/bin/python\n{program}", mode=0o755)
    machine.write(f"/etc/systemd/system/{UNIT}", (PROJECT / "deploy" / UNIT).read_text(encoding="utf-8"))
    override(machine)
    configure(machine, config)
    # Discard the journal of the previous test.
    machine.run("journalctl", "--quiet", "--rotate", "--vacuum-time=1us")


def configure(machine: Machine, config: str) -> None:
    """Writes the agent's configuration with the permissions set by the installer."""
    machine.write(CONFIG, config, mode=0o640)
    machine.run("chmod", "0750", str(Path(CONFIG).parent))
    machine.run("chgrp", "--recursive", "emotion-edge", str(Path(CONFIG).parent))


def override(machine: Machine, more: str = "") -> None:
    """Overrides the unit like `systemctl edit`: settings for all tests, and `more` in the section [Service]."""
    machine.write(f"/etc/systemd/system/{UNIT}.d/test.conf", SETTINGS + more)
    machine.systemctl("daemon-reload")


def start(machine: Machine) -> None:
    """Starts the service and asserts that it is active."""
    output = machine.systemctl("start", UNIT, check=False)
    assert machine.show(UNIT, "ActiveState") == "active", f"{output}\n{machine.journal(UNIT)}"


def remove(machine: Machine) -> None:
    """Stops the service and removes its state and secrets."""
    machine.systemctl("stop", UNIT)
    machine.systemctl("reset-failed", UNIT, check=False)
    machine.run("rm", "--recursive", "--force", STATE, "/etc/credstore")
