"""Fixtures of the end-to-end tests: a broker, a subscriber to all topics, and a machine with systemd."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.nspawn import Machine, unavailable_reason
from tests.e2e.service import CHECKOUT, PROJECT, PYTHON, STATE, VENV
from tests.mosquitto import PROGRAM, Listener, Mosquitto


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker that accepts anonymous clients and has no persistence."""
    if PROGRAM is None:
        pytest.skip("mosquitto is not installed (apt-get install mosquitto)")
    with Mosquitto(tmp_path) as broker:
        yield broker


@pytest.fixture
def listener(broker: Mosquitto) -> Iterator[Listener]:
    """A client that is subscribed to all topics of the broker."""
    with Listener(broker.port) as listener:
        yield listener


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A booted machine with the agent's user, this checkout, and a venv with this Python and its packages."""
    if reason := unavailable_reason():
        pytest.skip(reason)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    binds = {
        PYTHON: Path(sys.base_prefix),
        f"{VENV}/lib/{version}/site-packages": Path(sysconfig.get_path("purelib")),
        CHECKOUT: PROJECT,
    }
    with Machine(folder=tmp_path_factory.mktemp("machine"), binds=binds) as machine:
        machine.write(f"{VENV}/pyvenv.cfg", f"home = {PYTHON}/bin\ninclude-system-site-packages = false\n")
        machine.run("mkdir", f"{VENV}/bin")
        machine.run("ln", "--symbolic", f"{PYTHON}/bin/{version}", f"{VENV}/bin/python")
        machine.run("useradd", "--system", "--user-group", f"--home-dir={STATE}", "emotion-edge")
        yield machine
