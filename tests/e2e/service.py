"""The deployed unit in a machine, with the agent of the test's choice behind it."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.nspawn import Machine

PROJECT = Path(__file__).parents[2]
VENV = "/opt/emotion-edge/venv"
CHECKOUT = "/opt/emotion-edge/checkout"
UNIT = "emotion-edge.service"
CONFIG = "/etc/emotion-edge/config.toml"
STATE = "/var/lib/emotion-edge"

# The packages are those of this Python, whose own copy of the project may lie in a home, which the unit does not see.
SETTINGS = f"""
[Service]
Environment=PYTHONPATH={CHECKOUT}
WatchdogSec=1
RestartSec=0
"""


def install(machine: Machine, *, program: str, config: str = "") -> None:
    """Installs the unit as it is deployed, with `program` (Python) as the agent. Only its pauses are shorter."""
    machine.write(f"{VENV}/bin/edge", f"#!{VENV}/bin/python\n{program}", mode=0o755)
    machine.write(f"/etc/systemd/system/{UNIT}", (PROJECT / "deploy" / UNIT).read_text(encoding="utf-8"))
    override(machine, SETTINGS)
    configure(machine, config)
    # The journal of the test before is not this test's.
    machine.run("journalctl", "--quiet", "--rotate", "--vacuum-time=1us")


def configure(machine: Machine, config: str) -> None:
    """Writes the agent's configuration with the rights that the installer gives it."""
    machine.write(CONFIG, config, mode=0o640)
    machine.run("chmod", "0750", str(Path(CONFIG).parent))
    machine.run("chgrp", "--recursive", "emotion-edge", str(Path(CONFIG).parent))


def override(machine: Machine, settings: str) -> None:
    """Sets what `systemctl edit` would."""
    machine.write(f"/etc/systemd/system/{UNIT}.d/test.conf", settings)
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
