"""The Makefile: the output of `make`, and the commands that it would run."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

from tests.programs import require_program

PROJECT = Path(__file__).parents[1]


def make(*arguments: str) -> str:
    """Returns the output of `make` in the project folder."""
    command = [require_program("make", "make"), "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout


def test_a_source_may_contain_shell_metacharacters() -> None:
    """A stream URL with a query string is passed to the demo unchanged."""
    address = "rtsp://camera.lan/live?channel=1&stream=2"
    assert shlex.split(make("--dry-run", "demo", f"SOURCE={address}").splitlines()[-1])[-2:] == ["--source", address]


def test_help_names_every_target() -> None:
    """`make help` lists all public targets."""
    [targets] = re.findall(r"^\.PHONY: (.*)$", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert [line.split()[0] for line in make("help").splitlines()] == targets.split()
