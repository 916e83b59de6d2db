"""Knowledge distillation: soft targets, their cache, and which teachers are accepted."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.contract import UserError
from trainer.config import FitConfig
from trainer.data import Dataset, FaceSet
from trainer.distill import soft_targets
from trainer.errors import CheckpointError
from trainer.export import ExportOptions, export
from trainer.fit import EpochResult, Listener, fit
from trainer.provenance import provenance
from trainer.run import BEST_WEIGHTS, CONFIG, SOFT_TARGETS, read_config, write_config

TEACHER = FitConfig(
    stages=((48, 8),),
    batch_size=16,
    peak_lr=0.05,
    warmup_epochs=1,
    ema_decay=0.8,
    votes_weight=0.0,
    width=0.5,
    blocks=(0, 0, 0),
)


@pytest.fixture(scope="module")
def teacher(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a wider network."""
    path = tmp_path_factory.mktemp("runs") / "teacher"
    assert fit(dataset, path, TEACHER) > 0.6
    return path


@pytest.fixture(scope="module")
def mislabelled(dataset: Dataset) -> Dataset:
    """The same data with wrong training labels."""
    train = dataset.split("train")
    nonsense = FaceSet(train.images, np.roll(train.labels, 1), train.names, train.votes)
    return Dataset(dataset.path, {**dataset.splits, "train": nonsense})


@pytest.fixture(scope="module")
def accurate(teacher: Path, mislabelled: Dataset) -> Path:
    """The teacher, as if it had been trained on that data, though it predicts the true labels."""
    path = teacher.with_name("accurate")
    shutil.copytree(teacher, path)
    (path / "config.json").unlink()
    write_config(path, TEACHER, provenance(mislabelled, TEACHER))
    return path


def predicted(cache: Path, teachers: Sequence[Path | str], images: np.ndarray, **changes: Any) -> np.ndarray:
    """The soft targets of these images for a run with these teachers, float32 (N, 7)."""
    config = replace(TEACHER, teachers=tuple(map(str, teachers)), **changes)
    return np.asarray(soft_targets(cache, config, images).probabilities[0])


def test_a_student_learns_what_its_teacher_knows(mislabelled: Dataset, accurate: Path, tmp_path: Path) -> None:
    """With wrong labels, the student is accurate by the soft targets alone, and its model card declares them."""
    config = replace(TEACHER, width=0.25, teachers=(str(accurate),), teacher_weight=1.0)
    assert fit(mislabelled, tmp_path / "student", config) > 0.6
    export(tmp_path / "student", tmp_path / "bundle", mislabelled, ExportOptions(name="student", max_drop=None))
    assert f"predictions of `{accurate}`" in (tmp_path / "bundle" / "MODEL_CARD.md").read_text()


def test_a_student_learns_from_a_live_teacher(mislabelled: Dataset, accurate: Path, tmp_path: Path) -> None:
    """It predicts each image as the student sees it, after mixup too, and nothing is cached."""
    config = replace(TEACHER, width=0.25, teachers=(str(accurate),), teacher_weight=1.0, live_teachers=True, mixup=0.3)
    assert fit(mislabelled, tmp_path / "student", config) > 0.6
    assert not (tmp_path / "student" / SOFT_TARGETS).exists()


