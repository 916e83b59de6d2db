"""Single training steps and epochs: targets, schedule, optimizer, and networks."""

from __future__ import annotations

import math
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.stripes import LEARNING, ONE_SIZE, SMALL, TINY, stripes
from trainer.config import FitConfig
from trainer.data import Dataset, FaceSet
from trainer.distill import SoftTargets
from trainer.fit import fit
from trainer.labels import vote_shares
from trainer.model import normalize
from trainer.muon import KernelMuon, is_hidden_kernel
from trainer.training_tensorflow import TensorFlowTraining
from trainer.weights import load_full_network, load_network, predict


def test_a_tie_with_the_best_is_no_improvement_after_resuming(tmp_path: Path, dataset: Dataset) -> None:
    """The best accuracy is restored from the checkpoint in full precision."""
    training = TensorFlowTraining(TINY, dataset.split("train"))
    assert training.record_accuracy(49 / 70)  # which single precision would make smaller
    training.save(tmp_path / "checkpoint")
    resumed = TensorFlowTraining(TINY, dataset.split("train"))
    assert resumed.restore(tmp_path / "checkpoint")
    assert not resumed.record_accuracy(49 / 70)


def test_the_rate_rises_to_its_peak_and_falls_to_zero(dataset: Dataset) -> None:
    """Linear warm-up, then cosine decay to the last step; the optimizer uses it."""
    training = TensorFlowTraining(replace(TINY, warmup_epochs=1.0), dataset.split("train"))  # three epochs of 14 steps
    rate = training._schedule()
    reached = [float(rate(step)) for step in (0, 7, 14, 21, 28, 35, 42)]
    falling = [0.01 * (1 + math.cos(math.pi * share)) for share in (0, 0.25, 0.5, 0.75, 1)]
    assert reached == pytest.approx([0, 0.01, *falling], abs=1e-7)
    training.optimizer.iterations.assign(28)
    assert float(training.optimizer.learning_rate) == pytest.approx(0.01)


def test_the_rate_falls_in_the_second_half_at_least(dataset: Dataset) -> None:
    """In a single epoch too, which a warm-up of one epoch would fill."""
    rate = TensorFlowTraining(replace(SMALL, warmup_epochs=1.0), dataset.split("train"))._schedule()  # 14 steps
    assert [float(rate(step)) for step in (0, 7, 14)] == pytest.approx([0, 0.02, 0], abs=1e-7)


@pytest.mark.parametrize("muon_lr", [0.0, 0.02])
def test_weight_decay_applies_to_kernels_only(muon_lr: float, dataset: Dataset) -> None:
    """Its gradient is proportional to each weight that SGD trains, and None for biases and batch normalization."""
    training = TensorFlowTraining(replace(TINY, weight_decay=0.01, muon_lr=muon_lr), dataset.split("train"))
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
        training = TensorFlowTraining(replace(ONE_SIZE, weight_decay=weight_decay), dataset.split("train"))
        training.run_epoch(lambda _step, _loss: None)
        kernels = [weight.numpy() for weight in training.network.trainable_variables if weight.ndim > 1]
        lengths.append(math.sqrt(sum(np.square(kernel).sum() for kernel in kernels)))
    assert lengths[1] < 0.9 * lengths[0]


def test_targets_are_smoothed_labels_blended_with_soft_targets(dataset: Dataset) -> None:
    """Label smoothing comes first, then the weighted mean with the teachers' probabilities."""
    train, config = dataset.split("train"), replace(TINY, label_smoothing=0.07, teacher_weight=0.6)
    training, softened = TensorFlowTraining(config, train), np.where(np.eye(7)[train.labels], 0.94, 0.01)
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


def test_each_block_adds_two_layers(dataset: Dataset) -> None:
    """One block at each of the three sizes and a second in the middle: four layers more than the default."""
    counts = {}
    for blocks in ((0, 1, 1), (1, 2, 1)):
        network = TensorFlowTraining(replace(TINY, blocks=blocks), dataset.split("train")).network
        counts[blocks] = len([weight for weight in network.weights if is_hidden_kernel(weight)])
    assert counts == {(0, 1, 1): 9, (1, 2, 1): 13}


