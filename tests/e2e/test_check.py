"""The output of `edge check` for a working device, and for one with errors."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from edge.contract.signature import new_signing_key, public_key
from tests.e2e.process import AS_ANYBODY, EDGE
from tests.mosquitto import PROGRAM, Mosquitto, free_port

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="mosquitto is not installed")


def check(config: Path, *, through: Sequence[str] = (), **environ: str) -> tuple[int, list[str]]:
    """Exit code and lines of the report, through a command that changes the circumstances."""
    command = [*through, *AS_ANYBODY, EDGE, "check", "--config", str(config)]
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


def test_a_sound_device_is_all_ok(config: Path, tmp_path: Path) -> None:
    """One line for each check, and nothing is left behind."""
    with Mosquitto(tmp_path) as broker:
        code, lines = check(config, EDGE_MQTT__PORT=str(broker.port))
    assert [line.split()[0] for line in lines] == ["OK"] * 7
    assert "state, will be created" in lines[1]
    assert "passed its self-test on" in lines[2]
    assert "640x360, 25 frames per second" in lines[4]
    assert f"connected to localhost:{broker.port} with MQTT 5" in lines[6]
    assert code == 0
    assert not (tmp_path / "state").exists()


def test_every_fault_is_told_with_its_remedy(config: Path, tmp_path: Path) -> None:
    """All checks are run even if the first fails; the exit code is that of the first failure."""
    environ = {
        "EDGE_MODEL__PATH": str(tmp_path),
        "EDGE_CAMERA__1__SOURCE": "/dev/video99",
        "EDGE_MQTT__PORT": str(free_port()),
    }
    code, lines = check(config, **environ)
    assert code == 4
    wrong = [line for line in lines if line.startswith("FAIL")]
    assert [line[6:22].strip() for line in wrong] == ["model", "camera hall", "broker"]
    assert "is not a model bundle (no manifest.json). Pass a folder written by trainer export." in wrong[0]
    assert "/dev/video99: no such camera" in wrong[1]
    assert "nothing listens on that port. Check the port, and that the broker is running." in wrong[2]
    assert [line.split()[0] for line in lines].count("OK") == 4


def test_a_long_name_stays_apart_from_what_is_found(config: Path) -> None:
    """A name that fills its column is still followed by a space."""
    config.write_text(config.read_text().replace('"hall"', '"courtyard"'))
    _, lines = check(config, EDGE_MQTT__PORT=str(free_port()))
    assert lines[5].startswith("OK    camera courtyard 640x360")


def test_a_wrong_configuration_is_told_line_by_line(tmp_path: Path) -> None:
    """Without a valid configuration, nothing else is checked."""
    (tmp_path / "config.toml").write_text("[mqtt]\nport = 0\n")
    code, lines = check(tmp_path / "config.toml")
    assert (code, len(lines)) == (3, 2)
    assert "config.toml:2: mqtt.port: must be greater than or equal to 1, not 0." in lines[1]


def test_a_state_folder_that_cannot_be_made_is_a_fault(config: Path) -> None:
    """A state folder that cannot be created fails."""
    code, lines = check(config, EDGE_DEVICE__STATE_DIR="/proc/edge")
    assert code == 8
    assert lines[1].startswith("FAIL  state folder    /proc: is not writable")
    assert "device.state_dir" in lines[1]


def test_a_full_disk_is_a_fault(config: Path) -> None:
    """The agent cannot start on a full disk."""
    state = config.parent / "state"
    state.mkdir(exist_ok=True)
    code, lines = check(config, through=("prlimit", "--fsize=0"), EDGE_DEVICE__STATE_DIR=str(state))
    assert code == 8
    assert lines[1].startswith(f"FAIL  state folder    {state}: is not writable (File too large)")


def test_a_state_folder_that_may_not_be_looked_at_is_a_fault(config: Path, tmp_path: Path) -> None:
    """An inaccessible parent folder is reported."""
    (tmp_path / "locked").mkdir(mode=0)
    code, lines = check(config, EDGE_DEVICE__STATE_DIR=str(tmp_path / "locked" / "state"))
    assert code == 8
    assert lines[1].startswith(f"FAIL  state folder    {tmp_path}/locked: is not writable (Permission denied)")


def test_releases_that_nobody_may_look_at_are_told(config: Path) -> None:
    """The model that the agent runs may be in a state folder that this user cannot read."""
    state = config.parent / "state"
    state.mkdir(mode=0)
    config.write_text(config.read_text() + f'[update]\npublic_keys = ["{public_key(new_signing_key())}"]\n')
    _, lines = check(config)
    state.chmod(0o700)
    assert lines[2].startswith("WARN  model           ferplus 1.0.0 (release 1) passed its self-test on ")
    assert f"; skipped: {state}/models: cannot be read (Permission denied). Check that it belongs" in lines[2]
    _, lines = check(config)
    assert lines[2].startswith("OK    model           ferplus 1.0.0 (release 1)")
