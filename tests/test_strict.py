"""TEST_STRICT turns skipped tests into failures, for machines where all dependencies of the tests are installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_TESTS = """
import pytest

def test_without_a_broker(): pytest.skip("mosquitto is not installed")

@pytest.mark.skipif(True, reason="needs root")
def test_without_rights(): pass

def test_without_data(): pytest.skip("the real data set is not at /data")
"""


@pytest.mark.parametrize(
    ("environ", "outcome"), [({}, "3 skipped"), ({"TEST_STRICT": "1"}, "1 failed, 1 skipped, 1 error")]
)
def test_skips_fail_in_strict_mode(tmp_path: Path, environ: dict[str, str], outcome: str) -> None:
    """With TEST_STRICT, a skip fails if a program such as the broker is missing, but not if a data set is missing."""
    (tmp_path / "test_skips.py").write_text(_TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", os.devnull, str(tmp_path)]
    env = {name: value for name, value in os.environ.items() if name != "TEST_STRICT"} | environ
    done = subprocess.run(command, env=env, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert f" {outcome} in " in done.stdout, done.stdout + done.stderr
