"""The systemd unit, shell scripts and example configuration in deploy/, checked with systemd-analyze and shellcheck."""

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
from tests.programs import require_program

DEPLOY = Path(__file__).parents[2] / "deploy"
UNIT = DEPLOY / "emotion-edge.service"


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a command, with standard error as part of its output."""
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


def test_systemd_analyze_verifies_the_unit(tmp_path: Path) -> None:
    """The unit has no unknown directives and no values that systemd ignores."""
    analyze = require_program("systemd-analyze", "systemd")
    text = UNIT.read_text(encoding="utf-8").replace("/opt/emotion-edge/venv/bin/edge", "/bin/true")
    unit = tmp_path / UNIT.name
    unit.write_text(text, encoding="utf-8")
    verified = run(analyze, "verify", "--recursive-errors=yes", unit)
    assert (verified.returncode, verified.stdout) == (0, "")


def test_the_service_is_hardened() -> None:
    """The exposure level reported by `systemd-analyze security` is at most 1.8."""
    analyze = require_program("systemd-analyze", "systemd")
    rating = run(analyze, "security", "--offline=yes", "--no-pager", "--threshold=18", UNIT)
    assert rating.returncode == 0, rating.stdout


def test_only_errors_that_a_restart_cannot_fix_prevent_a_restart() -> None:
    """RestartPreventExitStatus= lists exactly their exit codes, and so none of a missing camera or broker."""
    [line] = re.findall(r"^RestartPreventExitStatus=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)
    usage_error = 2
    permanent_errors = {usage_error, ConfigError.exit_code, BundleError.exit_code, RuntimeMissing.exit_code}
    assert {int(code) for code in line.split()} == permanent_errors


def test_a_picture_that_exceeds_the_memory_limit_is_skipped(tmp_path: Path) -> None:
    """The unit limits the pixels of a picture, so that one small file cannot crash the agent after each restart."""
    (tmp_path / "large.png").write_bytes(cv2.imencode(".png", np.zeros((8000, 8000), np.uint8))[1].tobytes())
    limits = [line.removeprefix("Environment=") for line in UNIT.read_text().splitlines() if "IMAGE_PIXELS" in line]
    program = "import pathlib, sys; from edge.source.opencv import read_image as read; "
    program += "print(read(pathlib.Path(sys.argv[1])) is None)"
    for limit, skipped in ((limits, "True"), ([], "False")):
        command = ["env", *limit, sys.executable, "-c", program, str(tmp_path / "large.png")]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == skipped


@pytest.mark.parametrize("script", ["install.sh", "mosquitto/make-certificates.sh"])
def test_shellcheck_reports_nothing(script: str) -> None:
    """The shell scripts have no errors or warnings that shellcheck knows."""
    assert run(require_program("shellcheck", "shellcheck"), DEPLOY / script).stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--frobnicate"], "unknown option --frobnicate"), (["--purge"], "--purge requires --uninstall")],
)
def test_an_invalid_option_changes_nothing(arguments: list[str], message: str) -> None:
    """The installer reports the option and exits before it installs or removes anything."""
    completed = run("sh", DEPLOY / "install.sh", *arguments)
    assert completed.returncode == 1
    assert message in completed.stdout


def test_the_example_configuration_is_valid() -> None:
    """The agent accepts the configuration that the installer writes."""
    assert load_config(DEPLOY / "config.toml", {}).mqtt.host == "localhost"
