"""The unit, the scripts and the example configuration in deploy/, tried with systemd's and the shell's own checkers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.config import load_config
from edge.contract.errors import BundleError
from edge.errors import ConfigError, RuntimeMissing
from tests.programs import need

DEPLOY = Path(__file__).parents[2] / "deploy"
UNIT = DEPLOY / "emotion-edge.service"


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a command; standard error is part of its output."""
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


def test_systemd_finds_nothing_to_complain_about(tmp_path: Path) -> None:
    """The unit has no unknown key and no value that systemd ignores."""
    analyze = need("systemd-analyze", "systemd")
    text = UNIT.read_text(encoding="utf-8").replace("/opt/emotion-edge/venv/bin/edge", "/bin/true")
    unit = tmp_path / UNIT.name
    unit.write_text(text, encoding="utf-8")
    verified = run(analyze, "verify", "--recursive-errors=yes", unit)
    assert (verified.returncode, verified.stdout) == (0, "")


def test_the_service_is_hardened() -> None:
    """The unit's exposure is 1.8 or better in systemd's own rating."""
    analyze = need("systemd-analyze", "systemd")
    rating = run(analyze, "security", "--offline=yes", "--no-pager", "--threshold=18", UNIT)
    assert rating.returncode == 0, rating.stdout


def test_the_service_stays_down_only_for_what_a_restart_cannot_mend() -> None:
    """A service that gives up does so for the reasons that the unit names: no camera and no broker are among them."""
    [line] = re.findall(r"^RestartPreventExitStatus=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)
    wrong_command_line = 2
    hopeless = {wrong_command_line, ConfigError.exit_code, BundleError.exit_code, RuntimeMissing.exit_code}
    assert {int(code) for code in line.split()} == hopeless


def test_a_picture_that_takes_all_memory_is_left_out(tmp_path: Path) -> None:
    """Under the service: one file of few bytes must not end the agent, again after each restart."""
    (tmp_path / "large.png").write_bytes(cv2.imencode(".png", np.zeros((8000, 8000), np.uint8))[1].tobytes())
    limits = [line.removeprefix("Environment=") for line in UNIT.read_text().splitlines() if "IMAGE_PIXELS" in line]
    program = "import pathlib, sys; from edge.source.opencv import read_image as read; "
    program += "print(read(pathlib.Path(sys.argv[1])) is None)"
    for limit, left_out in ((limits, "True"), ([], "False")):
        command = ["env", *limit, sys.executable, "-c", program, str(tmp_path / "large.png")]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == left_out


@pytest.mark.parametrize("script", ["install.sh", "mosquitto/make-certificates.sh"])
def test_shellcheck_finds_nothing(script: str) -> None:
    """The shell scripts have none of the faults that shellcheck knows."""
    assert run(need("shellcheck", "shellcheck"), DEPLOY / script).stdout == ""


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(["--frobnicate"], "unknown option --frobnicate"), (["--purge"], "--purge requires --uninstall")],
)
def test_a_mistyped_option_changes_nothing(arguments: list[str], complaint: str) -> None:
    """The installer names an option that it does not know, and neither installs nor removes anything."""
    refused = run("sh", DEPLOY / "install.sh", *arguments)
    assert refused.returncode == 1
    assert complaint in refused.stdout


def test_the_example_configuration_is_valid() -> None:
    """The configuration that the installer writes is one that the agent accepts."""
    assert load_config(DEPLOY / "config.toml", {}).mqtt.host == "localhost"