def test_a_student_learns_from_copies_alone(mislabelled: Dataset, accurate: Path, tmp_path: Path) -> None:
    """The soft targets are its only targets, whatever the labels are; a run that was stopped resumes."""
    config = replace(TEACHER, width=0.25, teachers=(str(accurate),), teacher_weight=0.0, copies=3, recompose_share=0.3)
    fit(mislabelled, tmp_path / "student", replace(config, stages=((48, 2),)))
    written = read_config(tmp_path / "student")
    (tmp_path / "student" / CONFIG).unlink()
    write_config(tmp_path / "student", config, written[1])
    assert fit(mislabelled, tmp_path / "student", config, resume=True) > 0.6
    export(tmp_path / "student", tmp_path / "bundle", mislabelled, ExportOptions(name="student", max_drop=None))
    assert (
        "3 augmented copies of each training image, 30% of them composed"
        in (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    )


def test_copies_have_soft_targets_for_each_head(dataset: Dataset, tmp_path: Path) -> None:
    """For the labels and for the votes, of all copies; a cache of other copies is rejected."""
    fit(dataset, tmp_path / "teacher", replace(TEACHER, stages=((48, 1),), votes_weight=0.5))
    images, cache = dataset.split("train").images[:7], tmp_path / SOFT_TARGETS
    config = replace(TEACHER, votes_weight=0.5, teachers=(str(tmp_path / "teacher"),), copies=2)
    taught = soft_targets(cache, config, images)
    assert [answer.shape for answer in taught.probabilities] == [(14, 7), (14, 8)]
    assert taught.images.shape == (14, 48, 48)
    for answer, again in zip(taught.probabilities, soft_targets(cache, config, images).probabilities, strict=True):
        np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-5)
        np.testing.assert_array_equal(answer, again)
    with pytest.raises(CheckpointError, match="belongs to other images"):
        soft_targets(cache, replace(config, seed=2), images)
    assert len(soft_targets(tmp_path / "labels.npz", replace(config, votes_weight=0.0), images).probabilities) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"live_teachers": True},
            "live_teachers has no effect without teachers. Name one",
        ),
        ({"recompose_share": 0.5}, "recompose_share has no effect without copies. Set copies"),
    ],
)
def test_settings_without_effect_are_rejected(
    changes: dict[str, Any], message: str, dataset: Dataset, tmp_path: Path
) -> None:
    """Otherwise the run would not be what its configuration says."""
    with pytest.raises(UserError, match=message):
        fit(dataset, tmp_path / "run", replace(TEACHER, **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teachers": ()}, "copies need a teacher, .* Name one with --teacher"),
        ({"live_teachers": True}, "live_teachers predict during training"),
        ({"stages": ((32, 1), (48, 1))}, "copies are 48 px in size, and stages has smaller images"),
    ],
)
def test_copies_need_teachers_that_predict_before_training_at_full_size(
    changes: dict[str, Any], message: str, dataset: Dataset, teacher: Path, tmp_path: Path
) -> None:
    """Anything else is rejected before a folder is created."""
    config = replace(TEACHER, **{"teachers": (str(teacher),), "copies": 2, **changes})
    with pytest.raises(UserError, match=message):
        fit(dataset, tmp_path / "student", config)
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize("how", [{}, {"live_teachers": True}, {"copies": 1}], ids=["first", "live", "copies"])
def test_label_smoothing_must_be_that_of_the_teachers(
    how: dict[str, Any], dataset: Dataset, teacher: Path, tmp_path: Path
) -> None:
    """An export corrects for the configured value, and the soft targets have that of the teachers."""
    config = replace(TEACHER, width=0.25, teachers=(str(teacher),), label_smoothing=0.0, **how)
    error = r'teacher: was trained with a label_smoothing of 0.1, .* has 0.0, .* Set "label_smoothing": 0.1 in --config'
    with pytest.raises(UserError, match=error):
        fit(dataset, tmp_path / "student", config)
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize("how", [{"live_teachers": True}, {"copies": 1}])
def test_a_teacher_needs_the_heads_of_the_student(
    how: dict[str, Any], dataset: Dataset, teacher: Path, tmp_path: Path
) -> None:
    """One without FER+ head is rejected by a run whose FER+ head learns from it."""
    config = replace(TEACHER, votes_weight=0.5, teachers=(str(teacher),), **how)
    with pytest.raises(CheckpointError, match=r"teacher: has no FER\+ head"):
        fit(dataset, tmp_path / "student", config)
    assert not (tmp_path / "student").exists()


def test_soft_targets_are_mean_probabilities_of_the_teachers(dataset: Dataset, teacher: Path, tmp_path: Path) -> None:
    """Two equal teachers give the soft targets of one; each row sums to 1, and flips make no difference."""
    images = dataset.split("train").images[:40]
    one = predicted(tmp_path / "one.npz", [teacher], images)
    two = predicted(tmp_path / "two.npz", [teacher] * 2, images)
    np.testing.assert_allclose(one, two, atol=1e-6)
    np.testing.assert_allclose(one.sum(axis=1), 1, atol=1e-5)
    mirrored = predicted(tmp_path / "mirrored.npz", [teacher], images[:, :, ::-1])
    np.testing.assert_allclose(one, mirrored, atol=1e-3)


def test_a_resumed_run_does_not_need_its_teacher(dataset: Dataset, teacher: Path, tmp_path: Path) -> None:
    """The soft targets are cached in the run."""
    gone = tmp_path / "gone"
    shutil.copytree(teacher, gone)
    config = replace(TEACHER, stages=((48, 1),), teachers=(str(gone),))
    fit(dataset, tmp_path / "student", config)
    shutil.rmtree(gone)
    fit(dataset, tmp_path / "student", config, resume=True)
    with pytest.raises(CheckpointError, match="belongs to other images"):
        predicted(tmp_path / "student" / SOFT_TARGETS, [gone], dataset.split("train").images[:7])


class StopAt(Listener):
    """Interrupts the run after a step, or at the end of an epoch if no step is given."""

    def __init__(self, step: int | None = None) -> None:
        self._step = step

    def on_step(self, epoch: int, step: int, steps: int, loss: float) -> None:  # noqa: ARG002
        if step == self._step:
            raise KeyboardInterrupt

    def on_epoch(self, result: EpochResult) -> None:  # noqa: ARG002
        raise KeyboardInterrupt


