"""Settings for all tests, and shared fixtures: a model bundle and photographs of real people."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "deterministic",
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("deterministic")

# A shell makes background processes ignore SIGINT, which the processes that tests interrupt would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

_MAY_BE_SKIPPED = ("the real data set is not at ", "tflite-runtime ")
"""Prefixes of the reasons for which a test may be skipped even if TEST_STRICT is set."""

_SHIPPED_BUNDLE = Path(__file__).parents[1] / "models" / "ferplus"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fails skipped tests if TEST_STRICT is set, as on a machine that has everything that the tests need."""
    report = yield
    if "TEST_STRICT" in os.environ and report.skipped and call.excinfo is not None:
        reason = str(call.excinfo.value)
        if not reason.startswith(_MAY_BE_SKIPPED):
            report.outcome = "failed"
            report.longrepr = f"skipped although TEST_STRICT is set: {reason}"
    return report


@pytest.fixture(scope="session")
def bundle_path() -> Path:
    """The bundle that the agent loads by default, or the one that the environment variable TEST_BUNDLE names."""
    path = Path(os.environ.get("TEST_BUNDLE", _SHIPPED_BUNDLE))
    if not (path / "manifest.json").is_file():
        pytest.skip(f"no model bundle at {path}")
    return path


@pytest.fixture(scope="session")
def astronaut_path() -> Path:
    """Eileen Collins, NASA, public domain: 512x512, one face, smiling."""
    return _photograph("scikit-image", "skimage/data/astronaut.png")


@pytest.fixture(scope="session")
def hopper_path() -> Path:
    """Grace Hopper, U.S. Navy, public domain: 512x600, one face, serious."""
    return _photograph("matplotlib", "matplotlib/mpl-data/sample_data/grace_hopper.jpg")


def _photograph(package: str, file: str) -> Path:
    return Path(str(metadata.distribution(package).locate_file(file)))
