"""What the tests of the whole agent share: the machine with a service manager, and the agent installed in it."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.nspawn import Machine, why_not

PROJECT = Path(__file__).parents[2]
VENV = "/opt/emotion-edge/venv"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A booted machine where `/opt/emotion-edge/venv` has this Python, its packages and this checkout."""
    if reason := why_not():
        pytest.skip(reason)
    packages = sysconfig.get_path("purelib")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    binds = {
        "/opt/python": Path(sys.base_prefix),
        f"{VENV}/lib/python{version}/site-packages": Path(packages),
        "/opt/emotion-edge/checkout": PROJECT,
    }
    with Machine(folder=tmp_path_factory.mktemp("machine"), binds=binds) as machine:
        machine.write(f"{VENV}/pyvenv.cfg", "home = /opt/python/bin\ninclude-system-site-packages = false\n")
        (machine.root / f"{VENV[1:]}/bin").mkdir()
        (machine.root / f"{VENV[1:]}/bin/python").symlink_to(f"/opt/python/bin/python{version}")
        machine.run("useradd", "--system", "--groups=video", "--home-dir=/var/lib/emotion-edge", "emotion-edge")
        yield machine
