"""The deployed unit in a machine, with the agent of the test's choice behind it."""

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

# The Python that runs the tests and its copy of the project may lie in a home, which the unit does not see: they are
# to be found elsewhere. And the tests have no time for the pauses of real life.
SETTINGS = f"""
[Service]
Environment=PYTHONPATH={CHECKOUT} LD_LIBRARY_PATH={PYTHON}/lib
RestartSec=0
"""


def install(machine: Machine, *, program: str, config: str = "") -> None:
    """Installs the unit as it is deployed, with `program` (Python) as the agent."""
    machine.write(f"{VENV}/bin/edge", f"#!{VENV}/bin/python\n{program}", mode=0o755)
    machine.write(f"/etc/systemd/system/{UNIT}", (PROJECT / "deploy" / UNIT).read_text(encoding="utf-8"))
    override(machine)
    configure(machine, config)
    # The journal of the test before is not this test's.
    machine.run("journalctl", "--quiet", "--rotate", "--vacuum-time=1us")


def configure(machine: Machine, config: str) -> None:
    """Writes the agent's configuration with the rights that the installer gives it."""
    machine.write(CONFIG, config, mode=0o640)
    machine.run("chmod", "0750", str(Path(CONFIG).parent))
    machine.run("chgrp", "--recursive", "emotion-edge", str(Path(CONFIG).parent))


def override(machine: Machine, more: str = "") -> None:
    """Sets what `systemctl edit` would: the settings of all tests, and `more` in the section [Service]."""
    machine.write(f"/etc/systemd/system/{UNIT}.d/test.conf", SETTINGS + more)
    machine.systemctl("daemon-reload")


def start(machine: Machine) -> None:
    """Starts the service, which must come up."""
    answer = machine.systemctl("start", UNIT, check=False)
    assert machine.show(UNIT, "ActiveState") == "active", f"{answer}\n{machine.journal(UNIT)}"


def remove(machine: Machine) -> None:
    """Stops the service and forgets what it left."""
    machine.systemctl("stop", UNIT)
    machine.systemctl("reset-failed", UNIT, check=False)
    machine.run("rm", "--recursive", "--force", STATE, "/etc/credstore")
