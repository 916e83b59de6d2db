"""The soak test of `make soak`, for 75 seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.soak import Soak
from tests.mosquitto import PATIENCE_S, PROGRAM

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="mosquitto is not installed")


def test_resources_do_not_grow_and_every_broker_restart_is_recovered_from(
    tmp_path: Path, bundle_path: Path, astronaut_path: Path
) -> None:
    """At full rate, with the broker killed every 12 seconds, the agent loses no event and leaks no resources."""
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
