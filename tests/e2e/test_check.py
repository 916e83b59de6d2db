"""The output of `edge check` for a working device and for faulty ones."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from edge.contract.signature import new_signing_key, public_key
from tests.e2e.process import EDGE, UNPRIVILEGED
from tests.mosquitto import PROGRAM, Mosquitto, free_port

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="mosquitto is not installed")


def check(config: Path, *, prefix: Sequence[str] = (), **environ: str) -> tuple[int, list[str]]:
    """Returns the exit code and the lines of the report; `prefix` is a command that runs it under other conditions."""
    command = [*prefix, *UNPRIVILEGED, EDGE, "check", "--config", str(config)]
    env = {**os.environ, **environ}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout.splitlines()


@pytest.fixture
def config(tmp_path: Path, bundle_path: Path) -> Path:
    """A device with two cameras."""
    path = tmp_path / "config.toml"
    path.write_text(f"""
[device]
state_dir = "state"
[model]
path = "{bundle_path}"
[[camera]]
name = "door"
source = "demo"
[[camera]]
name = "hall"
source = "demo"
""")
    return path


def test_a_working_device_passes_all_checks(config: Path, tmp_path: Path) -> None:
    """Each check prints one OK line, and no file remains."""
    with Mosquitto(tmp_path) as broker:
        code, lines = check(config, EDGE_MQTT__PORT=str(broker.port))
    assert [line.split()[0] for line in lines] == ["OK"] * 7
    assert "state, will be created" in lines[1]
    assert "passed its self-test on" in lines[2]
    assert "640x360, 25 frames per second" in lines[4]
    assert f"connected to localhost:{broker.port} with MQTT 5" in lines[6]
    assert code == 0
    assert not (tmp_path / "state").exists()


def test_every_failure_is_reported_with_its_remedy(config: Path, tmp_path: Path) -> None:
    """All checks run even if the first one fails; the exit code is that of the first failure."""
    environ = {
        "EDGE_MODEL__PATH": str(tmp_path),
        "EDGE_CAMERA__1__SOURCE": "/dev/video99",
        "EDGE_MQTT__PORT": str(free_port()),
    }
    code, lines = check(config, **environ)
    assert code == 4
    failures = [line for line in lines if line.startswith("FAIL")]
    assert [line[6:22].strip() for line in failures] == ["model", "camera hall", "broker"]
    assert "is not a model bundle (no manifest.json). Pass a folder written by trainer export." in failures[0]
    assert "/dev/video99: no such camera" in failures[1]
    assert "nothing listens on that port. Check the port, and that the broker is running." in failures[2]
    assert [line.split()[0] for line in lines].count("OK") == 4


def test_a_long_name_is_separated_from_the_result(config: Path) -> None:
    """A name that fills its column is followed by a space."""
    config.write_text(config.read_text().replace('"hall"', '"courtyard"'))
    _, lines = check(config, EDGE_MQTT__PORT=str(free_port()))
    assert lines[5].startswith("OK    camera courtyard 640x360")


def test_an_invalid_configuration_is_reported_with_its_line(tmp_path: Path) -> None:
    """The error names the line; without a valid configuration, nothing else is checked."""
    (tmp_path / "config.toml").write_text("[mqtt]\nport = 0\n")
    code, lines = check(tmp_path / "config.toml")
    assert (code, len(lines)) == (3, 2)
    assert "config.toml:2: mqtt.port: must be greater than or equal to 1, not 0." in lines[1]


def test_a_state_folder_that_cannot_be_created_fails(config: Path) -> None:
    """The failure names the parent folder and the configuration key."""
    code, lines = check(config, EDGE_DEVICE__STATE_DIR="/proc/edge")
    assert code == 8
    assert lines[1].startswith("FAIL  state folder    /proc: is not writable")
    assert "device.state_dir" in lines[1]


def test_a_full_disk_fails(config: Path) -> None:
    """A full disk is a failure, because the agent cannot start on it."""
    state = config.parent / "state"
    state.mkdir(exist_ok=True)
    code, lines = check(config, prefix=("prlimit", "--fsize=0"), EDGE_DEVICE__STATE_DIR=str(state))
    assert code == 8
    assert lines[1].startswith(f"FAIL  state folder    {state}: is not writable (File too large)")


def test_an_inaccessible_state_folder_fails(config: Path, tmp_path: Path) -> None:
    """A parent folder without access permission is reported as not writable."""
    (tmp_path / "locked").mkdir(mode=0)
    code, lines = check(config, EDGE_DEVICE__STATE_DIR=str(tmp_path / "locked" / "state"))
    assert code == 8
    assert lines[1].startswith(f"FAIL  state folder    {tmp_path}/locked: is not writable (Permission denied)")


def test_unreadable_releases_give_a_warning(config: Path) -> None:
    """The check warns that the agent may run another model, from a state folder that this user cannot read."""
    state = config.parent / "state"
    state.mkdir(mode=0)
    config.write_text(config.read_text() + f'[update]\npublic_keys = ["{public_key(new_signing_key())}"]\n')
    _, lines = check(config)
    state.chmod(0o700)
    assert lines[2].startswith("WARN  model           ferplus 1.0.0 (release 1) passed its self-test on ")
    assert f"; skipped: {state}/models: cannot be read (Permission denied). Check that it belongs" in lines[2]
    _, lines = check(config)
    assert lines[2].startswith("OK    model           ferplus 1.0.0 (release 1)")
