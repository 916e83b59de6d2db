"""Learning from teachers: the same answers, kept, and only from teachers that fit."""

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
from tests.trainer.stripes import stripe_dataset
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
def dataset() -> Dataset:
    """Faces that anything can learn."""
    return stripe_dataset()


@pytest.fixture(scope="module")
def teacher(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a wider network."""
    path = tmp_path_factory.mktemp("runs") / "teacher"
    assert fit(dataset, path, TEACHER) > 0.6
    return path


@pytest.fixture(scope="module")
def mislabelled(dataset: Dataset) -> Dataset:
    """The same data with training labels that mean nothing."""
    train = dataset.split("train")
    nonsense = FaceSet(train.images, np.roll(train.labels, 1), train.names, train.votes)
    return Dataset(dataset.path, {**dataset.splits, "train": nonsense})


@pytest.fixture(scope="module")
def wise(teacher: Path, mislabelled: Dataset) -> Path:
    """The teacher as if it had learned from those labels, and knew better."""
    path = teacher.with_name("wise")
    shutil.copytree(teacher, path)
    (path / "config.json").unlink()
    write_config(path, TEACHER, provenance(mislabelled, TEACHER))
    return path


def asked(kept: Path, teachers: Sequence[Path | str], images: np.ndarray, **changes: Any) -> np.ndarray:
    """What a run with these teachers would be told of these images, float32 (N, 7)."""
    config = replace(TEACHER, teachers=tuple(map(str, teachers)), **changes)
    return np.asarray(soft_targets(kept, config, images).probabilities[0])


def test_a_student_learns_what_its_teacher_knows(mislabelled: Dataset, wise: Path, tmp_path: Path) -> None:
    """Where all labels are wrong, the teacher's answers alone make the student right, and its card declares them."""
    config = replace(TEACHER, width=0.25, teachers=(str(wise),), teacher_weight=1.0)
    assert fit(mislabelled, tmp_path / "student", config) > 0.6
    export(tmp_path / "student", tmp_path / "bundle", mislabelled, ExportOptions(name="student", max_drop=None))
    assert f"learned from `{wise}`" in (tmp_path / "bundle" / "MODEL_CARD.md").read_text()


def test_a_teacher_that_is_asked_live_teaches_the_same(mislabelled: Dataset, wise: Path, tmp_path: Path) -> None:
    """It is right about each image as the student sees it, two mixed into one too, and nothing has to be kept."""
    config = replace(TEACHER, width=0.25, teachers=(str(wise),), teacher_weight=1.0, live_teachers=True, mixup=0.3)
    assert fit(mislabelled, tmp_path / "student", config) > 0.6
    assert not (tmp_path / "student" / SOFT_TARGETS).exists()


def test_a_student_learns_from_copies_alone(mislabelled: Dataset, wise: Path, tmp_path: Path) -> None:
    """What the teacher says of them is its whole target, whatever the labels are; a run that was stopped goes on."""
    config = replace(TEACHER, width=0.25, teachers=(str(wise),), teacher_weight=0.0, copies=3, recompose_share=0.3)
    fit(mislabelled, tmp_path / "student", replace(config, stages=((48, 2),)))
    written = read_config(tmp_path / "student")
    (tmp_path / "student" / CONFIG).unlink()
    write_config(tmp_path / "student", config, written[1])
    assert fit(mislabelled, tmp_path / "student", config, resume=True) > 0.6
    export(tmp_path / "student", tmp_path / "bundle", mislabelled, ExportOptions(name="student", max_drop=None))
    assert (
        "3 varied copies of each training image, 30% of them joined"
        in (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    )


def test_of_copies_each_head_is_told(dataset: Dataset, tmp_path: Path) -> None:
    """The labels' and the votes', of all copies; other copies are other images."""
    fit(dataset, tmp_path / "teacher", replace(TEACHER, stages=((48, 1),), votes_weight=0.5))
    images, kept = dataset.split("train").images[:7], tmp_path / SOFT_TARGETS
    config = replace(TEACHER, votes_weight=0.5, teachers=(str(tmp_path / "teacher"),), copies=2)
    taught = soft_targets(kept, config, images)
    assert [answer.shape for answer in taught.probabilities] == [(14, 7), (14, 8)]
    assert taught.images.shape == (14, 48, 48)
    for answer, again in zip(taught.probabilities, soft_targets(kept, config, images).probabilities, strict=True):
        np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-5)
        np.testing.assert_array_equal(answer, again)
    with pytest.raises(CheckpointError, match="belongs to other images"):
        soft_targets(kept, replace(config, seed=2), images)
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
def test_what_would_have_no_effect_is_refused(
    changes: dict[str, Any], message: str, dataset: Dataset, tmp_path: Path
) -> None:
    """In place of a run that is not what its configuration says."""
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
def test_copies_need_teachers_that_are_asked_first_at_full_size(
    changes: dict[str, Any], message: str, dataset: Dataset, teacher: Path, tmp_path: Path
) -> None:
    """Anything else is refused before a folder is made."""
    config = replace(TEACHER, **{"teachers": (str(teacher),), "copies": 2, **changes})
    with pytest.raises(UserError, match=message):
        fit(dataset, tmp_path / "student", config)
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize("how", [{}, {"live_teachers": True}, {"copies": 1}], ids=["first", "live", "copies"])
def test_label_smoothing_is_the_teachers(how: dict[str, Any], dataset: Dataset, teacher: Path, tmp_path: Path) -> None:
    """An export takes out of the answers what the configuration says, and they have what their teachers learned."""
    config = replace(TEACHER, width=0.25, teachers=(str(teacher),), label_smoothing=0.0, **how)
    told = r'teacher: was trained with a label_smoothing of 0.1, .* has 0.0, .* Set "label_smoothing": 0.1 in --config'
    with pytest.raises(UserError, match=told):
        fit(dataset, tmp_path / "student", config)
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize("how", [{"live_teachers": True}, {"copies": 1}])
def test_a_teacher_of_votes_has_to_have_learned_them(
    how: dict[str, Any], dataset: Dataset, teacher: Path, tmp_path: Path
) -> None:
    """One that learned none is refused by a run that learns them from its teachers."""
    config = replace(TEACHER, votes_weight=0.5, teachers=(str(teacher),), **how)
    with pytest.raises(CheckpointError, match=r"teacher: has no FER\+ head"):
        fit(dataset, tmp_path / "student", config)
    assert not (tmp_path / "student").exists()


def test_the_answers_are_probabilities_and_mean_over_teachers(dataset: Dataset, teacher: Path, tmp_path: Path) -> None:
    """Two equal teachers say what one says; each row sums to 1."""
    images = dataset.split("train").images[:40]
    one = asked(tmp_path / "one.npz", [teacher], images)
    two = asked(tmp_path / "two.npz", [teacher] * 2, images)
    np.testing.assert_allclose(one, two, atol=1e-6)
    np.testing.assert_allclose(one.sum(axis=1), 1, atol=1e-5)
    mirrored = asked(tmp_path / "mirrored.npz", [teacher], images[:, :, ::-1])
    np.testing.assert_allclose(one, mirrored, atol=1e-3)


def test_a_resumed_run_needs_its_teacher_no_more(dataset: Dataset, teacher: Path, tmp_path: Path) -> None:
    """What the teacher said is kept in the run."""
    gone = tmp_path / "gone"
    shutil.copytree(teacher, gone)
    config = replace(TEACHER, stages=((48, 1),), teachers=(str(gone),))
    fit(dataset, tmp_path / "student", config)
    shutil.rmtree(gone)
    fit(dataset, tmp_path / "student", config, resume=True)
    with pytest.raises(CheckpointError, match="belongs to other images"):
        asked(tmp_path / "student" / SOFT_TARGETS, [gone], dataset.split("train").images[:7])


class StopAt(Listener):
    """Pulls the plug after a step, or at the end of an epoch where no step is named."""

    def __init__(self, step: int | None = None) -> None:
        self._step = step

    def on_step(self, epoch: int, step: int, steps: int, loss: float) -> None:  # noqa: ARG002
        if step == self._step:
            raise KeyboardInterrupt

    def on_epoch(self, result: EpochResult) -> None:  # noqa: ARG002
        raise KeyboardInterrupt


@pytest.mark.parametrize("role", ["teacher", "beginning"])
def test_a_resumed_run_goes_on_with_the_weights_it_began_with(
    role: str, dataset: Dataset, teacher: Path, tmp_path: Path
) -> None:
    """A teacher that is asked live, or the run from which it begins, may have been trained on or again meanwhile.

    Runs of earlier versions, which do not know, go on.
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


def test_answers_of_other_teachers_are_refused(dataset: Dataset, teacher: Path, tmp_path: Path) -> None:
    """What one teacher said is not taken for what another would say."""
    images, kept = dataset.split("train").images[:7], tmp_path / SOFT_TARGETS
    asked(kept, [teacher], images)
    with pytest.raises(
        CheckpointError, match=r"teaching.npz: holds the predictions of other teachers\. Name the teachers"
    ):
        asked(kept, [tmp_path / "another"], images)


def test_answers_from_before_a_teacher_s_weights_changed_are_refused(
    dataset: Dataset, teacher: Path, tmp_path: Path
) -> None:
    """What is kept of a teacher is of these weights, and not of others."""
    images, kept, another = dataset.split("train").images[:7], tmp_path / SOFT_TARGETS, tmp_path / "another"
    shutil.copytree(teacher, another)
    asked(kept, [another], images)
    fit(dataset, tmp_path / "run", replace(TEACHER, stages=((48, 1),)))
    (tmp_path / "run" / BEST_WEIGHTS).replace(another / BEST_WEIGHTS)
    with pytest.raises(
        CheckpointError, match=rf"{SOFT_TARGETS}: holds predictions of {another} from before its weights changed"
    ):
        asked(kept, [another], images)


@pytest.mark.parametrize("left", [0.0, 0.5, 0.99])
def test_damaged_answers_are_asked_for_again(left: float, dataset: Dataset, teacher: Path, tmp_path: Path) -> None:
    """A file that a crash has cut off costs the asking, and no run."""
    images, kept = dataset.split("train").images[:7], tmp_path / SOFT_TARGETS
    first = asked(kept, [teacher], images)
    whole = kept.read_bytes()
    named, entry = whole.replace(b"images_sha256", b"images_sha265"), whole.index(b"PK\x01\x02")
    encrypted, compressed = bytearray(whole), bytearray(whole)
    encrypted[entry + 8], compressed[entry + 10] = 1, 99  # as the archive's directory says of the first array
    for damaged in (whole[: int(left * len(whole))], named, encrypted, compressed):
        kept.write_bytes(damaged)
        np.testing.assert_allclose(asked(kept, [teacher], images), first, atol=1e-6)
        assert kept.stat().st_size == len(whole)


def test_a_teacher_of_other_data_is_refused(
    mislabelled: Dataset, teacher: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It may have learned what judges its pupil by heart, and so may one that began with the weights of such a run.

    A run may begin with such weights all the same; it says so when it begins, and in the bundle's card.
    """
    heir, told = tmp_path / "heir", "was trained on other data (stripes.csv)"
    fit(mislabelled, heir, replace(TEACHER, stages=((16, 1),), initial_weights=str(teacher)))
    assert told in caplog.text
    export(heir, tmp_path / "bundle", mislabelled, ExportOptions(name="heir", max_drop=None))
    assert "had learned from other data, `stripes.csv`" in (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    for forbidden in (teacher, heir):
        with pytest.raises(CheckpointError, match=re.escape(f"{forbidden.name}: {told}")):
            fit(mislabelled, tmp_path / "student", replace(TEACHER, teachers=(str(forbidden),)))
    assert not (tmp_path / "student").exists()


def test_a_teacher_of_other_labels_is_refused(dataset: Dataset, teacher: Path, tmp_path: Path) -> None:
    """The teacher is named, with what it learned; so is one that is not there."""
    images = dataset.split("train").images
    with pytest.raises(CheckpointError, match=f"{teacher}.*fer2013, not ferplus"):
        asked(tmp_path / SOFT_TARGETS, [teacher], images, labels="ferplus")
    with pytest.raises(CheckpointError, match="is not a run folder"):
        asked(tmp_path / SOFT_TARGETS, [tmp_path / "nobody"], images)
