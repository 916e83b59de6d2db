"""The state of a training run and the computation of one step, in operations that every Keras backend has.

How a step is compiled, differentiated and distributed depends on the backend: `trainer.training_tensorflow` is the
faster one on CPUs, `trainer.training_jax` the faster one on GPUs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from trainer.augment import RandomGenerator, augment, mixup
from trainer.config import FitConfig
from trainer.data import FaceSet
from trainer.distill import SoftTargets
from trainer.errors import CheckpointError
from trainer.inputs import steps_per_epoch
from trainer.labels import class_names, vote_shares
from trainer.layers import Tensor
from trainer.model import Policy, heads, normalize, widen
from trainer.muon import KernelMuon, is_hidden_kernel
from trainer.weights import network_for


def unreadable_checkpoint(folder: Path, error: Exception) -> CheckpointError:
    """Returns the error for a folder in which no checkpoint can be read."""
    return CheckpointError(
        f"holds no readable checkpoint ({str(error).strip() or type(error).__name__})", where=folder,
        remedy="Start another run; --initial-weights can load the best weights of this one",
    )  # fmt: skip


class Training(ABC):
    """Network, averaged network, optimizer and random generator of one run.

    Args:
        config: Configuration of the run.
        train: Training images, which are copied to the backend as uint8 (66 MB for FER-2013).
        soft_targets: Teacher predictions that were computed before training, if any.

    Attributes:
        network: The network in training.
        averaged: Its exponential moving average (EMA) over the steps, which is what is evaluated and exported.
        epoch: Number of finished epochs.
        best_accuracy: Best PublicTest accuracy so far, 0 to 1; -1 before the first one is recorded.
        steps_per_epoch: Number of full batches in the training images.

    Raises:
        DataError: There are fewer images than a batch, or the votes are missing.
    """

    network: keras.Model
    averaged: keras.Model
    optimizer: keras.optimizers.Optimizer

    def __init__(self, config: FitConfig, train: FaceSet, soft_targets: SoftTargets | None = None) -> None:
        self.config = config
        self.epoch = 0
        self.best_accuracy = -1.0
        self.steps_per_epoch = steps_per_epoch(config, train)
        self._size = len(train)
        arrays = [soft_targets.images if soft_targets else train.images, *self._targets(train, soft_targets)]
        self._images_and_targets = [ops.convert_to_tensor(array) for array in arrays]  # copies: the arrays can be freed
        self._teachers: Sequence[keras.Model] = ()

    @abstractmethod
    def use_live_teachers(self, teachers: Sequence[Path]) -> None:
        """Loads teachers that predict each batch as the student sees it; they must have the heads of the student."""

    @abstractmethod
    def run_epoch(self, on_step: Callable[[int, float], None]) -> float:
        """Trains one epoch and returns its mean loss; calls `on_step(step, loss)` as steps are done, from 1."""

    @abstractmethod
    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns logits of the averaged network's main head, float32 (N, classes), for uint8 (N, 48, 48)."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes a checkpoint that resumes the run exactly; a crash meanwhile leaves the previous one usable."""

    @abstractmethod
    def restore(self, folder: Path) -> bool:
        """Restores the last checkpoint of `save`; returns False if there is none.

        Raises:
            CheckpointError: The checkpoints are damaged, or of another version.
        """

    def record_accuracy(self, accuracy: float) -> bool:
        """Records the PublicTest accuracy of an epoch, 0 to 1, and returns whether it is the best so far."""
        best = accuracy > self.best_accuracy
        self.best_accuracy = max(accuracy, self.best_accuracy)
        return best

    def set_initial_weights(self, network: keras.Model) -> None:
        """Replaces the random initial weights with those of a network of the same size or a narrower one."""
        weights = [widen(*pair) for pair in zip(network.get_weights(), self.network.get_weights(), strict=True)]
        for own in (self.network, self.averaged):
            own.set_weights(weights)

    def _build(self, policy: Policy = "float32") -> None:
        """Builds both networks and the optimizer; `policy` is that of the network in training."""
        keras.utils.set_random_seed(self.config.seed)
        self.network = network_for(self.config, dropout=self.config.dropout, policy=policy)
        self.averaged = network_for(self.config)
        self.averaged.set_weights(self.network.get_weights())
        self.optimizer = self._optimizer()
        self.optimizer.build(self.network.trainable_variables)
        # Kernels under Muon have a fixed norm, so weight decay does not apply to them.
        self._decayed = [
            weight
            for weight in self.network.trainable_variables
            if weight.path.endswith("kernel") and not (self.config.muon_lr and is_hidden_kernel(weight))
        ]

    def _optimizer(self) -> keras.optimizers.Optimizer:
        config = self.config
        if config.muon_lr:
            return KernelMuon(self._schedule(), config.muon_lr / config.peak_lr, config.momentum)
        return keras.optimizers.SGD(self._schedule(), config.momentum, nesterov=True)

    def _schedule(self) -> keras.optimizers.schedules.LearningRateSchedule:
        steps = self.config.epochs * self.steps_per_epoch
        warmup = min(round(self.config.warmup_epochs * self.steps_per_epoch), steps // 2)
        decay = steps - warmup
        peak = self.config.peak_lr
        return keras.optimizers.schedules.CosineDecay(0.0, decay, warmup_target=peak, warmup_steps=warmup)

    def _targets(self, train: FaceSet, soft_targets: SoftTargets | None) -> list[NDArray[np.float32]]:
        """Returns the targets of the main head, float32 (N, classes), and of the FER+ head if there is one."""
        if soft_targets and self.config.copies:
            return list(soft_targets.probabilities)
        main = self._label_targets(train)
        if soft_targets:
            main = self._blend(main, soft_targets.probabilities[0])
        return [main, vote_shares(train)] if self.config.votes_weight else [main]

    def _label_targets(self, train: FaceSet) -> NDArray[np.float32]:
        """Returns the smoothed labels, or for FER+ the shares of the votes, float32 (N, classes)."""
        if self.config.labels == "ferplus":
            return vote_shares(train)
        smoothing, classes = self.config.label_smoothing, len(class_names(self.config.labels))
        one_hot = np.eye(classes, dtype=np.float32)[train.labels]
        return one_hot * np.float32(1 - smoothing) + np.float32(smoothing / classes)

    def _blend(self, targets: Tensor, soft_targets: Tensor) -> Tensor:
        """Returns the weighted mean of label targets and soft targets.

        Cross-entropy is linear in its target, so this equals the usual sum of two losses. The distillation temperature
        is 1: teachers that were trained with label smoothing predict soft probabilities anyway.
        """
        weight = np.float32(self.config.teacher_weight)
        return targets * (1 - weight) + soft_targets * weight

    def _order(self) -> NDArray[np.int64]:
        """Returns the image indices of each step of this epoch, (steps, batch_size)."""
        # Seeded by the epoch, so that a resumed run sees the same batches as an uninterrupted one.
        order = np.random.default_rng((self.config.seed, self.epoch)).permutation(self._size)
        order += self.epoch % max(self.config.copies, 1) * self._size
        return order[: self.steps_per_epoch * self.config.batch_size].reshape(self.steps_per_epoch, -1)

    def _loss(self, images: Tensor, targets: Sequence[Tensor], side_px: int, random: RandomGenerator) -> Tensor:
        """Returns the mean cross-entropy of a batch.

        Args:
            images: uint8 (N, 48, 48); copies are augmented already.
            targets: Targets of each head, float32 (N, classes).
            side_px: Side of the images that the network gets.
            random: Random number generator.
        """
        config = self.config
        faces = normalize(images[..., None] if config.copies else self._augment(images, side_px, random))
        if config.mixup:
            faces, *targets = mixup([faces, *targets], config.mixup, random)
        if self._teachers:
            # Not strict: teachers may have an FER+ head that the student lacks.
            targets = [self._blend(*pair) for pair in zip(targets, self._teacher_predictions(faces), strict=False)]
        return self._cross_entropy(self.network(faces, training=True), targets)

    def _augment(self, images: Tensor, side_px: int, random: RandomGenerator) -> Tensor:
        degrade_share, erase_share = self.config.degrade_share, self.config.erase_share
        return augment(images, side_px, degrade_share=degrade_share, erase_share=erase_share, random=random)

    def _teacher_predictions(self, faces: Tensor) -> list[Tensor]:
        """Returns the live teachers' mean probabilities for a batch, float32 (N, classes) for each head."""
        predictions = [
            [ops.softmax(ops.cast(logits, "float32")) for logits in heads(teacher(faces, training=False))]
            for teacher in self._teachers
        ]
        return [sum(of_head) / len(predictions) for of_head in zip(*predictions, strict=False)]

    def _cross_entropy(self, outputs: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """Returns the weighted sum of the heads' cross-entropies.

        A target of zeros, as of an image without votes for an emotion, has no effect on its head, except that live
        teachers' predictions are blended into it.
        """
        weights = (1.0, self.config.votes_weight)
        losses = [
            weight * ops.mean(-ops.sum(target * ops.log_softmax(ops.cast(logits, "float32")), axis=-1))
            for weight, target, logits in zip(weights, targets, heads(outputs), strict=False)
        ]
        return sum(losses)

    def _penalty(self) -> Tensor:
        """Returns the L2 penalty of the weight decay, which is added to the loss."""
        return self.config.weight_decay * 0.5 * sum(ops.sum(ops.square(kernel)) for kernel in self._decayed)

    def _ema_decay(self, steps: Tensor) -> Tensor:
        """Returns the decay of the EMA after this many steps, smaller at first so that it forgets the random start."""
        steps = ops.cast(steps, "float32")
        return ops.minimum(self.config.ema_decay, (1 + steps) / (10 + steps))
