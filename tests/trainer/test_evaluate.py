"""What `trainer evaluate` says of models whose answers are known."""

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
    """int8 is wrong on images 0, 3 and 9, float on 0 and 1; images 0 and 5 are known from training."""
    predictors = {
        "int8": make_predictor(faces, {0: "sad", 3: "fear", 9: "neutral"}),
        "float": make_predictor(faces, {0: "sad", 1: "happy"}, confidence=0.7),
    }
    return evaluate(faces, predictors, leaked=np.array([0, 5]))


def test_each_model_is_measured(evaluation: Evaluation) -> None:
    """Accuracy, confusions and calibration of each model are its own."""
    int8, exact = evaluation.models["int8"], evaluation.models["float"]
    assert int8.classification.accuracy.value == pytest.approx(18 / 21)
    assert exact.classification.accuracy.value == pytest.approx(19 / 21)
    assert int8.classification.confusion[EMOTIONS.index("happy")][EMOTIONS.index("neutral")] == 1
    assert int8.calibration.ece == pytest.approx(0.9 - 18 / 21, abs=1e-4)
    assert exact.calibration.ece == pytest.approx(19 / 21 - 0.7, abs=1e-4)
    assert [p.coverage for p in int8.risk_coverage if p.threshold in {0.85, 0.95}] == [1.0, 0.0]


def test_accuracy_without_images_known_from_training(evaluation: Evaluation) -> None:
    """Images with a near-duplicate in training are left out of the second figure."""
    assert evaluation.leaked == 2
    clean = evaluation.models["int8"].without_leaked
    assert clean is not None
    assert clean.accuracy.count == 19
    assert clean.accuracy.value == pytest.approx(17 / 19)


def test_how_often_the_models_agree(evaluation: Evaluation) -> None:
    """int8 and float are compared image by image."""
    (comparison,) = evaluation.comparisons
    assert (comparison.first, comparison.second) == ("int8", "float")
    assert comparison.agreement.value == pytest.approx(18 / 21)
    assert (comparison.first_only, comparison.second_only) == (1, 2)


def test_where_training_images_are_not_known(faces: FaceSet, make_predictor: MakePredictor) -> None:
    """One model and a data set without a training split give a result all the same."""
    evaluation = evaluate(faces, {"float": make_predictor(faces)})
    assert evaluation.leaked is None
    assert evaluation.models["float"].without_leaked is None
    assert evaluation.comparisons == ()
    validate(evaluation)


def test_where_every_image_is_known_from_training(faces: FaceSet, make_predictor: MakePredictor) -> None:
    """Nothing is left to measure without them, and that is no fault."""
    evaluation = evaluate(faces, {"float": make_predictor(faces)}, leaked=np.arange(21))
    assert (evaluation.leaked, evaluation.models["float"].without_leaked) == (21, None)
    validate(evaluation)


def validate(evaluation: Evaluation) -> None:
    """Checks what a program would read."""
    text = json.dumps(document(Subject("models/default", "archive.zip", "test"), evaluation), allow_nan=False)
    jsonschema.validate(json.loads(text), SCHEMA)