@pytest.mark.parametrize("role", ["teacher", "beginning"])
def test_a_resumed_run_needs_the_weights_it_was_started_with(
    role: str, dataset: Dataset, teacher: Path, tmp_path: Path
) -> None:
    """A live teacher, or the run with the initial weights, may have been trained further meanwhile.

    Runs of earlier versions, which did not record the hashes, resume.
    """
    run, behind = tmp_path / "run", tmp_path / "behind"
    shutil.copytree(teacher, behind)
    config = replace(TEACHER, stages=((16, 2),))
    if role == "teacher":
        config, stop = replace(config, width=0.25, teachers=(str(behind),), live_teachers=True), StopAt()
    else:
        config, stop = replace(config, initial_weights=str(behind)), StopAt(step=1)
    with pytest.raises(KeyboardInterrupt):
        fit(dataset, run, config, listener=stop)
    with (behind / BEST_WEIGHTS).open("ab") as weights:
        weights.write(b"other")
    with pytest.raises(
        CheckpointError, match=rf"behind: has other weights than when {run} was started\. Restore its former"
    ):
        fit(dataset, run, config, resume=True)
    document = json.loads((run / CONFIG).read_text())
    del document["weights_sha256"]
    (run / CONFIG).write_text(json.dumps(document))
    with pytest.raises(KeyboardInterrupt):
        fit(dataset, run, config, resume=True, listener=StopAt())


def test_a_cache_of_other_teachers_is_rejected(dataset: Dataset, teacher: Path, tmp_path: Path) -> None:
    """The predictions of one teacher are not used as those of another."""
    images, cache = dataset.split("train").images[:7], tmp_path / SOFT_TARGETS
    predicted(cache, [teacher], images)
    with pytest.raises(
        CheckpointError, match=r"teaching.npz: holds the predictions of other teachers\. Name the teachers"
    ):
        predicted(cache, [tmp_path / "another"], images)


def test_a_cache_from_before_a_teacher_s_weights_changed_is_rejected(
    dataset: Dataset, teacher: Path, tmp_path: Path
) -> None:
    """It holds the predictions of the former weights."""
    images, cache, another = dataset.split("train").images[:7], tmp_path / SOFT_TARGETS, tmp_path / "another"
    shutil.copytree(teacher, another)
    predicted(cache, [another], images)
    fit(dataset, tmp_path / "run", replace(TEACHER, stages=((48, 1),)))
    (tmp_path / "run" / BEST_WEIGHTS).replace(another / BEST_WEIGHTS)
    with pytest.raises(
        CheckpointError, match=rf"{SOFT_TARGETS}: holds predictions of {another} from before its weights changed"
    ):
        predicted(cache, [another], images)


@pytest.mark.parametrize("left", [0.0, 0.5, 0.99])
def test_a_damaged_cache_is_computed_again(left: float, dataset: Dataset, teacher: Path, tmp_path: Path) -> None:
    """A truncated or corrupt file costs the time of the predictions, and no run."""
    images, cache = dataset.split("train").images[:7], tmp_path / SOFT_TARGETS
    first = predicted(cache, [teacher], images)
    whole = cache.read_bytes()
    named, entry = whole.replace(b"images_sha256", b"images_sha265"), whole.index(b"PK\x01\x02")
    encrypted, compressed = bytearray(whole), bytearray(whole)
    encrypted[entry + 8], compressed[entry + 10] = 1, 99  # as the archive's directory says of the first array
    for damaged in (whole[: int(left * len(whole))], named, encrypted, compressed):
        cache.write_bytes(damaged)
        np.testing.assert_allclose(predicted(cache, [teacher], images), first, atol=1e-6)
        assert cache.stat().st_size == len(whole)


def test_a_teacher_of_other_data_is_rejected(
    mislabelled: Dataset, teacher: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It may have memorized validation or test images of the student, and so may one that it initialized.

    Such weights are allowed as initial weights, with a warning, and a note in the bundle's model card.
    """
    fine_tuned, message = tmp_path / "fine_tuned", "was trained on other data (stripes.csv)"
    fit(mislabelled, fine_tuned, replace(TEACHER, stages=((16, 1),), initial_weights=str(teacher)))
    assert message in caplog.text
    export(fine_tuned, tmp_path / "bundle", mislabelled, ExportOptions(name="fine-tuned", max_drop=None))
    assert "were trained on other data, `stripes.csv`" in (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    for forbidden in (teacher, fine_tuned):
        with pytest.raises(CheckpointError, match=re.escape(f"{forbidden.name}: {message}")):
            fit(mislabelled, tmp_path / "student", replace(TEACHER, teachers=(str(forbidden),)))
    assert not (tmp_path / "student").exists()


def test_a_teacher_of_other_labels_is_rejected(dataset: Dataset, teacher: Path, tmp_path: Path) -> None:
    """The error names the teacher and its labels, or the folder that does not exist."""
    images = dataset.split("train").images
    with pytest.raises(CheckpointError, match=f"{teacher}.*fer2013, not ferplus"):
        predicted(tmp_path / SOFT_TARGETS, [teacher], images, labels="ferplus")
    with pytest.raises(CheckpointError, match="is not a run folder"):
        predicted(tmp_path / SOFT_TARGETS, [tmp_path / "nobody"], images)
