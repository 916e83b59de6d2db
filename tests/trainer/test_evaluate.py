"""`trainer evaluate` with models of known predictions."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import pytest

from edge.contract import EMOTIONS, BundleError, UserError
from trainer.cli import main, parser
from trainer.commands.evaluate import evaluate_targets
from trainer.data import FaceSet, load_dataset, load_folder
from trainer.errors import CheckpointError, DataError
from trainer.evaluate import Evaluation, Subject, document, evaluate
from trainer.labels import FERPLUS_EMOTIONS
from trainer.targets import Predictor, Target, open_target

MODELS = Path(__file__).parents[2] / "models"
SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "schema" / "evaluation.json").read_text())
MakePredictor = Callable[..., Predictor]


@pytest.fixture
def faces(make_faces: Callable[..., FaceSet]) -> FaceSet:
    """Three images of each emotion."""
    return make_faces([emotion for emotion in range(7) for _ in range(3)])


@pytest.fixture
def evaluation(faces: FaceSet, make_predictor: MakePredictor) -> Evaluation:
    """int8 is wrong on images 0, 3 and 9, float on 0 and 1; images 0 and 5 are leaked."""
    predictors = {
        "int8": make_predictor(faces, {0: "sad", 3: "fear", 9: "neutral"}),
        "float": make_predictor(faces, {0: "sad", 1: "happy"}, confidence=0.7),
    }
    return evaluate(faces, predictors, leaked=np.array([0, 5]))


def test_each_model_is_evaluated(evaluation: Evaluation) -> None:
    """Each model has its own accuracy, confusion matrix and calibration."""
    int8, exact = evaluation.models["int8"], evaluation.models["float"]
    assert int8.classification.accuracy.value == pytest.approx(18 / 21)
    assert exact.classification.accuracy.value == pytest.approx(19 / 21)
    assert int8.classification.confusion[EMOTIONS.index("happy")][EMOTIONS.index("neutral")] == 1
    assert int8.calibration.ece == pytest.approx(0.9 - 18 / 21, abs=1e-4)
    assert exact.calibration.ece == pytest.approx(19 / 21 - 0.7, abs=1e-4)
    assert [p.coverage for p in int8.risk_coverage if p.threshold in {0.85, 0.95}] == [1.0, 0.0]


def test_accuracy_without_leaked_images(evaluation: Evaluation) -> None:
    """Accuracy without leaked images excludes those with a near-duplicate in the training split."""
    assert evaluation.leaked == 2
    clean = evaluation.models["int8"].without_leaked
    assert clean is not None
    assert clean.accuracy.count == 19
    assert clean.accuracy.value == pytest.approx(17 / 19)


def test_models_are_compared_image_by_image(evaluation: Evaluation) -> None:
    """int8 and float are compared image by image."""
    (comparison,) = evaluation.comparisons
    assert (comparison.first, comparison.second) == ("int8", "float")
    assert comparison.agreement.value == pytest.approx(18 / 21)
    assert (comparison.first_only, comparison.second_only) == (1, 2)


def test_evaluation_without_a_training_split(faces: FaceSet, make_predictor: MakePredictor) -> None:
    """A single model can be evaluated, and a data set without a training split."""
    evaluation = evaluate(faces, {"float": make_predictor(faces)})
    assert evaluation.leaked is None
    assert evaluation.models["float"].without_leaked is None
    assert evaluation.comparisons == ()
    validate(evaluation)


def test_evaluation_if_every_image_is_leaked(faces: FaceSet, make_predictor: MakePredictor) -> None:
    """If all images are leaked, the result without them is None."""
    evaluation = evaluate(faces, {"float": make_predictor(faces)}, leaked=np.arange(21))
    assert (evaluation.leaked, evaluation.models["float"].without_leaked) == (21, None)
    validate(evaluation)


def validate(evaluation: Evaluation) -> None:
    """Validates a document against the schema."""
    text = json.dumps(document(Subject("models/default", "archive.zip", "test"), evaluation), allow_nan=False)
    jsonschema.validate(json.loads(text), SCHEMA)


def test_json_keeps_its_documented_keys(evaluation: Evaluation) -> None:
    """The output conforms to docs/schema/evaluation.json."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validate(evaluation)