def test_json_keeps_its_documented_keys(evaluation: Evaluation) -> None:
    """docs/schema/evaluation.json describes the whole output."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validate(evaluation)


class TestCommand:
    """`trainer evaluate` from data on disk to its output, with models whose answers are known."""

    @pytest.fixture
    def arguments(self, plain_folder: Path) -> Callable[..., argparse.Namespace]:
        """Arguments as the command line gives them, for the generated data set."""
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
        """The tables show accuracy with its interval, agreement, classes and confusions."""
        assert evaluate_targets([target], arguments()) == 0
        printed = capsys.readouterr().out
        for expected in ("any 1.0.0 on the test split", "85.7 % (48.7 to 97.4)", "same answer to 85.7 %", "disgust"):
            assert expected in printed

    def test_json_and_report(
        self,
        target: Target,
        arguments: Callable[..., argparse.Namespace],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """The printed JSON is the report's, and the HTML lies beside it."""
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
        """A test image that also lies in train, mirrored, is found and counted."""
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
        """Pictures of any size in folders named after emotions can be tested on."""
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

    def test_model_of_the_crowd_s_labels(self, table: Path, votes: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A model that learned FER+ is measured against the majority of its votes, over eight emotions."""
        surprised = np.eye(8, dtype=np.float32)[[FERPLUS_EMOTIONS.index("surprise")]]
        target = Target("plus", FERPLUS_EMOTIONS, {"float": lambda images: np.repeat(surprised, len(images), axis=0)})
        command = ["evaluate", "plus", "--data", str(table), "--format", "json"]
        assert evaluate_targets([target], parser().parse_args([*command, "--votes", str(votes)])) == 0
        assert json.loads(capsys.readouterr().out)["models"]["float"]["accuracy"]["value"] == 1.0
        with pytest.raises(DataError, match="votes are needed"):
            evaluate_targets([target], parser().parse_args(command))

    def test_two_targets_are_told_apart(
        self, target: Target, arguments: Callable[..., argparse.Namespace], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Models of the same kind carry the name of their target."""
        other = Target("other", EMOTIONS, {"int8": target.predictors["float"]})
        assert evaluate_targets([target, other], arguments("--format", "json")) == 0
        printed = json.loads(capsys.readouterr().out)
        assert set(printed["models"]) == {"int8 of any 1.0.0", "float", "int8 of other"}
        assert len(printed["comparisons"]) == 3

    def test_what_is_not_as_on_a_device_is_called_so(
        self, target: Target, arguments: Callable[..., argparse.Namespace], tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        """A run beside a bundle is not taken for what int8 costs, in text, page and JSON."""
        bundle = Target("any 1.0.0", EMOTIONS, {"int8": target.predictors["int8"]})
        run = Target("first", EMOTIONS, {"float": target.predictors["float"]}, as_trained=True)
        report = tmp_path / "out"
        assert evaluate_targets([bundle, run], arguments("--report", str(report))) == 0
        assert " float (as trained) ┃" in capsys.readouterr().out
        assert "float (as trained): accuracy" in (report / "report.html").read_text()
        written = json.loads((report / "evaluation.json").read_text())
        assert list(written["models"]) == ["int8", "float (as trained)"]
        assert evaluate_targets([run, replace(run, name="second")], arguments("--format", "json")) == 0
        printed = json.loads(capsys.readouterr().out)
        assert list(printed["models"]) == [f"float (as trained) of {name}" for name in ("first", "second")]

    def test_a_run_is_as_trained_and_a_bundle_is_not(self) -> None:
        """What is opened knows whether it is what a device runs."""
        assert not open_target(MODELS / "ferplus").as_trained
        assert open_target(MODELS / "runs" / "default").as_trained

    def test_two_bundles_of_one_name_are_told_apart(
        self, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """An old and a new version of the same bundle carry their paths."""
        for age in ("old", "new"):
            shutil.copytree(MODELS / "default", tmp_path / age / "default")
        bundles = [str(tmp_path / age / "default") for age in ("old", "new")]
        assert main(["evaluate", *bundles, "--data", str(table), "--format", "json"]) == 0
        assert set(json.loads(capsys.readouterr().out)["models"]) == {f"int8 of {bundle}" for bundle in bundles}

    def test_long_names_are_told_apart(
        self, target: Target, arguments: Callable[..., argparse.Namespace], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Where the output goes to a file or another program, no name is cut off."""
        paths = [f"/srv/models/of/the/third/quarter/with/all/that/they/learned/{day}" for day in ("monday", "tuesday")]
        assert evaluate_targets([Target(path, EMOTIONS, target.predictors) for path in paths], arguments()) == 0
        header = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("┃"))
        assert header.split("┃")[2:-1] == [f" {kind} of {path} " for path in paths for kind in ("int8", "float")]

    def test_targets_of_different_labels(self, target: Target, arguments: Callable[..., argparse.Namespace]) -> None:
        """Models of seven and of eight emotions cannot be measured together, which is no fault of the data."""
        other = Target("plus", FERPLUS_EMOTIONS, target.predictors)
        with pytest.raises(UserError, match="plus: tells 8 emotions apart") as raised:
            evaluate_targets([target, other], arguments())
        assert raised.value.exit_code == 1

    def test_one_bundle_named_twice(
        self, tmp_path: Path, plain_folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """It is not measured as if the other had been forgotten, whatever it is called the second time."""
        (link := tmp_path / "link").symlink_to(MODELS / "default")
        assert main(["evaluate", str(MODELS / "default"), str(link), "--data", str(plain_folder)]) == 1
        assert "default: is named twice. Name each bundle or run once" in capsys.readouterr().err

    @pytest.mark.parametrize("options", [[], ["--format", "json"], ["--robustness"]])
    def test_a_model_whose_answers_are_no_numbers(
        self, arguments: Callable[..., argparse.Namespace], options: list[str]
    ) -> None:
        """One that diverged is named, and measured as nothing."""
        target = Target("wild", EMOTIONS, {"float": lambda images: np.full((len(images), 7), np.nan, np.float32)})
        with pytest.raises(UserError, match="wild: answers with what is no number"):
            evaluate_targets([target], arguments(*options))

    def test_target_that_is_not_there(
        self, tmp_path: Path, plain_folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A wrong path is told as such, before any data is read."""
        code = main(["evaluate", str(tmp_path / "nowhere"), "--data", str(plain_folder)])
        assert code in {BundleError.exit_code, CheckpointError.exit_code}
        assert f"trainer: error: {tmp_path / 'nowhere'}" in capsys.readouterr().err
