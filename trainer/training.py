"""The state of a training run, and the step that moves it on."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from trainer.augment import augment
from trainer.config import FitConfig
from trainer.data import FaceSet
from trainer.errors import DataError
from trainer.labels import class_names, vote_shares
from trainer.model import grow, normalize
from trainer.muon import KernelMuon, is_hidden_kernel
from trainer.run import network_for

_Step = Callable[[NDArray[np.int64]], tf.Tensor]


class Training:
    """Network, averaged network, optimizer and dice of one run.

    Under `tf.distribute` each replica takes its share of a batch; on one device the strategy is the default one.

    Args:
        config: What the run is made of.
        train: The training images; kept in memory as uint8 (83 MB for FER-2013).
        strategy: The devices.
        teaching: What the teachers say of each training image, float32 (N, classes), or None without teachers.

    Raises:
        DataError: There are fewer images than a batch takes, or no votes to learn.
    """

    def __init__(
        self,
        config: FitConfig,
        train: FaceSet,
        strategy: tf.distribute.Strategy,
        teaching: NDArray[np.float32] | None = None,
    ) -> None:
        self.config = config
        self.steps_per_epoch = len(train) // config.batch_size
        if not self.steps_per_epoch:
            raise DataError(f"holds {len(train)} training images, which do not make a batch of {config.batch_size}",
                            remedy="Add images, or train with a smaller batch_size in --config")  # fmt: skip
        self._strategy = strategy
        self._classes = len(class_names(config.labels))
        self._build()
        self._images = tf.constant(train.images)
        self._targets = tf.constant(self._blend(self._smooth_targets(train), teaching))
        self._votes = tf.constant(vote_shares(train)) if config.votes_weight else None
        self._steps: dict[int, _Step] = {}

    def _build(self) -> None:
        config = self.config
        keras.utils.set_random_seed(config.seed)
        with self._strategy.scope():
            self.network = network_for(config, dropout=config.dropout)
            self.averaged = network_for(config)
            self.averaged.set_weights(self.network.get_weights())
            self.optimizer = self._optimizer()
            self.optimizer.build(self.network.trainable_variables)
            self.epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
            self.best_accuracy = tf.Variable(0.0, trainable=False)
        self._random = tf.random.Generator.from_seed(config.seed)
        # Muon's kernels have a fixed length, which leaves nothing to decay.
        self._decayed = [
            weight
            for weight in self.network.trainable_variables
            if weight.path.endswith("kernel") and not (config.muon_lr and is_hidden_kernel(weight))
        ]

    def _optimizer(self) -> keras.optimizers.Optimizer:
        config = self.config
        if config.muon_lr:
            return KernelMuon(self._schedule(), config.muon_lr / config.peak_lr, config.momentum)
        return keras.optimizers.SGD(self._schedule(), config.momentum, nesterov=True)

    def _schedule(self) -> keras.optimizers.schedules.LearningRateSchedule:
        warmup = round(self.config.warmup_epochs * self.steps_per_epoch)
        decay = max(1, self.config.epochs * self.steps_per_epoch - warmup)
        peak = self.config.peak_lr
        return keras.optimizers.schedules.CosineDecay(0.0, decay, warmup_target=peak, warmup_steps=warmup)

    def _smooth_targets(self, train: FaceSet) -> NDArray[np.float32]:
        """float32 (N, classes): the label, softened; for FER+ the crowd's votes are soft by themselves."""
        if self.config.labels == "ferplus":
            return vote_shares(train)
        smoothing = self.config.label_smoothing
        one_hot = np.eye(self._classes, dtype=np.float32)[train.labels]
        return one_hot * np.float32(1 - smoothing) + np.float32(smoothing / self._classes)

    def _blend(self, targets: NDArray[np.float32], teaching: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """The teachers' answers and the labels in one target: cross-entropy is linear in it, so one term serves both.

        The temperature is 1, since teachers that learned from softened labels answer softly by themselves.
        """
        if teaching is None:
            return targets
        weight = np.float32(self.config.teacher_weight)
        return targets * (1 - weight) + teaching * weight

    def begin_with(self, network: keras.Model) -> None:
        """Begins with the weights of a finished run, of this network or a narrower one, in place of random ones."""
        weights = [grow(*pair) for pair in zip(network.get_weights(), self.network.get_weights(), strict=True)]
        for own in (self.network, self.averaged):
            own.set_weights(weights)

    @property
    def checkpoint(self) -> tf.train.Checkpoint:
        """All that has to be saved so that the run goes on as if it had never stopped."""
        seeds = [layer.seed_generator.state.value for layer in self.network.layers if hasattr(layer, "seed_generator")]
        return tf.train.Checkpoint(
            network=self.network,
            averaged=self.averaged,
            optimizer=self.optimizer,
            random=self._random,
            seeds=seeds,
            epoch=self.epoch,
            best_accuracy=self.best_accuracy,
        )

    def run_epoch(self, on_step: Callable[[int, float], None]) -> float:
        """Trains one epoch and returns its mean loss; `on_step(number, loss)` is called after each step."""
        epoch, size = int(self.epoch.numpy()), self.config.batch_size
        step = self._step_for(self.config.side_px(epoch))
        # The order depends on the epoch alone, so that a resumed run sees what an unbroken one sees.
        order = np.random.default_rng((self.config.seed, epoch)).permutation(self._images.shape[0])
        losses = []
        for number in range(self.steps_per_epoch):
            losses.append(float(step(order[number * size : (number + 1) * size])))
            on_step(number + 1, losses[-1])
        self.epoch.assign_add(1)
        return float(np.mean(losses))

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
        pixels = augment(
            tf.gather(self._images, batch),
            side_px,
            degrade_share=self.config.degrade_share,
            erase_share=self.config.erase_share,
            random=self._random,
        )
        with tf.GradientTape() as tape:
            loss = self._loss(self.network(normalize(pixels), training=True), batch)
            penalty = tf.add_n([tf.nn.l2_loss(kernel.value) for kernel in self._decayed])
            # Keras sums the gradients of all replicas; each has the mean over its share of the batch.
            total = (loss + self.config.weight_decay * penalty) / self._strategy.num_replicas_in_sync
        gradients = tape.gradient(total, self.network.trainable_variables)
        self.optimizer.apply(gradients, self.network.trainable_variables)
        self._average()
        return loss

    def _loss(self, outputs: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
        cross_entropy = tf.nn.softmax_cross_entropy_with_logits
        targets = tf.gather(self._targets, batch)
        if self._votes is None:
            return tf.reduce_mean(cross_entropy(targets, outputs))
        logits, vote_logits = outputs
        shares = tf.gather(self._votes, batch)
        # An image without a vote for any emotion teaches this head nothing. Its shares sum to 0, for which TensorFlow's
        # cross-entropy is 0 but its gradient is not: it would push all vote logits down without end.
        votes = tf.reduce_mean(cross_entropy(shares, vote_logits) * tf.reduce_sum(shares, axis=1))
        return tf.reduce_mean(cross_entropy(targets, logits)) + self.config.votes_weight * votes

    def _average(self) -> None:
        """Exponential moving average of all weights, the statistics of batch normalization included."""
        # Early on the average would remember the random start: its memory grows with the steps done.
        steps = tf.cast(self.optimizer.iterations.value, tf.float32)
        decay = tf.minimum(self.config.ema_decay, (1 + steps) / (10 + steps))
        for mean, newest in zip(self.averaged.weights, self.network.weights, strict=True):
            mean.assign(mean.value * decay + newest.value * (1 - decay))
