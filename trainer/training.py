"""A training run's state, and what one step computes, in operations that Keras gives every backend.

How a step is compiled, differentiated and spread over devices is the backend's: `trainer.training_tensorflow`, the
faster one on processors, and `trainer.training_jax`, the faster one on a GPU.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from trainer.augment import Dice, augment, mix
from trainer.config import FitConfig
from trainer.data import FaceSet
from trainer.distill import Taught
from trainer.errors import CheckpointError
from trainer.inputs import steps_per_epoch
from trainer.labels import class_names, vote_shares
from trainer.layers import Tensor
from trainer.model import Policy, grow, heads, normalize
from trainer.muon import KernelMuon, is_hidden_kernel
from trainer.weights import network_for


def unreadable(checkpoints: Path, error: Exception) -> CheckpointError:
    """What to say of a folder from whose checkpoints a run cannot go on."""
    return CheckpointError(
        f"holds no checkpoint that can be read ({str(error).strip() or type(error).__name__})", where=checkpoints,
        remedy="Begin another run; --initial-weights takes the best weights of this one",
    )  # fmt: skip


class Training(ABC):
    """Network, averaged network, optimizer and dice of one run.

    Args:
        config: What the run is made of.
        train: The training images, of which it keeps a copy as uint8 (66 MB for FER-2013).
        taught: What the teachers said beforehand, where they were asked then.

    Attributes:
        network: The network in training.
        averaged: Its weights averaged over the steps; what is evaluated and exported.
        epoch: How many are done.
        best_accuracy: On PublicTest so far, 0 to 1; less before the first epoch is judged.
        steps_per_epoch: Batches that the training images make.

    Raises:
        DataError: There are fewer images than a batch takes, or no votes to learn.
    """

    network: keras.Model
    averaged: keras.Model
    optimizer: keras.optimizers.Optimizer

    def __init__(self, config: FitConfig, train: FaceSet, taught: Taught | None = None) -> None:
        self.config = config
        self.epoch = 0
        self.best_accuracy = -1.0
        self.steps_per_epoch = steps_per_epoch(config, train)
        self._size = len(train)
        material = [taught.images if taught else train.images, *self._targets(train, taught)]
        self._material = [ops.convert_to_tensor(array) for array in material]  # a copy: nothing else is kept of them
        self._teachers: Sequence[keras.Model] = ()

    @abstractmethod
    def ask_live(self, teachers: Sequence[Path]) -> None:
        """Has these runs teach every image as it is seen in training; their networks have the heads of this one."""

    @abstractmethod
    def run_epoch(self, on_step: Callable[[int, float], None]) -> float:
        """Trains one epoch and returns its mean loss; `on_step(number, loss)` is called after steps that are done."""

    @abstractmethod
    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Of the averaged network's main head, float32 (N, classes), for uint8 (N, 48, 48)."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes all that is needed for the run to go on as if it had never stopped, at any moment a whole state."""

    @abstractmethod
    def restore(self, folder: Path) -> bool:
        """Reads what `save` wrote; False where there is nothing yet.

        Raises:
            CheckpointError: What is there is damaged, or of another version.
        """

    def judge(self, accuracy: float) -> bool:
        """Takes note of an epoch's accuracy on PublicTest, 0 to 1; whether every epoch before was worse."""
        best = accuracy > self.best_accuracy
        self.best_accuracy = max(accuracy, self.best_accuracy)
        return best

    def begin_with(self, network: keras.Model) -> None:
        """Begins with the weights of a finished run, of this network or a narrower one, in place of random ones."""
        weights = [grow(*pair) for pair in zip(network.get_weights(), self.network.get_weights(), strict=True)]
        for own in (self.network, self.averaged):
            own.set_weights(weights)

    def _build(self, policy: Policy = "float32") -> None:
        """Makes both networks and the optimizer; `policy` is that of the network in training."""
        keras.utils.set_random_seed(self.config.seed)
        self.network = network_for(self.config, dropout=self.config.dropout, policy=policy)
        self.averaged = network_for(self.config)
        self.averaged.set_weights(self.network.get_weights())
        self.optimizer = self._optimizer()
        self.optimizer.build(self.network.trainable_variables)
        # Muon's kernels have a fixed length, which leaves nothing to decay.
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

    def _targets(self, train: FaceSet, taught: Taught | None) -> list[NDArray[np.float32]]:
        """What each head is to say of each image: the main head's, float32 (N, classes), and the votes head's."""
        if taught and self.config.copies:
            return list(taught.answers)
        main = self._smooth_targets(train)
        if taught:
            main = self._blend(main, taught.answers[0])
        return [main, vote_shares(train)] if self.config.votes_weight else [main]

    def _smooth_targets(self, train: FaceSet) -> NDArray[np.float32]:
        """float32 (N, classes): the label, softened; for FER+ the crowd's votes are soft by themselves."""
        if self.config.labels == "ferplus":
            return vote_shares(train)
        smoothing, classes = self.config.label_smoothing, len(class_names(self.config.labels))
        one_hot = np.eye(classes, dtype=np.float32)[train.labels]
        return one_hot * np.float32(1 - smoothing) + np.float32(smoothing / classes)

    def _blend(self, targets: Tensor, taught: Tensor) -> Tensor:
        """The teachers' answers and the labels in one target: cross-entropy is linear in it, so one term serves both.

        The temperature is 1, since teachers that learned from softened labels answer softly by themselves.
        """
        weight = np.float32(self.config.teacher_weight)
        return targets * (1 - weight) + taught * weight

    def _order(self) -> NDArray[np.int64]:
        """The images of each step of this epoch, (steps, batch_size)."""
        # It depends on the epoch alone, so that a resumed run sees what an unbroken one sees.
        order = np.random.default_rng((self.config.seed, self.epoch)).permutation(self._size)
        order += self.epoch % max(self.config.copies, 1) * self._size
        return order[: self.steps_per_epoch * self.config.batch_size].reshape(self.steps_per_epoch, -1)

    def _loss(self, images: Tensor, targets: Sequence[Tensor], side_px: int, dice: Dice) -> Tensor:
        """Mean cross-entropy of a batch.

        Args:
            images: uint8 (N, 48, 48); copies have been varied already.
            targets: Of each head, float32 (N, classes).
            side_px: Side of the images that the network sees.
            dice: Source of all randomness.
        """
        config = self.config
        faces = normalize(images[..., None] if config.copies else self._varied(images, side_px, dice))
        if config.mixup:
            faces, *targets = mix([faces, *targets], config.mixup, dice)
        if self._teachers:
            # Teachers may have a votes head that this run has no use for.
            targets = [self._blend(*pair) for pair in zip(targets, self._taught_live(faces), strict=False)]
        return self._cross_entropy(self.network(faces, training=True), targets)

    def _varied(self, images: Tensor, side_px: int, dice: Dice) -> Tensor:
        config = self.config
        return augment(images, side_px, degrade_share=config.degrade_share, erase_share=config.erase_share, random=dice)

    def _taught_live(self, faces: Tensor) -> list[Tensor]:
        """The teachers' mean probabilities for a batch, one float32 (N, classes) for each head."""
        answers = [
            [ops.softmax(ops.cast(logits, "float32")) for logits in heads(teacher(faces, training=False))]
            for teacher in self._teachers
        ]
        return [sum(of_head) / len(answers) for of_head in zip(*answers, strict=False)]

    def _cross_entropy(self, outputs: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """Of all heads. A target of zeros teaches a head nothing, as that of an image without a vote for an emotion.

        Teachers that are asked live put their answer in its place.
        """
        weights = (1.0, self.config.votes_weight)
        losses = [
            weight * ops.mean(-ops.sum(target * ops.log_softmax(ops.cast(logits, "float32")), axis=-1))
            for weight, target, logits in zip(weights, targets, heads(outputs), strict=False)
        ]
        return sum(losses)

    def _penalty(self) -> Tensor:
        """What the weight decay adds to the loss."""
        return self.config.weight_decay * 0.5 * sum(ops.sum(ops.square(kernel)) for kernel in self._decayed)

    def _average_decay(self, steps: Tensor) -> Tensor:
        """How much of the averaged weights stays after a step."""
        # Early on the average would remember the random start: its memory grows with the steps done.
        steps = ops.cast(steps, "float32")
        return ops.minimum(self.config.ema_decay, (1 + steps) / (10 + steps))