def test_a_face_and_its_mirror_image_get_the_same_answer(tmp_path: Path, dataset: Dataset) -> None:
    """With `mirror`, before and after an epoch, with little more than half the weights; without it, they do not."""
    config = LEARNING
    faces = stripes(70, seed=4).images
    faces += np.arange(48, dtype=np.uint8)  # lighter on the right
    sizes = {}
    for mirror in (False, True):
        training = TensorFlowTraining(replace(config, mirror=mirror), dataset.split("train"))
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
        training = TensorFlowTraining(replace(TINY, stages=((32, 4),), mixup=mixup), dataset.split("train"))
        losses[mixup] = [training.run_epoch(lambda _step, _loss: None) for _ in range(4)][-1]
    assert losses[0.5] > losses[0.0] + 0.1


def test_muon_learns_sooner_than_sgd(dataset: Dataset) -> None:
    """Over three epochs on stripes the loss is lower, and the kernels keep their initial norm."""
    config = FitConfig(stages=((48, 3),), batch_size=16, peak_lr=0.05, warmup_epochs=0.5, votes_weight=0.0, width=0.5)
    losses = {}
    for muon_lr in (0.0, 0.03):
        training = TensorFlowTraining(replace(config, muon_lr=muon_lr), dataset.split("train"))
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


@pytest.mark.parametrize(
    ("mirror", "wider"), [(False, {"top_channels": 32}), (False, {"width": 0.375}), (True, {"top_channels": 32})]
)
def test_a_wider_network_starts_with_the_logits_of_a_narrower(
    mirror: bool, wider: dict[str, Any], tmp_path: Path, dataset: Dataset
) -> None:
    """The added channels change no logit before the first step, and are trained by it."""
    narrower = replace(SMALL, votes_weight=0.2, mirror=mirror)
    fit(dataset, tmp_path / "narrow", narrower)
    training = TensorFlowTraining(replace(narrower, **wider), dataset.split("train"))
    training.set_initial_weights(load_full_network(tmp_path / "narrow"))
    images = dataset.split("test").images
    narrow = predict(load_network(tmp_path / "narrow"), images)
    for network in (training.network, training.averaged):
        np.testing.assert_allclose(predict(network, images), narrow, atol=1e-4)
    training.run_epoch(lambda _step, _loss: None)
    new_inputs = training.network.get_layer("logits").kernel.numpy()[0, 0, 2 if mirror else 4 :]
    assert np.abs(new_inputs).min() > 0


def test_images_without_votes_do_not_affect_the_ferplus_head() -> None:
    """An image without votes for an emotion has no gradient there."""
    faces = stripes(16, 1)
    nobody_voted = FaceSet(faces.images, faces.labels, faces.names, np.zeros((16, 10), np.int64))
    training = TensorFlowTraining(replace(TINY, votes_weight=0.5), nobody_voted)
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
from tests.trainer.stripes import SMALL, stripes
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


def test_several_devices_share_a_batch() -> None:
    """With tf.distribute, steps of two devices have the same norm as those of one, with SGD and with Muon."""
    program = """
from dataclasses import replace
import numpy as np
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from trainer.training_tensorflow import TensorFlowTraining
from tests.trainer.stripes import TINY, stripes

def norm_of_change(muon_lr, strategy):
    training = TensorFlowTraining(replace(TINY, muon_lr=muon_lr), stripes(64, 1), strategy=strategy)
    before = [weight.numpy() for weight in training.network.trainable_variables]
    training.run_epoch(lambda step, loss: None)
    assert training.optimizer.iterations.numpy() == 4
    after = [weight.numpy() for weight in training.network.trainable_variables]
    return np.sqrt(sum(np.square(new - old).sum() for old, new in zip(before, after)))

one, two = tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
for muon_lr in (0.0, 0.02):
    print(norm_of_change(muon_lr, two) / norm_of_change(muon_lr, one))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr[-2000:]
    ratios = [float(ratio) for ratio in done.stdout.split()]
    assert len(ratios) == 2
    assert all(0.8 < ratio < 1.25 for ratio in ratios)
