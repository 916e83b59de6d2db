"""The soak of `make soak`, for a minute and a quarter."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.soak import Soak
from tests.mosquitto import PATIENCE_S, PROGRAM

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="mosquitto is not installed")


def test_nothing_grows_and_every_bounce_is_recovered(tmp_path: Path, bundle_path: Path, astronaut_path: Path) -> None:
    """At full rate, with its broker killed every few seconds, the agent loses no event and leaks nothing."""
    soak = Soak(
        tmp_path,
        bundle=bundle_path,
        photograph=astronaut_path,
        run_s=75,
        bounce_s=12,
        recovered_within_s=PATIENCE_S,
    )
    report = soak.run()
    assert report.faults == [], report.verdict
