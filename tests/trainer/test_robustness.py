"""`trainer evaluate --robustness`: accuracy under corruption, and its presentation."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.contract import EMOTIONS
from tests.trainer.test_evaluate import SCHEMA, validate
from tests.trainer.test_report import SUBJECT, Page
from trainer.cli import parser
from trainer.commands.evaluate import evaluate_targets
from trainer.corruptions import CORRUPTIONS, corrupt
from trainer.data import FaceSet, load_dataset
from trainer.evaluate import Evaluation, evaluate
from trainer.report import html_report
from trainer.robustness import Step, measure_robustness
from trainer.targets import Predictor, Target


def most_alike(known: FaceSet) -> Predictor:
    """Returns a classifier that predicts the label of the most correlated known image."""
    patterns = _standardized(known.images)
    of_label = np.eye(len(EMOTIONS), dtype=np.float32)[known.labels]

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(of_label[(_standardized(images) @ patterns.T).argmax(axis=1)])

    return predict


def _standardized(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    rows = images.reshape(len(images), -1).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1), np.float32)


def always_happy(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns logits of a constant prediction."""
    return np.repeat(np.eye(len(EMOTIONS), dtype=np.float32)[[EMOTIONS.index("happy")]], len(images), axis=0)


@pytest.fixture(scope="module")
def arguments() -> Callable[..., argparse.Namespace]:
    """Returns a function that parses arguments."""
    return lambda data, *more: parser().parse_args(["evaluate", "any", "--data", str(data), *more])


@pytest.fixture
def faces(make_faces: Callable[..., FaceSet]) -> FaceSet:
    """Four images of each emotion."""
    return make_faces([emotion for emotion in range(7) for _ in range(4)])


@pytest.fixture
def evaluation(faces: FaceSet) -> Evaluation:
    """Robustness of two models."""
    predictors = {"int8": most_alike(faces), "float": always_happy}
    return evaluate(faces, predictors, robustness=measure_robustness(faces, predictors))


def test_accuracy_is_that_on_the_corrupted_images(faces: FaceSet) -> None:
    """Each accuracy equals a manual calculation."""
    predict = most_alike(faces)
    measured = measure_robustness(faces, {"int8": predict})["int8"]
    for number, corruption in enumerate(CORRUPTIONS):
        for severity in (1, 5):
            answers = predict(corrupt(faces.images, corruption, severity)).argmax(axis=1)
            expected = float((answers == faces.labels).mean())
            assert measured.corruptions[number].accuracies[severity - 1] == pytest.approx(expected)


def test_mean_corruption_accuracy_is_the_mean_of_all(evaluation: Evaluation) -> None:
    """The mean corruption accuracy is the mean over all corruptions and severities, within its interval."""
    robustness = evaluation.robustness["int8"]
    mean = robustness.mean_corruption_accuracy
    assert robustness.corruptions[0].mean == pytest.approx(np.mean(robustness.corruptions[0].accuracies))
    assert mean.value == pytest.approx(np.mean([score.mean for score in robustness.corruptions]))
    assert mean.value == pytest.approx(np.mean(robustness.by_severity))
    assert mean.low < mean.value < mean.high < 1.0
    assert mean.count == 28


def test_a_constant_model_is_not_affected(evaluation: Evaluation) -> None:
    """A constant prediction is not affected by corruption."""
    blind = evaluation.robustness["float"]
    assert {value for score in blind.corruptions for value in score.accuracies} == {1 / 7}
    assert blind.mean_corruption_accuracy.value == pytest.approx(1 / 7)


def test_progress_iterates_over_every_step(faces: FaceSet) -> None:
    """The progress callback iterates over 11 corruptions at 5 severities."""
    seen: list[Step] = []

    def watch(steps: Sequence[Step]) -> Iterator[Step]:
        for step in steps:
            seen.append(step)
            yield step

    measure_robustness(faces, {"float": always_happy}, watch)
    assert [(corruption.name, severity) for corruption, severity in seen[:6]] == [
        *(("brightness", severity) for severity in range(1, 6)), ("contrast", 1),
    ]  # fmt: skip
    assert len(seen) == 55


def test_json_keeps_its_documented_keys(evaluation: Evaluation, faces: FaceSet) -> None:
    """docs/schema/evaluation.json describes results with robustness of some, all or no models."""
    validate(evaluation)
    predictors = {"int8": most_alike(faces), "float": always_happy}
    validate(evaluate(faces, predictors, robustness=measure_robustness(faces, {"int8": predictors["int8"]})))
    assert evaluate(faces, predictors).to_dict()["models"]["int8"]["robustness"] is None


def test_report_has_table_plot_and_sheet(evaluation: Evaluation, faces: FaceSet) -> None:
    """Each corruption has a row; plot and examples are embedded and reproducible."""
    html = html_report(SUBJECT, evaluation, faces)
    page = Page(html)
    robustness = evaluation.robustness["int8"]
    assert f"{100 * robustness.mean_corruption_accuracy.value:.1f} % (" in page.words
    for corruption, score in zip(CORRUPTIONS, robustness.corruptions, strict=True):
        shares = " ".join(f"{100 * share:.1f} %" for share in (*score.accuracies, score.mean))
        assert f"{corruption.title} ({corruption.unit}) {shares}" in page.words
    assert f"mean {100 * robustness.by_severity[0]:.1f} %" in page.words
    kinds = [reference.split(";")[0] for reference in page.references]
    assert (kinds.count("data:image/svg+xml"), kinds.count("data:image/png")) == (4, 2)
    assert html == html_report(SUBJECT, evaluation, faces)


class TestCommand:
    """`trainer evaluate --robustness` from data on disk to its output."""

    @pytest.fixture
    def target(self, plain_folder: Path) -> Target:
        """Two models."""
        test = load_dataset(plain_folder).split("test")
        return Target("any 1.0.0", EMOTIONS, {"int8": most_alike(test), "float": always_happy})

    def test_text(
        self, target: Target, plain_folder: Path, arguments: Callable[..., argparse.Namespace],
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        """A table shows the first model by severity and the means of both; only with the option."""
        assert evaluate_targets([target], arguments(plain_folder, "--robustness")) == 0
        output = capsys.readouterr()
        for expected in ("mean corruption accuracy", "low light", "detector crop", "mean, int8", "mean, float"):
            assert expected in output.out
        assert output.err == ""  # the progress is for terminals
        assert evaluate_targets([target], arguments(plain_folder)) == 0
        assert "corruption" not in capsys.readouterr().out

    def test_progress_is_not_written_to_the_json(
        self, target: Target, plain_folder: Path, arguments: Callable[..., argparse.Namespace], tmp_path: Path,
        capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """Progress is shown on the terminal, while standard output is valid JSON, equal to the report."""
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        monkeypatch.setenv("TERM", "xterm")
        options = ("--robustness", "--format", "json", "--report", str(tmp_path / "out"))
        assert evaluate_targets([target], arguments(plain_folder, *options)) == 0
        output = capsys.readouterr()
        assert "Evaluating robustness" in output.err
        printed = json.loads(output.out)
        jsonschema.validate(printed, SCHEMA)
        assert printed == json.loads((tmp_path / "out" / "evaluation.json").read_text())
        assert len(printed["models"]["int8"]["robustness"]["corruptions"]) == 11
