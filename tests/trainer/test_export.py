"""`trainer export`: atomic, with checked accuracy and correct metadata."""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge.classify import BundleClassifier
from edge.contract import UserError, calibrated, load_bundle
from edge.contract.intensity import normalized
from edge.contract.manifest import Intensity
from tests.trainer.conftest import write_data_set
from tests.trainer.stripes import stripes
from tests.trainer.test_cli import ROOT, TRAINER
from trainer.cli import main
from trainer.config import FitConfig
from trainer.data import Dataset, FaceSet
from trainer.errors import CheckpointError, QualityError
from trainer.export import ExportOptions, _require_accuracy, export
from trainer.fit import fit
from trainer.run import read_config
from trainer.targets import open_target

CONFIG = FitConfig(
    stages=((48, 6),), batch_size=16, peak_lr=0.05, warmup_epochs=1, ema_decay=0.8, votes_weight=0.0, width=0.5,
    blocks=(0, 0, 1),
)  # fmt: skip
OPTIONS = ExportOptions(name="tiny", calibration_per_class=10, max_drop=None)


@pytest.fixture(scope="module")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training run."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    fit(dataset, path, CONFIG)
    return path


@pytest.fixture(scope="module")
def int8(run: Path, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The int8 bundle of the run."""
    out = tmp_path_factory.mktemp("models") / "tiny"
    export(run, out, dataset, OPTIONS)
    return out


def intensity_of(bundle: Path) -> Intensity:
    """The intensity range in the manifest."""
    intensity = load_bundle(bundle).manifest.preprocessing.intensity
    assert intensity is not None
    return intensity


def test_the_bundle_runs_on_the_device_and_agrees_with_the_float_model(int8: Path, run: Path, dataset: Dataset) -> None:
    """The int8 model agrees with the trained network, up to rounding."""
    faces = dataset.split("test")
    on_device = BundleClassifier(int8).classify(faces.images).argmax(axis=1)
    trained = open_target(run).predictors["float"](faces.images).argmax(axis=1)
    assert np.mean(on_device == trained) >= 0.9


def test_input_and_output_are_int8_and_one_gray_level_is_one_step(int8: Path) -> None:
    """Input quantization is lossless."""
    manifest = load_bundle(int8).manifest
    assert (manifest.input.dtype, manifest.output.dtype, manifest.output.kind) == ("int8", "int8", "logits")
    np.testing.assert_array_equal(BundleClassifier(int8)._model._table, np.arange(-128, 128))


def test_the_int8_model_of_a_mirror_run_is_symmetric(dataset: Dataset, tmp_path: Path) -> None:
    """The int8 model of a run with `mirror` is exactly symmetric."""
    config = replace(CONFIG, stages=((48, 1),), mirror=True)
    fit(dataset, tmp_path / "run", config)
    export(tmp_path / "run", tmp_path / "mirror", dataset, OPTIONS)
    classifier, faces = BundleClassifier(tmp_path / "mirror"), stripes(70, seed=4).images
    faces += np.arange(48, dtype=np.uint8)  # lighter on the right
    np.testing.assert_array_equal(classifier.classify(faces), classifier.classify(faces[:, :, ::-1]))


def test_intensity_normalization_makes_predictions_robust_to_light(int8: Path, dataset: Dataset) -> None:
    """Images with a tenth of the brightness or contrast are normalized to the range of the training images."""
    faces, classifier = dataset.split("test"), BundleClassifier(int8)
    usual = classifier.classify(faces.images).argmax(axis=1)
    for spoilt in (faces.images * 0.1, 200 + faces.images * 0.1):
        assert np.mean(classifier.classify(spoilt.round().astype(np.uint8)).argmax(axis=1) == usual) >= 0.95


def test_intensity_range_is_that_of_most_training_images(int8: Path, dataset: Dataset) -> None:
    """The bounds are the 10th and 90th percentiles of mean and standard deviation."""
    light, images = intensity_of(int8), dataset.split("train").images
    means, deviations = images.mean(axis=(1, 2)), images.std(axis=(1, 2))
    for values, low, high in (
        (means, light.mean_low, light.mean_high), (deviations, light.deviation_low, light.deviation_high),
    ):  # fmt: skip
        assert (np.mean(values < low), np.mean(values > high)) == pytest.approx((0.1, 0.1), abs=0.02)


def test_metrics_are_in_manifest_report_and_card(int8: Path) -> None:
    """Manifest, report and card state the same accuracy."""
    manifest = load_bundle(int8).manifest
    test = next(metrics for metrics in manifest.metrics if metrics.split == "test")
    report = json.loads((int8 / "report.json").read_text())
    assert report["test"]["models"]["int8"]["accuracy"]["value"] == test.accuracy
    assert f"{test.accuracy:.2%}" in (int8 / "MODEL_CARD.md").read_text()


def test_robustness_is_in_report_and_card(int8: Path) -> None:
    """Report and card contain the robustness of the int8 model on the test split, and no other."""
    report = json.loads((int8 / "report.json").read_text())
    measured = report["test"]["models"]["int8"]["robustness"]
    card = (int8 / "MODEL_CARD.md").read_text()
    assert f"**{measured['mean_corruption_accuracy']['value']:.2%}** (" in card
    for score in measured["corruptions"]:
        assert f"| {score['name'].replace('_', ' ')} | {score['accuracies'][0]:.1%} |" in card
    assert report["test"]["models"]["float"]["robustness"] is None
    assert report["validation"]["models"]["int8"]["robustness"] is None


def test_calibration_is_not_fitted_on_private_test(int8: Path, run: Path, dataset: Dataset, tmp_path: Path) -> None:
    """Other labels on PrivateTest change the report, but not the calibration."""
    test = dataset.split("test")
    shuffled = FaceSet(test.images, np.random.default_rng(1).permutation(test.labels), test.names, test.votes)
    changed = Dataset(dataset.path, {**dataset.splits, "test": shuffled})
    before, after = load_bundle(int8).manifest, export(run, tmp_path / "tiny", changed, OPTIONS)
    assert after.calibration == before.calibration
    assert after.metrics[0] == before.metrics[0]
    assert after.metrics[1].accuracy < before.metrics[1].accuracy - 0.2


def test_without_quantize_the_bundle_has_the_logits_of_the_network(run: Path, dataset: Dataset, tmp_path: Path) -> None:
    """A float bundle returns the trained network's logits, with the manifest's intensity range and calibration."""
    export(run, tmp_path / "float", dataset, replace(OPTIONS, quantize=False))
    classifier = BundleClassifier(tmp_path / "float")
    images = dataset.split("test").images
    calibration, intensity = classifier.bundle.manifest.calibration, intensity_of(tmp_path / "float")
    assert calibration.label_smoothing == read_config(run)[0].label_smoothing
    seen = np.stack([normalized(image, intensity) for image in images])
    exact = calibrated(open_target(run).predictors["float"](seen), calibration)
    np.testing.assert_allclose(classifier.classify(images), exact, atol=1e-3)


def test_validation_images_must_not_be_moved_to_private_test(run: Path, dataset: Dataset, tmp_path: Path) -> None:
    """PrivateTest must not contain images of the PublicTest with which the checkpoint was selected."""
    validation, test = dataset.split("validation"), dataset.split("test")
    moved = Dataset(dataset.path, {**dataset.splits, "validation": test, "test": validation})
    with pytest.raises(
        CheckpointError, match=r"was started with another PublicTest, on which its weights were selected"
    ):
        export(run, tmp_path / "tiny", moved, OPTIONS)
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize("arithmetic", ["float32", "int8"])
def test_the_command_writes_a_bundle_with_its_options(
    arithmetic: str, run: Path, dataset: Dataset, bundle_path: Path, tmp_path: Path
) -> None:
    """Version, release and arithmetic are those of the options; an existing bundle is replaced; metrics are printed."""
    write_data_set(tmp_path / "fer2013.csv", dataset)
    shutil.copytree(bundle_path, tmp_path / "mine")
    paths = [str(run), "--data", str(tmp_path / "fer2013.csv"), "-o", str(tmp_path / "mine")]
    options = ["--release", "3", "--version", "1.1.0", "--max-drop", "100", "--calibration-per-class", "10"]
    command = [*TRAINER, "export", *paths, *options, *["--quantize"] * (arithmetic == "int8")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    manifest = load_bundle(tmp_path / "mine").manifest
    assert (manifest.name, manifest.version, manifest.release) == ("mine", "1.1.0", 3)
    assert manifest.input.dtype == arithmetic
    assert f"PrivateTest  top-1 accuracy {manifest.metrics[1].accuracy:.2%} (" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fer2013.csv", "mine"]


def test_only_a_bundle_is_replaced(run: Path, dataset: Dataset, tmp_path: Path) -> None:
    """A typo in `-o` must not destroy a folder."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_text("dear")
    (tmp_path / "photos" / "manifest.json").write_text('{"name": "my web app"}')
    with pytest.raises(UserError, match="already exists and is not a readable bundle"):
        export(run, tmp_path / "photos", dataset, OPTIONS)
    assert (tmp_path / "photos" / "me.jpg").read_text() == "dear"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (replace(OPTIONS, name="v1.2"), "'v1.2' is not a valid name of a bundle"),
        (replace(OPTIONS, version="1.0"), "'1.0' is not a valid version of a bundle"),
    ],
)
def test_invalid_options_are_rejected_before_the_conversion(
    options: ExportOptions, message: str, run: Path, dataset: Dataset, tmp_path: Path
) -> None:
    """The error is raised before the conversion, with a remedy."""
    with pytest.raises(UserError, match=f"{message}.*The name is the name of the folder"):
        export(run, tmp_path / "out", dataset, options)


