"""Training with TensorFlow, whose convolutions are the fastest on a processor; on several GPUs by `tf.distribute`."""

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
from trainer.distill import Taught
from trainer.training import Training, unreadable
from trainer.weights import load_full_network, predict

log = logging.getLogger(__name__)

_DAMAGE: Final = (tf.errors.OpError, LookupError, ValueError, AssertionError)
"""What TensorFlow raises for a checkpoint that is cut off, changed, or of other variables."""

_CHECKPOINT: Final = "ckpt-"
"""What the name of a checkpoint begins with; the number of epochs that are done follows."""
_KEPT: Final = 2

_Step = Callable[[NDArray[np.int64]], tf.Tensor]


class TensorFlowTraining(Training):
    """One run; each replica takes its share of a batch.

    Args:
        config: What the run is made of.
        train: The training images.
        taught: What the teachers said beforehand, where they were asked then.
        strategy: The devices: without it, all GPUs where there are several, or as many of them as can share a batch
            evenly, and otherwise the one GPU or the CPU.

    Raises:
        ValueError: The devices of `strategy` cannot share a batch evenly.
    """

    def __init__(
        self,
        config: FitConfig,
        train: FaceSet,
        taught: Taught | None = None,
        strategy: tf.distribute.Strategy | None = None,
    ) -> None:
        super().__init__(config, train, taught)
        self._strategy = strategy or _gpus(config.batch_size)
        if config.batch_size % self._strategy.num_replicas_in_sync:  # a smaller share would count as much as a larger
            raise ValueError(f"{self._strategy.num_replicas_in_sync} devices cannot share a batch_size of "
                             f"{config.batch_size} evenly")  # fmt: skip
        with self._strategy.scope():
            self._build()
        self._random = tf.random.Generator.from_seed(config.seed)
        self._steps: dict[int, _Step] = {}
        self._checkpoint = self._all_that_changes()

    def ask_live(self, teachers: Sequence[Path]) -> None:
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
            self._checkpoint.write(str(folder / f"{_CHECKPOINT}{self.epoch}"))
        except tf.errors.OpError as error:
            raise OSError(error.message.splitlines()[0]) from error
        for old in _checkpoints(folder)[_KEPT:]:
            for part in folder.glob(f"{old.name}.*"):
                part.unlink()

    def restore(self, folder: Path) -> bool:
        checkpoints = _checkpoints(folder)
        for number, checkpoint in enumerate(checkpoints, start=1):
            try:
                self._checkpoint.read(str(checkpoint)).assert_consumed()
            except _DAMAGE as error:
                if number == len(checkpoints):
                    raise unreadable(folder, error) from error
                log.warning("%s cannot be read, going on from the one before (%s)", checkpoint, error)
            else:
                self.epoch, self.best_accuracy = int(self._epoch.numpy()), float(self._best_accuracy.numpy())
                return True
        return False

    def _all_that_changes(self) -> tf.train.Checkpoint:
        self._epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._best_accuracy = tf.Variable(0.0, dtype=tf.float64, trainable=False)  # or a tie would win
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
        """The compiled step for one size of training image."""
        if side_px not in self._steps:
            self._steps[side_px] = self._compile_step(side_px)
        return self._steps[side_px]

    def _compile_step(self, side_px: int) -> _Step:
        strategy, replicas = self._strategy, self._strategy.num_replicas_in_sync

        @tf.function(jit_compile=False)  # XLA's convolutions are slower than oneDNN's on a CPU
        def step(shares: tf.Tensor) -> tf.Tensor:
            losses = strategy.run(self._train_step, args=(shares, side_px))
            return strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None) / replicas

        def distributed(batch: NDArray[np.int64]) -> tf.Tensor:
            parts = np.array_split(batch, replicas)
            return step(
                strategy.experimental_distribute_values_from_function(
                    lambda context: tf.constant(parts[context.replica_id_in_sync_group])
                )
            )

        return distributed

    def _train_step(self, batch: tf.Tensor, side_px: int) -> tf.Tensor:
        images, *targets = (tf.gather(array, batch) for array in self._material)
        with tf.GradientTape() as tape:
            loss = self._loss(images, targets, side_px, self._random)
            # Keras sums the gradients of all replicas; each has the mean over its share of the batch.
            total = (loss + self._penalty()) / self._strategy.num_replicas_in_sync
        gradients = tape.gradient(total, self.network.trainable_variables)
        self.optimizer.apply(gradients, self.network.trainable_variables)
        self._average()
        return loss

    def _average(self) -> None:
        """Exponential moving average of all weights, the statistics of batch normalization included."""
        decay = self._average_decay(self.optimizer.iterations.value)
        for mean, newest in zip(self.averaged.weights, self.network.weights, strict=True):
            mean.assign(mean.value * decay + newest.value * (1 - decay))


def compute_in_bfloat16(bfloat16: bool) -> None:  # noqa: FBT001
    """Sets it for convolutions that are compiled from here on; weights, sums, losses and evaluation stay float32."""
    tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": bfloat16})


def _gpus(batch_size: int) -> tf.distribute.Strategy:
    """As many of them as can share a batch evenly; without several, whatever there is."""
    gpus = [gpu.name for gpu in tf.config.list_logical_devices("GPU")]
    count = max((count for count in range(1, len(gpus) + 1) if batch_size % count == 0), default=0)
    if count < len(gpus):
        log.warning("training on %d of %d GPUs, as more cannot share a batch_size of %d evenly: a multiple of %d in "
                    "--config would take them all", count, len(gpus), batch_size, len(gpus))  # fmt: skip
    return tf.distribute.MirroredStrategy(gpus[:count]) if count > 1 else tf.distribute.get_strategy()


def _checkpoints(folder: Path) -> list[Path]:
    """Those that are whole, the newest first, without a suffix: TensorFlow writes the index after everything else."""
    found = [path.with_suffix("") for path in folder.glob(f"{_CHECKPOINT}*.index")]
    return sorted(found, key=lambda path: int(path.name.removeprefix(_CHECKPOINT)), reverse=True)
