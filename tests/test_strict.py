"""TEST_STRICT: on a fully equipped machine, a skipped test is a failure."""

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
def test_a_skip_fails_if_strict(tmp_path: Path, environ: dict[str, str], outcome: str) -> None:
    """CI fails if a dependency of the tests, such as the broker, is missing."""
    (tmp_path / "test_skips.py").write_text(_TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", os.devnull, str(tmp_path)]
    env = {name: value for name, value in os.environ.items() if name != "TEST_STRICT"} | environ
    done = subprocess.run(command, env=env, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert f" {outcome} in " in done.stdout, done.stdout + done.stderr
