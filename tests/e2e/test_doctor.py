"""`edge doctor`, as text and as JSON."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.process import EDGE
from tests.mosquitto import PROGRAM, Mosquitto

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="mosquitto is not installed")


def doctor(*arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs the command and returns its result."""
    env = {**os.environ, **environ}
    done = subprocess.run([EDGE, "doctor", *arguments], env=env, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def config(tmp_path: Path, bundle_path: Path) -> Path:
    """A device with one camera."""
    path = tmp_path / "config.toml"
    path.write_text(
        f'[device]\nstate_dir = "state"\n[model]\npath = "{bundle_path}"\n[[camera]]\nname = "door"\nsource = "demo"\n'
    )
    return path


def test_a_working_device_has_no_failures(config: Path, tmp_path: Path) -> None:
    """Every check has a line, all fit on one screen, none fails, and the exit code is 0."""
    with Mosquitto(tmp_path) as broker:
        done = doctor("--config", config, EDGE_MQTT__PORT=str(broker.port))
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout
    assert {line.split()[0] for line in lines} <= {"OK", "WARN"}
    assert 15 <= len(lines) <= 24
    assert any(line.startswith("OK    camera door     640x360, 25 frames per second") for line in lines)
    assert not (tmp_path / "state").exists()


def test_json_output_has_the_same_results(config: Path, tmp_path: Path) -> None:
    """Each result is an object that includes its remedy; the exit code is that of the first failure."""
    done = doctor("--config", config, "--json", EDGE_MODEL__PATH=str(tmp_path), EDGE_MQTT__PORT="1")
    found = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 4
    assert found["model"] == {
        "check": "model",
        "status": "fail",
        "detail": f"{tmp_path}: is not a model bundle (no manifest.json)",
        "remedy": "Pass a folder written by trainer export",
    }
    assert {check for check, finding in found.items() if finding["status"] == "fail"} == {"model", "broker port"}


def test_an_invalid_configuration_does_not_prevent_the_other_checks(config: Path) -> None:
    """Errors in the file are reported, and checks that need no configuration still run."""
    config.write_text("[mqtt]\nprot = 1\n")
    done = doctor("--config", config)
    assert done.returncode == 3
    assert "Perhaps you meant mqtt.port." in done.stdout
    assert "FAIL  configuration" in done.stdout
    assert "OK    runtime" in done.stdout
