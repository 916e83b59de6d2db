"""A small version of `make fleet`: many agents on one broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.fleet import Fleet
from tests.mosquitto import PROGRAM


@pytest.mark.skipif(PROGRAM is None, reason="mosquitto is not installed")
def test_a_fleet_survives_a_broker_crash(tmp_path: Path) -> None:
    """Every agent connects, announces itself, and reconnects after the broker was killed; no event is lost."""
    report = Fleet(tmp_path, agents=20, steady_s=4.0).run()
    assert (report.announced, report.missing) == (20, 0)
    assert report.events > 20
