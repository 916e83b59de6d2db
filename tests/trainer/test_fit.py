"""Training runs: their files, how they resume, and what they reject."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
import weakref
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from edge.contract import UserError
from tests.trainer.stripes import stripe_dataset, stripes
from trainer.config import FitConfig
from trainer.data import Dataset, FaceSet
from trainer.distill import SoftTargets
from trainer.errors import CheckpointError, DataError
from trainer.fit import EpochResult, Listener, fit
from trainer.labels import vote_shares
from trainer.model import normalize
from trainer.muon import KernelMuon, is_hidden_kernel
from trainer.provenance import provenance
from trainer.recipes import read_recipe
from trainer.run import read_config, write_config
from trainer.training_tensorflow import TensorFlowTraining
from trainer.weights import load_full_network, load_network, predict

TINY = FitConfig(
    stages=((16, 1), (32, 2)), batch_size=16, peak_lr=0.02, warmup_epochs=0.5, votes_weight=0.0, ema_decay=0.5,
    width=0.25, top_channels=16, blocks=(0, 0, 0),
)  # fmt: skip
LEARNING = FitConfig(
    stages=((48, 8),), batch_size=16, peak_lr=0.05, warmup_epochs=1, ema_decay=0.8, votes_weight=0.2, width=0.5,
    blocks=(0, 0, 1),
)  # fmt: skip


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """A data set that is easy to learn."""
    return stripe_dataset()


def begin(config: FitConfig, faces: FaceSet) -> TensorFlowTraining:
    """A run on one device before its first step."""
    return TensorFlowTraining(config, faces)


class StopAfter(Listener):
    """Interrupts the run after an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_epoch(self, result: EpochResult) -> None:
        if result.epoch == self.epoch:
            raise KeyboardInterrupt


DEEPER = replace(TINY, blocks=(1, 2, 1), mixup=0.3)
ONE_SIZE = replace(TINY, stages=((16, 3),))
SMALL = replace(TINY, stages=((16, 1),))


