"""The committed models: consistency with their reports, and minimum accuracies that may only be raised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.contract import load_bundle
from edge.contract.intensity import normalized
from tests.bench.crowd import agreement, merged
from tests.trainer.conftest import REAL
from trainer.data import load_dataset
from trainer.labels import FERPLUS_EMOTIONS, LabelKind, with_labels
from trainer.recipes import read_recipe
from trainer.targets import open_target
from trainer.text import percent
from trainer.weights import load_network, predict

MODELS = Path(__file__).parents[2] / "models"
FLOORS = {"default": 0.72, "ferplus": 0.88}
"""Minimum PublicTest accuracy by each model's labels. Not of PrivateTest, which must not be used for selection."""
RUNS = {"default": "broad", "ferplus": "default"}
"""The run in models/runs that each was exported from."""
LARGEST_INT8_DROP = 0.003
LARGEST_FILE_BYTES = 1_000_000


@pytest.fixture(params=FLOORS)
def bundle(request: pytest.FixtureRequest) -> Path:
    """Path of each bundle."""
    return MODELS / str(request.param)


@pytest.fixture
def report(bundle: Path) -> dict[str, Any]:
    """The bundle's report.json."""
    return dict(json.loads((bundle / "report.json").read_text()))


def test_accuracy_has_not_dropped(bundle: Path, report: dict[str, Any]) -> None:
    """A new model is at least as accurate on PublicTest as any before."""
    assert report["validation"]["models"]["int8"]["accuracy"]["value"] >= FLOORS[bundle.name]


def test_int8_is_as_accurate_as_float(report: dict[str, Any]) -> None:
    """The int8 model is as accurate as the float model."""
    models = report["validation"]["models"]
    assert models["float"]["accuracy"]["value"] - models["int8"]["accuracy"]["value"] <= LARGEST_INT8_DROP


def test_the_model_is_small(bundle: Path) -> None:
    """The model file is smaller than a megabyte."""
    assert (bundle / "classifier.int8.tflite").stat().st_size < LARGEST_FILE_BYTES


def test_the_bundle_was_exported_from_its_run(bundle: Path) -> None:
    """The float weights in models/runs yield the logits of the bundle."""
    target = open_target(bundle)
    labels: LabelKind = "ferplus" if target.labels == FERPLUS_EMOTIONS else "fer2013"
    golden = np.load(bundle / "golden.npz")
    intensity = load_bundle(bundle).manifest.preprocessing.intensity
    assert intensity is not None
    seen = np.stack([normalized(image, intensity) for image in golden["inputs"]])
    logits = predict(load_network(MODELS / "runs" / RUNS[bundle.name], labels), seen)
    np.testing.assert_allclose(logits, golden["logits"], atol=0.2)


@pytest.mark.parametrize("run", sorted((MODELS / "runs").glob("*/")), ids=lambda run: run.name)
def test_the_configuration_of_a_run_matches_its_history(run: Path) -> None:
    """The configuration of each run matches its history."""
    config = read_recipe(run / "config.json")
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [config.side_px(epoch) for epoch in range(config.epochs)] == [line["side_px"] for line in history]


def test_the_quoted_label_agreement_is_reproducible() -> None:
    """The agreement of FER+ with FER-2013's labels is as quoted in README and model card."""
    table, votes = REAL / "fer2013.csv.gz", REAL / "fer2013new.csv"
    if not (table.exists() and votes.exists()):
        pytest.skip(f"the real data set is not at {REAL}")
    counted = {row.label: row for row in agreement(merged(load_dataset(table, votes)))}
    card = " ".join((MODELS / "default" / "MODEL_CARD.md").read_text().split())
    shares = {name: percent(row.plurality) for name, row in counted.items()}
    quoted = "only {all} of the images (fear {fear}, disgust {disgust}, sad {sad})".format_map(shares)
    assert f"{quoted}, and on {percent(counted['all'].majority)} of those" in card
    readme = " ".join((MODELS.parent / "README.md").read_text().split())
    assert "only {all} of the images (fear {fear}, sad {sad}, happy {happy};".format_map(shares) in readme


def test_the_committed_accuracy_is_reproducible(bundle: Path, report: dict[str, Any]) -> None:
    """On the real PrivateTest images, the model has the accuracy stated in its report."""
    table, votes = REAL / "fer2013.csv.gz", REAL / "fer2013new.csv"
    if not (table.exists() and votes.exists()):
        pytest.skip(f"the real data set is not at {REAL}")
    target = open_target(bundle)
    faces = load_dataset(table, votes).split("test")
    faces = with_labels(faces, "ferplus" if target.labels == FERPLUS_EMOTIONS else "fer2013")
    accuracy = float(np.mean(target.predictors["int8"](faces.images).argmax(axis=1) == faces.labels))
    # Processors with other instructions round a little differently.
    assert accuracy == pytest.approx(report["test"]["models"]["int8"]["accuracy"]["value"], abs=0.002)
