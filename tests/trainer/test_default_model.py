"""The committed model against what it says of itself: a quality ratchet, whose floors may rise and never fall."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainer.conftest import REAL
from trainer.data import load_dataset
from trainer.targets import open_target

FLOOR_TEST_ACCURACY = 0.64
LARGEST_INT8_DROP = 0.005
LARGEST_FILE_BYTES = 1_000_000


@pytest.fixture(scope="module")
def report(bundle_path: Path) -> dict[str, Any]:
    """The bundle's report.json."""
    return dict(json.loads((bundle_path / "report.json").read_text()))


def test_accuracy_has_not_dropped(report: dict[str, Any]) -> None:
    """A new default model is at least as good on PrivateTest as any before."""
    assert report["test"]["models"]["int8"]["accuracy"]["value"] >= FLOOR_TEST_ACCURACY


@pytest.mark.parametrize("split", ["validation", "test"])
def test_int8_costs_next_to_nothing(report: dict[str, Any], split: str) -> None:
    """What runs on the device is as good as what was trained."""
    models = report[split]["models"]
    assert models["float"]["accuracy"]["value"] - models["int8"]["accuracy"]["value"] <= LARGEST_INT8_DROP


def test_it_fits_a_small_device(bundle_path: Path) -> None:
    """The file stays under a megabyte."""
    assert (bundle_path / "classifier.int8.tflite").stat().st_size < LARGEST_FILE_BYTES


def test_the_committed_figure_can_be_reproduced(bundle_path: Path, report: dict[str, Any]) -> None:
    """On the real PrivateTest images, the file has the accuracy that its report and card claim."""
    archive = REAL / "archive.zip"
    if not archive.exists():
        pytest.skip(f"the real data set is not at {REAL}")
    faces = load_dataset(archive).split("test")
    logits = open_target(bundle_path).predictors["int8"](faces.images)
    accuracy = float(np.mean(logits.argmax(axis=1) == faces.labels))
    # Up to 0.3 points, because archive.zip holds JPEGs of the pixels that were measured.
    assert accuracy == pytest.approx(report["test"]["models"]["int8"]["accuracy"]["value"], abs=0.003)