@pytest.mark.parametrize("config", [TINY, replace(TINY, muon_lr=0.02), DEEPER], ids=["sgd", "muon", "deeper"])
def test_a_resumed_run_is_equal_to_an_uninterrupted_one(config: FitConfig, tmp_path: Path, dataset: Dataset) -> None:
    """Stopped after an epoch and resumed, a run ends with the weights of an uninterrupted one."""
    fit(dataset, tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        fit(dataset, tmp_path / "broken", config, listener=StopAfter(1))
    fit(dataset, tmp_path / "broken", config, resume=True)
    images = dataset.split("test").images
    whole, broken = (predict(load_network(tmp_path / name), images) for name in ("whole", "broken"))
    np.testing.assert_allclose(whole, broken, atol=1e-4)
    lines = [json.loads(line) for line in (tmp_path / "broken" / "history.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["side_px"]) for line in lines] == [(1, 16), (2, 32), (3, 32)]


@pytest.mark.parametrize("unwritable", ["history.jsonl", "checkpoint"])
def test_an_epoch_that_was_not_wholly_written_is_trained_again(
    unwritable: str, tmp_path: Path, dataset: Dataset
) -> None:
    """Whichever file could not be written, the resumed run has each epoch once in its history and its curves."""
    run, aside = tmp_path / "run", tmp_path / "aside"

    class FailInSecond(Listener):
        def on_step(self, epoch: int, step: int, steps: int, loss: float) -> None:  # noqa: ARG002
            if (epoch, step) == (2, 1):
                (run / unwritable).rename(aside)
                (run / unwritable).symlink_to(tmp_path / "nowhere" / "on" / "disk")

    with pytest.raises(UserError, match=r"run: cannot be written .* --resume"):
        fit(dataset, run, ONE_SIZE, listener=FailInSecond())
    (run / unwritable).unlink()
    aside.rename(run / unwritable)
    fit(dataset, run, ONE_SIZE, resume=True)
    assert epochs_written(run) == [1, 2, 3]
    files = sorted((run / "tensorboard").iterdir())
    drawn = [event.step for file in files for event in EventFileLoader(str(file)).Load() if event.HasField("summary")]
    assert drawn == [1, 1, 2, 2, 3, 3]  # of loss and accuracy


def test_curves_that_cannot_be_written_are_a_clear_error(tmp_path: Path, dataset: Dataset) -> None:
    """They are the first files that a run writes."""
    (tmp_path / "tensorboard").write_text("a file")
    with pytest.raises(UserError, match=rf"{tmp_path.name}: cannot be written \(.*tensorboard is not a directory\)"):
        fit(dataset, tmp_path, SMALL)


def test_a_damaged_checkpoint_costs_an_epoch_or_is_a_clear_error(tmp_path: Path, dataset: Dataset) -> None:
    """The previous one is used; without any, the error names the folder, and the run is left as it is."""
    run, hopeless = tmp_path / "run", tmp_path / "hopeless"
    with pytest.raises(KeyboardInterrupt):
        fit(dataset, run, ONE_SIZE, listener=StopAfter(2))
    shutil.copytree(run, hopeless)
    damage(run / "checkpoint" / "ckpt-2.data-00000-of-00001")
    fit(dataset, run, ONE_SIZE, resume=True)
    assert epochs_written(run) == [1, 2, 3]

    for data in (hopeless / "checkpoint").glob("*.data-*"):
        damage(data)
    with pytest.raises(CheckpointError, match=r"hopeless/checkpoint: holds no readable checkpoint .*Start"):
        fit(dataset, hopeless, ONE_SIZE, resume=True)
    shutil.rmtree(hopeless / "checkpoint")
    with pytest.raises(CheckpointError, match=r"hopeless: has no checkpoint to resume from\. Start another run"):
        fit(dataset, hopeless, ONE_SIZE, resume=True)
    assert epochs_written(hopeless) == [1, 2]


def test_an_incomplete_checkpoint_is_ignored(tmp_path: Path, dataset: Dataset) -> None:
    """Killed while writing, a run resumes from the previous checkpoint, or starts over without one."""
    run, first = tmp_path / "run", tmp_path / "first"
    with pytest.raises(KeyboardInterrupt):
        fit(dataset, run, ONE_SIZE, listener=StopAfter(1))
    shutil.copytree(run, first)
    (first / "checkpoint" / "ckpt-1.index").unlink()  # which TensorFlow writes last
    fit(dataset, first, ONE_SIZE, resume=True)
    assert epochs_written(first) == [1, 2, 3]
    shutil.copy(run / "checkpoint" / "ckpt-1.data-00000-of-00001", run / "checkpoint" / "ckpt-2.data-00000-of-00001")
    fit(dataset, run, ONE_SIZE, resume=True)
    assert epochs_written(run) == [1, 2, 3]
    assert {file.stem for file in (run / "checkpoint").iterdir()} == {"ckpt-2", "ckpt-3"}


HALF_A_CONFIGURATION = """
import resource, signal, sys
from pathlib import Path
from trainer.config import FitConfig
from trainer.provenance import Provenance
from trainer.run import write_config
signal.signal(signal.SIGXFSZ, signal.SIG_DFL if sys.argv[2] == "killed" else signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
write_config(Path(sys.argv[1]), FitConfig(), Provenance("data.csv", "0", "0", {}))
"""


@pytest.mark.parametrize("end", ["error", "killed"])
def test_a_partial_configuration_does_not_block_the_folder(end: str, tmp_path: Path, dataset: Dataset) -> None:
    """If the disk is full or the process is killed while writing, the folder can be used for another try."""
    command = [sys.executable, "-c", HALF_A_CONFIGURATION, str(tmp_path), end]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == -signal.SIGXFSZ if end == "killed" else "File too large" in done.stderr
    write_config(tmp_path, TINY, provenance(dataset, TINY))
    assert read_config(tmp_path)[0] == TINY


def epochs_written(run: Path) -> list[int]:
    """The epochs in the history."""
    return [json.loads(line)["epoch"] for line in (run / "history.jsonl").read_text().splitlines()]


def damage(file: Path) -> None:
    """Truncates it to half, as a power cut may."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def test_a_tie_with_the_best_is_no_improvement_after_resuming(tmp_path: Path, dataset: Dataset) -> None:
    """The best accuracy is restored from the checkpoint in full precision."""
    training = begin(TINY, dataset.split("train"))
    assert training.record_accuracy(49 / 70)  # which single precision would make smaller
    training.save(tmp_path / "checkpoint")
    resumed = begin(TINY, dataset.split("train"))
    assert resumed.restore(tmp_path / "checkpoint")
    assert not resumed.record_accuracy(49 / 70)


def test_private_test_is_not_needed(tmp_path: Path, dataset: Dataset) -> None:
    """A run without it completes, as nothing is selected on it."""
    fit(Dataset(dataset.path, {name: dataset.split(name) for name in ("train", "validation")}), tmp_path, ONE_SIZE)
    assert epochs_written(tmp_path) == [1, 2, 3]


def test_the_best_weights_are_chosen_on_public_test(tmp_path: Path, dataset: Dataset) -> None:
    """The accuracies of a run are those on PublicTest, and the best weights have the best of them."""
    best = fit(dataset, tmp_path, ONE_SIZE)
    validation = dataset.split("validation")
    right = predict(load_network(tmp_path), validation.images).argmax(axis=1) == validation.labels
    assert np.mean(right) == pytest.approx(best, abs=1e-6)
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert max(line["accuracy"] for line in lines) == best


def test_a_diverging_run_ends_and_keeps_the_epochs_before(tmp_path: Path, dataset: Dataset) -> None:
    """The error names the epoch and a remedy; best weights, history and checkpoint are those of the epoch before."""
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(dataset, run, ONE_SIZE, listener=StopAfter(1))
    good = (run / "best.weights.h5").read_bytes()
    origin = read_config(run)[1]
    (run / "config.json").unlink()
    write_config(run, replace(ONE_SIZE, peak_lr=1e6), origin)
    with pytest.raises(UserError, match=r"run: diverged in epoch 2: its loss is nan\. .* a lower peak_lr"):
        fit(dataset, run, ONE_SIZE, resume=True)
    assert (run / "best.weights.h5").read_bytes() == good
    assert epochs_written(run) == [1]
    assert not list((run / "checkpoint").glob("ckpt-2*"))


def test_a_network_with_logits_that_are_not_finite_has_diverged(tmp_path: Path, dataset: Dataset) -> None:
    """It is never the best, even if only the last step, which no loss shows, made it diverge; Muon has two rates."""
    wild = replace(SMALL, batch_size=224, peak_lr=1e6, weight_decay=1e6, warmup_epochs=0, ema_decay=0.0)
    for config, rates in ((wild, "peak_lr"), (replace(wild, muon_lr=1e6), "peak_lr or muon_lr")):
        run = tmp_path / rates
        with pytest.raises(UserError, match=rf"{rates}: diverged in epoch 1: its network.* a lower {rates} in "):
            fit(dataset, run, config)
        assert not (run / "best.weights.h5").exists()


def test_an_epoch_that_is_always_wrong_is_better_than_none(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an accuracy of 0, as may happen with few validation images, the first epoch is saved and no later one."""
    judged = []

    class Judge(Listener):
        def on_epoch(self, result: EpochResult) -> None:
            judged.append((result.accuracy, result.best))

    judges = dataset.split("validation")
    others = judges.take(np.flatnonzero(judges.labels != 0))
    monkeypatch.setattr(TensorFlowTraining, "logits", lambda _, images: np.eye(7)[np.zeros(len(images), int)])
    first_class_alone = Dataset(dataset.path, {**dataset.splits, "validation": others})
    assert fit(first_class_alone, tmp_path, replace(SMALL, stages=((16, 2),)), listener=Judge()) == 0
    assert judged == [(0, True), (0, False)]
    assert load_network(tmp_path).count_params() > 0


def test_the_rate_rises_to_its_peak_and_falls_to_zero(dataset: Dataset) -> None:
    """Linear warm-up, then cosine decay to the last step; the optimizer uses it."""
    training = begin(replace(TINY, warmup_epochs=1.0), dataset.split("train"))  # three epochs of 14 steps
    rate = training._schedule()
    reached = [float(rate(step)) for step in (0, 7, 14, 21, 28, 35, 42)]
    falling = [0.01 * (1 + math.cos(math.pi * share)) for share in (0, 0.25, 0.5, 0.75, 1)]
    assert reached == pytest.approx([0, 0.01, *falling], abs=1e-7)
    training.optimizer.iterations.assign(28)
    assert float(training.optimizer.learning_rate) == pytest.approx(0.01)


def test_the_rate_falls_in_the_second_half_at_least(dataset: Dataset) -> None:
    """In a single epoch too, which a warm-up of one epoch would fill."""
    rate = begin(replace(SMALL, warmup_epochs=1.0), dataset.split("train"))._schedule()  # 14 steps
    assert [float(rate(step)) for step in (0, 7, 14)] == pytest.approx([0, 0.02, 0], abs=1e-7)


@pytest.mark.parametrize("muon_lr", [0.0, 0.02])
def test_weight_decay_applies_to_kernels_only(muon_lr: float, dataset: Dataset) -> None:
    """Its gradient is proportional to each weight that SGD trains, and None for biases and batch normalization."""
    training = begin(replace(TINY, weight_decay=0.01, muon_lr=muon_lr), dataset.split("train"))
    weights = training.network.trainable_variables
    with tf.GradientTape() as tape:
        penalty = training._penalty()
    for weight, pull in zip(weights, tape.gradient(penalty, [weight.value for weight in weights]), strict=True):
        if weight.ndim == 1 or (muon_lr and is_hidden_kernel(weight)):
            assert pull is None
        else:
            np.testing.assert_allclose(pull, 0.01 * weight.numpy(), rtol=1e-5)


def test_weight_decay_shrinks_kernels(dataset: Dataset) -> None:
    """With a large one, the same epoch ends with much smaller kernels."""
    lengths = []
    for weight_decay in (0.0, 1.0):
        training = begin(replace(ONE_SIZE, weight_decay=weight_decay), dataset.split("train"))
        training.run_epoch(lambda _step, _loss: None)
        kernels = [weight.numpy() for weight in training.network.trainable_variables if weight.ndim > 1]
        lengths.append(math.sqrt(sum(np.square(kernel).sum() for kernel in kernels)))
    assert lengths[1] < 0.9 * lengths[0]


def test_targets_are_smoothed_labels_blended_with_soft_targets(dataset: Dataset) -> None:
    """Label smoothing comes first, then the weighted mean with the teachers' probabilities."""
    train, config = dataset.split("train"), replace(TINY, label_smoothing=0.07, teacher_weight=0.6)
    training, softened = begin(config, train), np.where(np.eye(7)[train.labels], 0.94, 0.01)
    np.testing.assert_allclose(training._targets(train, None)[0], softened, atol=1e-6)
    taught = SoftTargets(train.images, [np.full((len(train), 7), 1 / 7, np.float32)])
    np.testing.assert_allclose(training._targets(train, taught)[0], 0.4 * softened + 0.6 / 7, atol=1e-6)


def test_each_epoch_trains_on_the_next_copies_unchanged(dataset: Dataset) -> None:
    """All images once in each, and without further augmentation."""
    train, config = dataset.split("train"), replace(TINY, copies=3, dropout=0.0)
    copies = np.concatenate([train.images, train.images[:, ::-1], train.images[:, :, ::-1]])
    answers = np.full((len(copies), 7), 1 / 7, np.float32)
    training = TensorFlowTraining(config, train, SoftTargets(copies, [answers]))
    for training.epoch, copy in enumerate((0, 1, 2, 0, 1)):
        assert set(training._order().flat) <= set(range(copy * len(train), (copy + 1) * len(train)))
    images, random = tf.constant(copies[:14]), tf.random.Generator.from_seed(1)
    losses = {float(training._loss(images, [tf.constant(answers[:14])], 48, random)) for _ in range(3)}
    assert len(losses) == 1


def test_training_images_are_in_memory_only_once(dataset: Dataset) -> None:
    """Copies of a whole data set take gigabytes: no reference is kept to the arrays that the backend has copied."""
    train = dataset.split("train")
    copies = train.images.copy()
    kept = weakref.ref(copies)
    answers = np.full((len(copies), 7), 1 / 7, np.float32)
    training = TensorFlowTraining(replace(SMALL, copies=1), train, SoftTargets(copies, [answers]))
    del copies
    assert kept() is None
    assert training.run_epoch(lambda _step, _loss: None) > 0


def test_the_network_learns(tmp_path: Path, dataset: Dataset) -> None:
    """After a few epochs on stripes, the averaged network is far better than chance, with both heads."""
    config = replace(LEARNING, width=1.0, blocks=(0, 1, 1))
    assert fit(dataset, tmp_path / "run", config) > 0.6
    assert any((tmp_path / "run" / "tensorboard").iterdir())
    assert read_config(tmp_path / "run")[0] == config


def test_each_block_adds_two_layers(dataset: Dataset) -> None:
    """One block at each of the three sizes and a second in the middle: four layers more than the default."""
    counts = {
        blocks: len([weight for weight in begin(replace(TINY, blocks=blocks), dataset.split("train")).network.weights
                     if is_hidden_kernel(weight)])
        for blocks in ((0, 1, 1), (1, 2, 1))
    }  # fmt: skip
    assert counts == {(0, 1, 1): 9, (1, 2, 1): 13}


def test_a_face_and_its_mirror_image_get_the_same_answer(tmp_path: Path, dataset: Dataset) -> None:
    """With `mirror`, before and after an epoch, with little more than half the weights; without it, they do not."""
    config = LEARNING
    faces = stripes(70, seed=4).images
    faces += np.arange(48, dtype=np.uint8)  # lighter on the right
    sizes = {}
    for mirror in (False, True):
        training = begin(replace(config, mirror=mirror), dataset.split("train"))
        sizes[mirror] = training.network.count_params()
        for _ in range(2):
            apart = np.abs(training.logits(faces) - training.logits(faces[:, :, ::-1])).max()
            assert apart < 1e-4 if mirror else apart > 0.01
            training.run_epoch(lambda _step, _loss: None)
    assert sizes[True] < 0.6 * sizes[False]
    assert fit(dataset, tmp_path / "run", replace(config, mirror=True)) > 0.6


def test_mixup_makes_training_harder(dataset: Dataset) -> None:
    """Blended images are harder to classify: the loss stays higher."""
    losses = {}
    for mixup in (0.0, 0.5):
        training = begin(replace(TINY, stages=((32, 4),), mixup=mixup), dataset.split("train"))
        losses[mixup] = [training.run_epoch(lambda _step, _loss: None) for _ in range(4)][-1]
    assert losses[0.5] > losses[0.0] + 0.1


def test_muon_learns_sooner_than_sgd(dataset: Dataset) -> None:
    """Over three epochs on stripes the loss is lower, and the kernels keep their initial norm."""
    config = FitConfig(stages=((48, 3),), batch_size=16, peak_lr=0.05, warmup_epochs=0.5, votes_weight=0.0, width=0.5)
    losses = {}
    for muon_lr in (0.0, 0.03):
        training = begin(replace(config, muon_lr=muon_lr), dataset.split("train"))
        losses[muon_lr] = [training.run_epoch(lambda _step, _loss: None) for _ in range(3)]
    assert sum(losses[0.03]) < sum(losses[0.0]) - 0.05
    kernels = [weight for weight in training.network.trainable_variables if is_hidden_kernel(weight)]
    assert len(kernels) == 9
    for kernel in kernels:
        assert np.linalg.norm(kernel.numpy()) == pytest.approx(np.sqrt(2 * kernel.shape[-1]), rel=1e-3)


@pytest.mark.parametrize("shape", [(40, 12), (12, 40)])
def test_a_muon_step_changes_all_directions_equally(shape: tuple[int, int]) -> None:
    """Singular values that span three decades become nearly equal, along the same singular vectors."""
    left, _, right = np.linalg.svd(np.random.default_rng(1).normal(size=shape), full_matrices=False)
    matrix = (left * np.geomspace(1, 1e-3, 12)) @ right
    step = KernelMuon(0.1, kernel_factor=1.0, momentum=0.9).orthogonalize(tf.constant(matrix, tf.float32)).numpy()
    along = left.T @ step @ right.T
    assert np.abs(along - np.diag(np.diag(along))).max() < 1e-3
    assert (np.diag(along)[:8] > 0.6).all()
    assert (np.diag(along) < 1.3).all()


def test_a_run_starts_with_the_weights_of_another(tmp_path: Path, dataset: Dataset) -> None:
    """After one short epoch, they are as accurate as before, with or without votes; random ones are not."""
    assert fit(dataset, tmp_path / "finished", LEARNING) > 0.6
    short = replace(LEARNING, stages=((48, 1),), peak_lr=1e-4)
    for votes_weight in (0.2, 0.0):
        more = replace(short, votes_weight=votes_weight, initial_weights=str(tmp_path / "finished"))
        assert fit(dataset, tmp_path / f"more-{votes_weight}", more) > 0.6
    assert fit(dataset, tmp_path / "fresh", short) < 0.4


@pytest.mark.parametrize(
    ("mirror", "wider"), [(False, {"top_channels": 32}), (False, {"width": 0.375}), (True, {"top_channels": 32})]
)
def test_a_wider_network_starts_with_the_logits_of_a_narrower(
    mirror: bool, wider: dict[str, Any], tmp_path: Path, dataset: Dataset
) -> None:
    """The added channels change no logit before the first step, and are trained by it."""
    narrower = replace(TINY, votes_weight=0.2, mirror=mirror)
    fit(dataset, tmp_path / "narrow", narrower)
    training = begin(replace(narrower, **wider), dataset.split("train"))
    training.set_initial_weights(load_full_network(tmp_path / "narrow"))
    images = dataset.split("test").images
    narrow = predict(load_network(tmp_path / "narrow"), images)
    for network in (training.network, training.averaged):
        np.testing.assert_allclose(predict(network, images), narrow, atol=1e-4)
    training.run_epoch(lambda _step, _loss: None)
    new_inputs = training.network.get_layer("logits").kernel.numpy()[0, 0, 2 if mirror else 4 :]
    assert np.abs(new_inputs).min() > 0


def test_weights_of_another_network_are_rejected(tmp_path: Path, dataset: Dataset) -> None:
    """The error names the run and describes both networks, or names the folder that does not exist."""
    wide = replace(TINY, stages=((16, 1),), width=1.5)
    fit(dataset, tmp_path / "wide", wide)
    fine_tuned = replace(TINY, initial_weights=str(tmp_path / "wide"))
    with pytest.raises(
        CheckpointError, match=r"wide: does not fit as initial weights: .* width 1.5, .* width 0.25, 16"
    ):
        fit(dataset, tmp_path / "run", fine_tuned)
    with pytest.raises(CheckpointError, match=r"its network has .* without FER\+ head, this run's .* with FER\+ head"):
        fit(dataset, tmp_path / "run", replace(fine_tuned, width=1.5, votes_weight=0.5))
    with pytest.raises(CheckpointError, match=r"its network has .* blocks 0-0-0, .* this run's .* blocks 1-2-1, "):
        fit(dataset, tmp_path / "run", replace(fine_tuned, width=1.5, blocks=(1, 2, 1)))
    with pytest.raises(CheckpointError, match=r"its network has .*, ordinary channels, .*, paired channels, "):
        fit(dataset, tmp_path / "run", replace(fine_tuned, width=1.5, mirror=True))
    paired = replace(TINY, stages=((16, 1),), mirror=True)
    fit(dataset, tmp_path / "paired", paired)
    with pytest.raises(
        CheckpointError, match=r"paired: does not fit as initial weights: .* width 0.25, .* width 1.5, "
    ):
        fit(dataset, tmp_path / "run", replace(paired, width=1.5, initial_weights=str(tmp_path / "paired")))
    with pytest.raises(CheckpointError, match="nobody: is not a run folder"):
        fit(dataset, tmp_path / "run", replace(TINY, initial_weights=str(tmp_path / "nobody")))
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_overwritten(tmp_path: Path, dataset: Dataset) -> None:
    """Hours of training are not lost to a repeated command; the error says how to resume."""
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="--resume"):
        fit(dataset, tmp_path, TINY)


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path: Path, dataset: Dataset) -> None:
    """A second `--resume` is rejected while the first is running, as both would write the same checkpoints."""
    refused = []

    class ResumeMeanwhile(Listener):
        def on_epoch(self, result: EpochResult) -> None:
            with pytest.raises(CheckpointError, match=r"run: is being trained by another process\. Wait for it"):
                fit(dataset, tmp_path / "run", TINY, resume=True)
            refused.append(result.epoch)

    fit(dataset, tmp_path / "run", TINY, listener=ResumeMeanwhile())
    assert refused == [1, 2, 3]
    fit(dataset, tmp_path / "run", TINY, resume=True)


def test_a_run_that_cannot_start_leaves_no_folder(tmp_path: Path, dataset: Dataset) -> None:
    """After a wrong path of a teacher, or one without a finished epoch, the right one works in the same folder."""
    with pytest.raises(CheckpointError, match="nobody"):
        fit(dataset, tmp_path / "run", replace(TINY, teachers=(str(tmp_path / "nobody"),)))
    (tmp_path / "started").mkdir()
    write_config(tmp_path / "started", TINY, provenance(dataset, TINY))
    with pytest.raises(CheckpointError, match=r"started: has no best.weights.h5 yet"):
        fit(dataset, tmp_path / "run", replace(TINY, teachers=(str(tmp_path / "started"),)))
    assert not (tmp_path / "run").exists()


def test_of_two_processes_that_start_the_same_run_the_first_wins(tmp_path: Path, dataset: Dataset) -> None:
    """However close they are, the folder has the configuration of the first."""
    origin = provenance(dataset, TINY)
    write_config(tmp_path, TINY, origin)
    with pytest.raises(CheckpointError, match="already holds a run"):
        write_config(tmp_path, ONE_SIZE, origin)
    assert read_config(tmp_path)[0] == TINY


def test_a_run_is_not_resumed_with_other_data(tmp_path: Path, dataset: Dataset) -> None:
    """Images, labels, validation data and votes must be those that the run was started with."""
    with pytest.raises(KeyboardInterrupt):
        fit(dataset, tmp_path / "run", replace(TINY, votes_weight=0.5), listener=StopAfter(1))
    train = dataset.split("train")
    without_votes = FaceSet(train.images, train.labels, train.names)
    for changed, message in (
        ({"train": stripes(64, 9)}, r"run: was started with other data \(stripes.csv\)"),
        (
            {"validation": stripes(70, 9)},
            "run: was started with another PublicTest, on which its weights were selected. Use",
        ),
        ({"train": without_votes}, "run: was started with other votes. Use the --votes that it was started with"),
    ):
        with pytest.raises(CheckpointError, match=message):
            fit(Dataset(dataset.path, {**dataset.splits, **changed}), tmp_path / "run", TINY, resume=True)


def test_a_full_disk_is_a_clear_error_and_costs_an_epoch(small_disk: Path, dataset: Dataset) -> None:
    """h5py would crash the process. With free space again, the run resumes."""
    config = replace(ONE_SIZE, width=1.0, top_channels=256)
    with pytest.raises(
        UserError, match=r"run: cannot be written \(No space left on device\). Free some space .* --resume"
    ):
        fit(dataset, small_disk / "run", config)
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    fit(dataset, small_disk / "run", config, resume=True)
    assert epochs_written(small_disk / "run") == [1, 2, 3]


def test_too_few_images_for_a_batch_are_a_clear_error(tmp_path: Path, dataset: Dataset) -> None:
    """A run without a step is not started; the folder can be used for another try."""
    few = Dataset(dataset.path, {**dataset.splits, "train": stripes(7, 1)})
    with pytest.raises(DataError, match=r"^7 training images are fewer than a batch"):
        fit(few, tmp_path / "run", TINY)
    assert not (tmp_path / "run").exists()


def test_resuming_a_folder_without_a_run_is_a_clear_error(tmp_path: Path, dataset: Dataset) -> None:
    """The error names the folder."""
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        fit(dataset, tmp_path, TINY, resume=True)


@pytest.mark.parametrize(
    "content",
    ["", "[1]", '{"stages": [[48, 1]], "speed": 9}', '{"peak_lr": 0.1}', '{"stages": [[64, 1]]}', "[" * 200_000],
    ids=["empty", "list", "speed", "no stages", "large", "deep"],
)
def test_a_file_that_is_not_a_configuration_is_a_clear_error(content: str, tmp_path: Path) -> None:
    """The error names it, and the files that could be used."""
    (tmp_path / "best.json").write_text(content)
    with pytest.raises(
        CheckpointError, match=r"best.json: is not a run configuration .* Name best.json of trainer tune"
    ):
        read_recipe(tmp_path / "best.json")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stages", []), ("stages", [48, 1]), ("stages", [[48]]), ("stages", [["48", 1]]), ("stages", [[48, 1.5]]),
        ("stages", [[48, 0]]), ("stages", [[48, 1_000_001]]), ("stages", [[48, 10**400]]), ("stages", [[8, 1]]),
        ("stages", [[64, 1]]), ("stages", "48"),
        ("batch_size", 0), ("batch_size", "14"), ("batch_size", 14.5), ("batch_size", True),
        ("peak_lr", "fast"), ("peak_lr", 0), ("peak_lr", math.nan), ("weight_decay", math.inf), ("warmup_epochs", -1),
        ("momentum", 1.1), ("label_smoothing", 1), ("mixup", 0.6), ("dropout", None), ("votes_weight", False),
        ("seed", -1), ("seed", 2**32), ("width", 0), ("top_channels", 8), ("blocks", [1, 1]), ("blocks", [0, -1, 1]),
        ("teachers", "runs/first"), ("teachers", [1]), ("initial_weights", 1), ("live_teachers", 1),
        ("copies", -1), ("copies", 1.5), ("recompose_share", 2),
        ("bfloat16", "yes"), ("labels", "FERPlus"), ("labels", ["fer2013"]),
    ],
)  # fmt: skip
def test_an_invalid_value_is_named(name: str, value: object, tmp_path: Path) -> None:
    """The error names the key and what it allows."""
    (tmp_path / "mine.json").write_text(json.dumps({"stages": [[48, 1]], name: value}))
    with pytest.raises(CheckpointError, match=rf"mine.json: is not a run configuration \({name} must be .*, not "):
        read_recipe(tmp_path / "mine.json")


