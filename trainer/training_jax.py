"""Training with JAX, the faster backend on GPUs: an epoch is one compiled program that never waits for Python."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import jax
import keras
import numpy as np
from jax import numpy as jnp
from numpy.typing import NDArray

from trainer.config import FitConfig
from trainer.data import FaceSet
from trainer.disk import CORRUPT_FILE_ERRORS, atomic_replace, fsync
from trainer.distill import SoftTargets
from trainer.layers import Tensor
from trainer.model import Policy, heads, normalize
from trainer.training import Training, unreadable_checkpoint
from trainer.weights import load_full_network

log = logging.getLogger(__name__)

_CHECKPOINT: Final = "state.npz"
_PREVIOUS: Final = "state.before.npz"
"""The checkpoint of the epoch before, in case the last one is damaged."""
_EVALUATION_BATCH: Final = 512

_Values = list[jax.Array]


class JaxTraining(Training):
    """One run on one device.

    Between epochs the state is in Keras variables, where saving and evaluation find it. An epoch is a pure function
    from their values to new ones.

    Args:
        config: Configuration of the run. With `bfloat16`, activations are bfloat16; weights, statistics, losses and
            evaluation are float32.
        train: Training images.
        soft_targets: Teacher predictions that were computed before training, if any.
    """

    def __init__(self, config: FitConfig, train: FaceSet, soft_targets: SoftTargets | None = None) -> None:
        super().__init__(config, train, soft_targets)
        self._policy: Policy = "mixed_bfloat16" if config.bfloat16 else "float32"
        self._build(self._policy)
        self._run_steps = jax.jit(self._steps, static_argnames="side_px")
        self._evaluate = jax.jit(self._averaged_logits)

    def use_live_teachers(self, teachers: Sequence[Path]) -> None:
        self._teachers = [load_full_network(teacher, self._policy) for teacher in teachers]

    def run_epoch(self, on_step: Callable[[int, float], None]) -> float:
        key = jax.random.fold_in(jax.random.key(self.config.seed), self.epoch)
        state = [[variable.value for variable in group] for group in self._variables()]
        teachers = [variable.value for teacher in self._teachers for variable in teacher.variables]
        order = jnp.asarray(self._order(), jnp.int32)
        side_px = self.config.side_px(self.epoch)
        state, losses = self._run_steps(state, teachers, self._images_and_targets, order, key, side_px=side_px)
        for group, values in zip(self._variables(), state, strict=True):
            for variable, value in zip(group, values, strict=True):
                variable.assign(value)
        self.epoch += 1
        on_step(self.steps_per_epoch, float(losses[-1]))
        return float(losses.mean())

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        weights = [variable.value for variable in self.averaged.variables]
        batches = [images[start : start + _EVALUATION_BATCH] for start in range(0, len(images), _EVALUATION_BATCH)]
        return np.concatenate([np.asarray(self._evaluate(weights, batch)) for batch in batches])

    def save(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        last = folder / _CHECKPOINT
        values = [np.asarray(variable.value) for group in self._variables() for variable in group]
        with atomic_replace(last) as temporary:
            np.savez(temporary, *values, epoch=self.epoch, best_accuracy=self.best_accuracy)
            fsync(temporary)  # before the last one is renamed, so that there is always a complete one
            if last.exists():
                last.replace(folder / _PREVIOUS)

    def restore(self, folder: Path) -> bool:
        checkpoints = [folder / name for name in (_CHECKPOINT, _PREVIOUS) if (folder / name).exists()]
        for number, checkpoint in enumerate(checkpoints, start=1):
            try:
                self._load(checkpoint)
            except CORRUPT_FILE_ERRORS as error:
                if number == len(checkpoints):
                    raise unreadable_checkpoint(folder, error) from error
                log.warning("%s cannot be read, resuming from the previous checkpoint (%s)", checkpoint, error)
            else:
                return True
        return False

    def _load(self, checkpoint: Path) -> None:
        with np.load(checkpoint) as arrays:
            variables = [variable for group in self._variables() for variable in group]
            for index, variable in enumerate(variables):
                variable.assign(arrays[f"arr_{index}"])
            self.epoch, self.best_accuracy = int(arrays["epoch"]), float(arrays["best_accuracy"])

    def _variables(self) -> list[list[keras.Variable]]:
        """Returns all that an epoch changes: trainable and other variables of the network, optimizer and EMA."""
        network = self.network
        non_trainable = network.non_trainable_variables
        return [network.trainable_variables, non_trainable, self.optimizer.variables, self.averaged.weights]

    def _steps(
        self,
        state: list[_Values],
        teachers: _Values,
        images_and_targets: Sequence[jax.Array],
        order: jax.Array,
        key: jax.Array,
        *,
        side_px: int,
    ) -> tuple[list[_Values], jax.Array]:
        """Runs the steps of an epoch and returns the state after them and the loss of each."""

        def step(state: list[_Values], numbered: tuple[jax.Array, jax.Array]) -> tuple[list[_Values], jax.Array]:
            number, batch = numbered
            images, *targets = (array[batch] for array in images_and_targets)
            random = _JaxGenerator(jax.random.fold_in(key, number))
            return self._step(state, teachers, images, targets, side_px, random)

        return jax.lax.scan(step, state, (jnp.arange(len(order)), order))

    def _step(
        self,
        state: list[_Values],
        teachers: _Values,
        images: jax.Array,
        targets: Sequence[jax.Array],
        side_px: int,
        random: _JaxGenerator,
    ) -> tuple[list[_Values], jax.Array]:
        trainable, non_trainable, optimizer, averages = state
        trainable_variables, other_variables, *_ = self._variables()
        variables = [*trainable_variables, *other_variables]
        teacher_variables = [variable for teacher in self._teachers for variable in teacher.variables]

        def objective(trainable: _Values) -> tuple[jax.Array, tuple[jax.Array, _Values]]:
            values = zip([*variables, *teacher_variables], [*trainable, *non_trainable, *teachers], strict=True)
            with keras.StatelessScope(state_mapping=list(values)) as scope:
                loss = self._loss(images, targets, side_px, random)
                total = loss + self._penalty()
            return total, (loss, [scope.get_current_value(variable) for variable in other_variables])

        gradients, (loss, non_trainable) = jax.grad(objective, has_aux=True)(trainable)
        trainable, optimizer = self.optimizer.stateless_apply(optimizer, gradients, trainable)
        by_path = dict(zip([variable.path for variable in variables], [*trainable, *non_trainable], strict=True))
        decay = self._ema_decay(optimizer[0])  # the first variable of Keras's optimizers counts the steps
        averages = [
            mean * decay + by_path[variable.path] * (1 - decay)
            for mean, variable in zip(averages, self.network.weights, strict=True)
        ]
        return [trainable, non_trainable, optimizer, averages], loss

    def _averaged_logits(self, weights: _Values, images: jax.Array) -> Tensor:
        state = list(zip(self.averaged.variables, weights, strict=True))
        with keras.StatelessScope(state_mapping=state):
            return heads(self.averaged(normalize(images[..., jnp.newaxis]), training=False))[0]


class _JaxGenerator:
    """A random number generator for one step, which splits its key on every call."""

    def __init__(self, key: jax.Array) -> None:
        self._key = key

    def uniform(self, shape: Sequence[int], minval: float = 0.0, maxval: float = 1.0) -> Tensor:
        """Returns float32 samples of the uniform distribution."""
        return jax.random.uniform(self._next(), tuple(shape), minval=minval, maxval=maxval)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Returns float32 samples of the standard normal distribution."""
        return jax.random.normal(self._next(), tuple(shape))

    def _next(self) -> Tensor:
        self._key, key = jax.random.split(self._key)
        return key
