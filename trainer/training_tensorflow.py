"""Training with TensorFlow, the faster backend on CPUs; uses several GPUs through `tf.distribute`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from trainer.config import FitConfig
from trainer.data import FaceSet
from trainer.distill import SoftTargets
from trainer.training import Training, unreadable_checkpoint
from trainer.weights import load_full_network, predict

log = logging.getLogger(__name__)

_CORRUPT_CHECKPOINT_ERRORS: Final = (tf.errors.OpError, LookupError, ValueError, AssertionError)
"""What TensorFlow raises for a checkpoint that is truncated, corrupt, or of other variables."""

_PREFIX: Final = "ckpt-"
"""Prefix of checkpoint names; the number of finished epochs follows."""
_MAX_TO_KEEP: Final = 2

_Step = Callable[[NDArray[np.int64]], tf.Tensor]


class TensorFlowTraining(Training):
    """One run; each replica trains on an equal share of every batch.

    Args:
        config: Configuration of the run.
        train: Training images.
        soft_targets: Teacher predictions that were computed before training, if any.
        strategy: Distribution strategy; by default, over as many GPUs as divide the batch evenly; if those are fewer
            than two, the default device, a GPU or the CPU.

    Raises:
        ValueError: The batch size is not a multiple of the number of replicas of `strategy`.
    """

    def __init__(
        self,
        config: FitConfig,
        train: FaceSet,
        soft_targets: SoftTargets | None = None,
        strategy: tf.distribute.Strategy | None = None,
    ) -> None:
        super().__init__(config, train, soft_targets)
        self._strategy = strategy or _default_strategy(config.batch_size)
        if config.batch_size % self._strategy.num_replicas_in_sync:  # the loss averages over replicas, not images
            raise ValueError(f"a batch_size of {config.batch_size} cannot be divided evenly among "
                             f"{self._strategy.num_replicas_in_sync} devices")  # fmt: skip
        with self._strategy.scope():
            self._build()
        self._random = tf.random.Generator.from_seed(config.seed)
        self._compiled_steps: dict[int, _Step] = {}
        self._checkpoint = self._build_checkpoint()

    def use_live_teachers(self, teachers: Sequence[Path]) -> None:
        with self._strategy.scope():
            self._teachers = [load_full_network(teacher) for teacher in teachers]

    def run_epoch(self, on_step: Callable[[int, float], None]) -> float:
        step = self._step_for(self.config.side_px(self.epoch))
        losses = []
        for number, batch in enumerate(self._order(), start=1):
            losses.append(float(step(batch)))
            on_step(number, losses[-1])
        self.epoch += 1
        return float(np.mean(losses))

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return predict(self.averaged, images)

    def save(self, folder: Path) -> None:
        self._epoch.assign(self.epoch)
        self._best_accuracy.assign(self.best_accuracy)
        try:
            self._checkpoint.write(str(folder / f"{_PREFIX}{self.epoch}"))
        except tf.errors.OpError as error:
            raise OSError(error.message.splitlines()[0]) from error
        for old in _checkpoints(folder)[_MAX_TO_KEEP:]:
            for part in folder.glob(f"{old.name}.*"):
                part.unlink()

    def restore(self, folder: Path) -> bool:
        checkpoints = _checkpoints(folder)
        for number, checkpoint in enumerate(checkpoints, start=1):
            try:
                self._checkpoint.read(str(checkpoint)).assert_consumed()
            except _CORRUPT_CHECKPOINT_ERRORS as error:
                if number == len(checkpoints):
                    raise unreadable_checkpoint(folder, error) from error
                log.warning("%s cannot be read, resuming from the previous checkpoint (%s)", checkpoint, error)
            else:
                self.epoch, self.best_accuracy = int(self._epoch.numpy()), float(self._best_accuracy.numpy())
                return True
        return False

    def _build_checkpoint(self) -> tf.train.Checkpoint:
        self._epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        # float64, as a rounded best accuracy would let a tie win.
        self._best_accuracy = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        seeds = [layer.seed_generator.state.value for layer in self.network.layers if hasattr(layer, "seed_generator")]
        return tf.train.Checkpoint(
            network=self.network,
            averaged=self.averaged,
            optimizer=self.optimizer,
            random=self._random,
            seeds=seeds,
            epoch=self._epoch,
            best_accuracy=self._best_accuracy,
        )

    def _step_for(self, side_px: int) -> _Step:
        """Returns the compiled step for one size of training images."""
        if side_px not in self._compiled_steps:
            self._compiled_steps[side_px] = self._compile_step(side_px)
        return self._compiled_steps[side_px]

    def _compile_step(self, side_px: int) -> _Step:
        strategy, replicas = self._strategy, self._strategy.num_replicas_in_sync

        @tf.function(jit_compile=False)  # XLA's convolutions are slower than oneDNN's on CPUs
        def step(indices: tf.Tensor) -> tf.Tensor:
            losses = strategy.run(self._train_step, args=(indices, side_px))
            return strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None) / replicas

        def distributed(batch: NDArray[np.int64]) -> tf.Tensor:
            shares = np.array_split(batch, replicas)
            return step(
                strategy.experimental_distribute_values_from_function(
                    lambda context: tf.constant(shares[context.replica_id_in_sync_group])
                )
            )

        return distributed

    def _train_step(self, batch: tf.Tensor, side_px: int) -> tf.Tensor:
        images, *targets = (tf.gather(array, batch) for array in self._images_and_targets)
        with tf.GradientTape() as tape:
            loss = self._loss(images, targets, side_px, self._random)
            # Keras sums the gradients of the replicas, each of which is the mean over its share of the batch.
            total = (loss + self._penalty()) / self._strategy.num_replicas_in_sync
        gradients = tape.gradient(total, self.network.trainable_variables)
        self.optimizer.apply(gradients, self.network.trainable_variables)
        self._update_ema()
        return loss

    def _update_ema(self) -> None:
        """Updates the averaged network: all weights, including the statistics of batch normalization."""
        decay = self._ema_decay(self.optimizer.iterations.value)
        for mean, newest in zip(self.averaged.weights, self.network.weights, strict=True):
            mean.assign(mean.value * decay + newest.value * (1 - decay))


def compute_in_bfloat16(bfloat16: bool) -> None:  # noqa: FBT001
    """Sets the type of convolutions compiled from now on; weights, accumulation, losses and evaluation stay float32."""
    tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": bfloat16})


def _default_strategy(batch_size: int) -> tf.distribute.Strategy:
    """Mirrors over as many GPUs as divide the batch evenly; with fewer than two, uses the default device."""
    gpus = [gpu.name for gpu in tf.config.list_logical_devices("GPU")]
    count = max((count for count in range(1, len(gpus) + 1) if batch_size % count == 0), default=0)
    if count < len(gpus):
        log.warning("training on %d of %d GPUs, as a batch_size of %d cannot be divided evenly among more; a multiple "
                    "of %d in --config would use all of them", count, len(gpus), batch_size, len(gpus))  # fmt: skip
    return tf.distribute.MirroredStrategy(gpus[:count]) if count > 1 else tf.distribute.get_strategy()


def _checkpoints(folder: Path) -> list[Path]:
    """Lists complete checkpoints, newest first, without suffix. TensorFlow writes the index file last."""
    found = [path.with_suffix("") for path in folder.glob(f"{_PREFIX}*.index")]
    return sorted(found, key=lambda path: int(path.name.removeprefix(_PREFIX)), reverse=True)