class TestCommand:
    """`trainer evaluate` from data on disk to its output, with models of known predictions."""

    @pytest.fixture
    def arguments(self, plain_folder: Path) -> Callable[..., argparse.Namespace]:
        """Returns a function that parses arguments, for the generated data set."""
        return lambda *more: parser().parse_args(["evaluate", "models/any", "--data", str(plain_folder), *more])

    @pytest.fixture
    def target(self, plain_folder: Path, make_predictor: MakePredictor) -> Target:
        """int8 and float, which differ on one test image."""
        test = load_dataset(plain_folder).split("test")
        return Target("any 1.0.0", EMOTIONS, {"int8": make_predictor(test, {2: "sad"}), "float": make_predictor(test)})

    def test_text(
        self,
        target: Target,
        arguments: Callable[..., argparse.Namespace],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """The tables show accuracy with interval, agreement, per-class metrics and confusion matrix."""
        assert evaluate_targets([target], arguments()) == 0
        printed = capsys.readouterr().out
        for expected in ("any 1.0.0 on the test split", "85.7 % (48.7 to 97.4)", "agree on 85.7 %", "disgust"):
            assert expected in printed

    def test_json_and_report(
        self,
        target: Target,
        arguments: Callable[..., argparse.Namespace],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """The printed JSON equals that in the report folder, which also contains the HTML."""
        assert evaluate_targets([target], arguments("--format", "json", "--report", str(tmp_path / "out"))) == 0
        printed = json.loads(capsys.readouterr().out)
        jsonschema.validate(printed, SCHEMA)
        assert printed == json.loads((tmp_path / "out" / "evaluation.json").read_text())
        assert (printed["split"], printed["images"], printed["leaked"]) == ("test", 7, 0)
        assert "any 1.0.0" in (tmp_path / "out" / "report.html").read_text()

    def test_training_images_among_the_test_images(
        self,
        plain_folder: Path,
        make_predictor: MakePredictor,
        arguments: Callable[..., argparse.Namespace],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """A test image with a mirrored copy in the training split is counted as leaked."""
        stolen = cv2.imread(str(next((plain_folder / "train" / "fear").iterdir())))
        assert stolen is not None
        assert cv2.imwrite(str(plain_folder / "test" / "fear" / "stolen.png"), cv2.flip(stolen, 1))
        test = load_dataset(plain_folder).split("test")
        target = Target("any", EMOTIONS, {"float": make_predictor(test)})
        assert evaluate_targets([target], arguments("--format", "json")) == 0
        printed = json.loads(capsys.readouterr().out)
        assert printed["leaked"] == 1
        assert printed["models"]["float"]["without_leaked"]["accuracy"]["count"] == 7

    def test_folder_of_own_faces(
        self, tmp_path: Path, make_predictor: MakePredictor, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Images of any size in folders named after emotions can be evaluated."""
        for emotion, gray in (("happy", 40), ("sad", 200)):
            (tmp_path / "mine" / emotion).mkdir(parents=True)
            assert cv2.imwrite(str(tmp_path / "mine" / emotion / "a.jpg"), np.full((200, 160, 3), gray, np.uint8))
        faces = load_folder(tmp_path / "mine").split("test")
        target = Target("any", EMOTIONS, {"int8": make_predictor(faces, {0: "fear"})})
        command = ["evaluate", "any", "--folder", "--data", str(tmp_path / "mine"), "--format", "json"]
        assert evaluate_targets([target], parser().parse_args(command)) == 0
        printed = json.loads(capsys.readouterr().out)
        assert (printed["split"], printed["leaked"]) == ("folder", None)
        assert printed["models"]["int8"]["accuracy"]["value"] == 0.5

    def test_model_with_ferplus_labels(self, table: Path, votes: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A model trained on FER+ is evaluated by the majority label, with eight classes."""
        surprised = np.eye(8, dtype=np.float32)[[FERPLUS_EMOTIONS.index("surprise")]]
        target = Target("plus", FERPLUS_EMOTIONS, {"float": lambda images: np.repeat(surprised, len(images), axis=0)})
        command = ["evaluate", "plus", "--data", str(table), "--format", "json"]
        assert evaluate_targets([target], parser().parse_args([*command, "--votes", str(votes)])) == 0
        assert json.loads(capsys.readouterr().out)["models"]["float"]["accuracy"]["value"] == 1.0
        with pytest.raises(DataError, match="votes are needed"):
            evaluate_targets([target], parser().parse_args(command))

    def test_two_targets_have_distinct_names(
        self, target: Target, arguments: Callable[..., argparse.Namespace], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Models of the same arithmetic include the name of their target."""
        other = Target("other", EMOTIONS, {"int8": target.predictors["float"]})
        assert evaluate_targets([target, other], arguments("--format", "json")) == 0
        printed = json.loads(capsys.readouterr().out)
        assert set(printed["models"]) == {"int8 of any 1.0.0", "float", "int8 of other"}
        assert len(printed["comparisons"]) == 3

    def test_results_of_a_run_are_marked_as_trained(
        self, target: Target, arguments: Callable[..., argparse.Namespace], tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        """A run is marked `as trained` in text, HTML and JSON: its difference to a bundle is not only quantization."""
        bundle = Target("any 1.0.0", EMOTIONS, {"int8": target.predictors["int8"]})
        run = Target("first", EMOTIONS, {"float": target.predictors["float"]}, as_trained=True)
        report = tmp_path / "out"
        assert evaluate_targets([bundle, run], arguments("--report", str(report))) == 0
        assert " float (as trained) ┃" in capsys.readouterr().out
        assert "float (as trained): top-1 accuracy" in (report / "report.html").read_text()
        written = json.loads((report / "evaluation.json").read_text())
        assert list(written["models"]) == ["int8", "float (as trained)"]
        assert evaluate_targets([run, replace(run, name="second")], arguments("--format", "json")) == 0
        printed = json.loads(capsys.readouterr().out)
        assert list(printed["models"]) == [f"float (as trained) of {name}" for name in ("first", "second")]

    def test_a_run_is_as_trained_and_a_bundle_is_not(self) -> None:
        """Runs are opened `as_trained`, bundles are not."""
        assert not open_target(MODELS / "ferplus").as_trained
        assert open_target(MODELS / "runs" / "default").as_trained

    def test_two_bundles_of_the_same_name_have_distinct_names(
        self, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Bundles of the same name are named by their paths."""
        for age in ("old", "new"):
            shutil.copytree(MODELS / "default", tmp_path / age / "default")
        bundles = [str(tmp_path / age / "default") for age in ("old", "new")]
        assert main(["evaluate", *bundles, "--data", str(table), "--format", "json"]) == 0
        assert set(json.loads(capsys.readouterr().out)["models"]) == {f"int8 of {bundle}" for bundle in bundles}

    def test_long_names_are_told_apart(
        self, target: Target, arguments: Callable[..., argparse.Namespace], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Without a terminal, names are not truncated."""
        paths = [f"/srv/models/of/the/third/quarter/with/all/that/they/learned/{day}" for day in ("monday", "tuesday")]
        assert evaluate_targets([Target(path, EMOTIONS, target.predictors) for path in paths], arguments()) == 0
        header = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("┃"))
        assert header.split("┃")[2:-1] == [f" {kind} of {path} " for path in paths for kind in ("int8", "float")]

    def test_targets_of_different_labels(self, target: Target, arguments: Callable[..., argparse.Namespace]) -> None:
        """Models of seven and eight classes cannot be compared; this is not a DataError."""
        other = Target("plus", FERPLUS_EMOTIONS, target.predictors)
        with pytest.raises(UserError, match="plus: has 8 classes") as raised:
            evaluate_targets([target, other], arguments())
        assert raised.value.exit_code == 1

    def test_a_target_that_is_given_twice(
        self, tmp_path: Path, plain_folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The same target given twice, even by different paths, is an error."""
        (link := tmp_path / "link").symlink_to(MODELS / "default")
        assert main(["evaluate", str(MODELS / "default"), str(link), "--data", str(plain_folder)]) == 1
        assert "default: is given twice. Give each bundle or run once" in capsys.readouterr().err

    @pytest.mark.parametrize("options", [[], ["--format", "json"], ["--robustness"]])
    def test_a_model_with_logits_that_are_not_finite(
        self, arguments: Callable[..., argparse.Namespace], options: list[str]
    ) -> None:
        """A model with non-finite logits is an error that names it."""
        target = Target("wild", EMOTIONS, {"float": lambda images: np.full((len(images), 7), np.nan, np.float32)})
        with pytest.raises(UserError, match="wild: returns logits that are not finite"):
            evaluate_targets([target], arguments(*options))

    def test_missing_target(self, tmp_path: Path, plain_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A wrong path is reported before any data is read."""
        code = main(["evaluate", str(tmp_path / "nowhere"), "--data", str(plain_folder)])
        assert code in {BundleError.exit_code, CheckpointError.exit_code}
        assert f"trainer: error: {tmp_path / 'nowhere'}" in capsys.readouterr().err