def test_an_invalid_name_is_rejected_before_the_data_is_read(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reading the data can take minutes."""
    assert main(["export", str(run), "--data", str(tmp_path / "nowhere.csv"), "-o", str(tmp_path / "Mine")]) == 1
    assert "'Mine' is not a valid name of a bundle" in capsys.readouterr().err


def test_an_invalid_run_configuration_is_named(run: Path, dataset: Dataset, tmp_path: Path) -> None:
    """The error names the run, not name and version of the bundle."""
    document = json.loads((run / "config.json").read_text())
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps({**document, "data_sha256": "ABC"}))
    with pytest.raises(CheckpointError, match=r"run/config.json: 'ABC' is not a valid data_sha256 .* Restore the run"):
        export(tmp_path / "run", tmp_path / "out", dataset, OPTIONS)


@pytest.mark.parametrize(("max_drop", "refused"), [(0.005, False), (0.0049, True)])
def test_a_drop_of_exactly_the_maximum_is_allowed(max_drop: float, refused: bool, tmp_path: Path) -> None:
    """One more wrong image of 200 is a drop from 73 % to 72.5 %, exactly half a point."""
    exact = np.eye(2, dtype=np.float32)[(np.arange(200) < 146).astype(int)]
    int8 = np.eye(2, dtype=np.float32)[(np.arange(200) < 145).astype(int)]
    faces = stripes(200, seed=1)
    validation = FaceSet(faces.images, np.ones(200, np.int64), faces.names)
    error = pytest.raises(QualityError, match=r"run: quantization .* reduces PublicTest accuracy from 73.00% to 72.50%")
    with error if refused else nullcontext():
        _require_accuracy(int8, exact, validation, max_drop, tmp_path / "run")


def test_a_run_is_not_exported_with_other_data(run: Path, dataset: Dataset, tmp_path: Path) -> None:
    """Otherwise the bundle's metrics would not be those of the data set it names."""
    other = Dataset(Path("mine"), {**dataset.splits, "train": dataset.split("test")})
    with pytest.raises(CheckpointError, match=r"tiny: was started with other data \(stripes.csv\)\. Use that data"):
        export(run, tmp_path / "out", other, OPTIONS)
    assert not (tmp_path / "out").exists()


def test_a_bundle_that_lost_too_much_accuracy_is_not_written(run: Path, dataset: Dataset, tmp_path: Path) -> None:
    """If int8 loses too much accuracy, the error has remedies, and the existing bundle is kept."""
    export(run, tmp_path / "tiny", dataset, OPTIONS)
    before = (tmp_path / "tiny" / "manifest.json").read_bytes()
    impossible = replace(OPTIONS, max_drop=-1.0)  # an int8 model that beats its float model by 100 points
    with pytest.raises(QualityError, match="--calibration-per-class"):
        export(run, tmp_path / "tiny", dataset, impossible)
    assert (tmp_path / "tiny" / "manifest.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_the_ferplus_head_can_be_exported(dataset: Dataset, tmp_path: Path) -> None:
    """A run with votes exports a second bundle with the eight FER+ classes, of which the agent uses seven."""
    fit(dataset, tmp_path / "run", replace(CONFIG, stages=((48, 1),), votes_weight=0.5))
    manifest = export(tmp_path / "run", tmp_path / "crowd", dataset, replace(OPTIONS, labels="ferplus"))
    assert (manifest.labels[-1], {metrics.labels for metrics in manifest.metrics}) == ("contempt", {"ferplus"})
    assert "strict majority" in (tmp_path / "crowd" / "MODEL_CARD.md").read_text()
    faces = dataset.split("test").images[:3]
    everybody_voted_neutral = BundleClassifier(tmp_path / "crowd").classify(faces)
    assert manifest.calibration.label_smoothing == 0
    assert everybody_voted_neutral.shape == (3, 7)
    assert set(everybody_voted_neutral.argmax(axis=1)) == {6}

    others = Dataset(dataset.path, {name: voted_anew(faces) for name, faces in dataset.splits.items()})
    with pytest.raises(
        CheckpointError, match=r"run: was started with other votes\. Use the --votes that it was started"
    ):
        export(tmp_path / "run", tmp_path / "crowd", others, replace(OPTIONS, labels="ferplus"))


def voted_anew(faces: FaceSet) -> FaceSet:
    """The same images, with all votes for happiness."""
    return FaceSet(
        faces.images, faces.labels, faces.names, np.tile(np.eye(10, dtype=np.int64)[1] * 10, (len(faces), 1))
    )


def test_a_run_without_votes_cannot_be_exported_with_ferplus_labels(
    run: Path, dataset: Dataset, tmp_path: Path
) -> None:
    """The error explains how to train such a run."""
    with pytest.raises(CheckpointError, match="--labels ferplus"):
        export(run, tmp_path / "crowd", dataset, replace(OPTIONS, labels="ferplus"))


def test_a_folder_that_is_not_a_run_is_a_clear_error(dataset: Dataset, tmp_path: Path) -> None:
    """The error names the folder."""
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        export(tmp_path, tmp_path / "out", dataset, OPTIONS)