@pytest.mark.parametrize("name", [field.name for field in fields(FitConfig)])
def test_every_field_is_validated(name: str) -> None:
    """A new field must declare its allowed values."""
    with pytest.raises(ValueError, match=f"^{name} must be "):
        replace(TINY, **{name: {}})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content", ["", "[1]", '"fit"', '{"fit": "stages"}', "[" * 200_000], ids=["empty", "list", "text", "stages", "deep"]
)
def test_a_damaged_configuration_of_a_run_is_a_clear_error(content: str, tmp_path: Path) -> None:
    """The error names the file."""
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config.json: cannot be read"):
        read_config(tmp_path)


def test_data_without_a_name_are_named_after_their_folder(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--data .` would otherwise be recorded as an empty name, which means no other data."""
    monkeypatch.chdir(tmp_path)
    origin = provenance(Dataset(Path(), dataset.splits), TINY)
    assert origin.other_data("of another data set") == tmp_path.name


def test_training_on_votes_without_votes_is_a_clear_error(tmp_path: Path, dataset: Dataset) -> None:
    """The error names the file that is missing."""
    train = dataset.split("train")
    without = Dataset(dataset.path, {**dataset.splits, "train": FaceSet(train.images, train.labels, train.names)})
    with pytest.raises(DataError, match="fer2013new"):
        fit(without, tmp_path / "run", FitConfig(votes_weight=0.5))


def test_images_without_votes_do_not_affect_the_ferplus_head() -> None:
    """An image without votes for an emotion has no gradient there."""
    faces = stripes(16, 1)
    nobody_voted = FaceSet(faces.images, faces.labels, faces.names, np.zeros((16, 10), np.int64))
    training = begin(replace(TINY, votes_weight=0.5), nobody_voted)
    kernel = training.network.get_layer("votes").kernel
    with tf.GradientTape() as tape:
        outputs = training.network(normalize(nobody_voted.images[..., np.newaxis]), training=True)
        loss = training._cross_entropy(outputs, [np.eye(7)[nobody_voted.labels], vote_shares(nobody_voted)])
    assert not np.any(tape.gradient(loss, kernel.value))


def test_devices_that_do_not_divide_the_batch_are_left_out() -> None:
    """With shares of different sizes, images in the smaller one would weigh more."""
    program = """
from dataclasses import replace
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
cpus = tf.config.list_logical_devices("CPU")
tf.config.list_logical_devices = lambda kind: cpus
from trainer.training_tensorflow import TensorFlowTraining
from tests.trainer.stripes import stripes
from tests.trainer.test_fit import SMALL
for batch_size in (1, 6, 8):
    training = TensorFlowTraining(replace(SMALL, batch_size=batch_size), stripes(14, 1))
    print(batch_size, "on", training._strategy.num_replicas_in_sync)
try:
    TensorFlowTraining(replace(SMALL, batch_size=3), stripes(14, 1), strategy=training._strategy)
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path.cwd())
    expected = ["1 on 1", "6 on 3", "8 on 4", "a batch_size of 3 cannot be divided evenly among 4 devices"]
    assert done.stdout.splitlines() == expected, done.stderr[-2000:]
    assert "training on 3 of 4 GPUs" in done.stderr


@pytest.mark.parametrize("muon_lr", [0.0, 0.02])
def test_several_devices_share_a_batch(muon_lr: float) -> None:
    """With tf.distribute, steps of two devices have the same norm as those of one."""
    program = """
import sys
from dataclasses import replace
import numpy as np
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from trainer.training_tensorflow import TensorFlowTraining
from tests.trainer.stripes import stripes
from tests.trainer.test_fit import TINY
moved = []
for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])):
    training = TensorFlowTraining(replace(TINY, muon_lr=float(sys.argv[1])), stripes(64, 1), strategy=strategy)
    before = [weight.numpy() for weight in training.network.trainable_variables]
    training.run_epoch(lambda step, loss: None)
    after = [weight.numpy() for weight in training.network.trainable_variables]
    moved.append(np.sqrt(sum(np.square(new - old).sum() for old, new in zip(before, after))))
print("steps", training.optimizer.iterations.numpy(), 0.8 < moved[1] / moved[0] < 1.25, moved)
"""
    command = [sys.executable, "-c", program, str(muon_lr)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path.cwd())
    assert "steps 4 True" in done.stdout, done.stdout[-500:] + done.stderr[-2000:]
