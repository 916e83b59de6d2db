"""Training with JAX: a whole epoch is one program on the GPU, which so never waits for Python."""

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
from trainer.disk import DAMAGE, flush, replaced
from trainer.distill import Taught
from trainer.layers import Tensor
from trainer.model import Policy, heads, normalize
from trainer.training import Training, unreadable
from trainer.weights import load_full_network

log = logging.getLogger(__name__)

_CHECKPOINT: Final = "state.npz"
_BEFORE: Final = "state.before.npz"
"""The checkpoint of the epoch before, for the case that the last one is damaged."""
_EVALUATION_BATCH: Final = 512

_Values = list[jax.Array]


class JaxTraining(Training):
    """One run on one device.

    Between epochs its state is in the variables of Keras, where saving and evaluation find it; an epoch takes their
    values and gives back new ones.

    Args:
        config: What the run is made of. With `bfloat16`, all that flows between the layers is bfloat16; weights,
            statistics, losses and what is evaluated are float32.
        train: The training images.
        taught: What the teachers said beforehand, where they were asked then.
    """

    def __init__(self, config: FitConfig, train: FaceSet, taught: Taught | None = None) -> None:
        super().__init__(config, train, taught)
        self._policy: Policy = "mixed_bfloat16" if config.bfloat16 else "float32"
        self._build(self._policy)
        self._run_steps = jax.jit(self._steps, static_argnames="side_px")
        self._evaluate = jax.jit(self._averaged_logits)

    def ask_live(self, teachers: Sequence[Path]) -> None:
        self._teachers = [load_full_network(teacher, self._policy) for teacher in teachers]

    def run_epoch(self, on_step: Callable[[int, float], None]) -> float:
        key = jax.random.fold_in(jax.random.key(self.config.seed), self.epoch)
        state = [[variable.value for variable in group] for group in self._variables()]
        frozen = [variable.value for teacher in self._teachers for variable in teacher.variables]
        order = jnp.asarray(self._order(), jnp.int32)
        side_px = self.config.side_px(self.epoch)
        state, losses = self._run_steps(state, frozen, self._material, order, key, side_px=side_px)
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
        with replaced(last) as fresh:
            np.savez(fresh, *values, epoch=self.epoch, best_accuracy=self.best_accuracy)
            flush(fresh)  # at any moment there is a whole one
            if last.exists():
                last.replace(folder / _BEFORE)

    def restore(self, folder: Path) -> bool:
        checkpoints = [folder / name for name in (_CHECKPOINT, _BEFORE) if (folder / name).exists()]
        for number, checkpoint in enumerate(checkpoints, start=1):
            try:
                self._load(checkpoint)
            except DAMAGE as error:
                if number == len(checkpoints):
                    raise unreadable(folder, error) from error
                log.warning("%s cannot be read, going on from the one before (%s)", checkpoint, error)
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
        """All that an epoch changes: what the gradient moves, the rest of the network, the optimizer, the averages."""
        network = self.network
        rest = network.non_trainable_variables
        return [network.trainable_variables, rest, self.optimizer.variables, self.averaged.weights]

    def _steps(
        self,
        state: list[_Values],
        frozen: _Values,
        material: Sequence[jax.Array],
        order: jax.Array,
        key: jax.Array,
        *,
        side_px: int,
    ) -> tuple[list[_Values], jax.Array]:
        """The steps of an epoch: the state after them, and the loss of each."""

        def step(state: list[_Values], numbered: tuple[jax.Array, jax.Array]) -> tuple[list[_Values], jax.Array]:
            number, batch = numbered
            images, *targets = (array[batch] for array in material)
            return self._step(state, frozen, images, targets, side_px, _Dice(jax.random.fold_in(key, number)))

        return jax.lax.scan(step, state, (jnp.arange(len(order)), order))

    def _step(
        self,
        state: list[_Values],
        frozen: _Values,
        images: jax.Array,
        targets: Sequence[jax.Array],
        side_px: int,
        dice: _Dice,
    ) -> tuple[list[_Values], jax.Array]:
        moved, rest, optimizer, averages = state
        in_training, others, *_ = self._variables()
        answering = [variable for teacher in self._teachers for variable in teacher.variables]

        def objective(moved: _Values) -> tuple[jax.Array, tuple[jax.Array, _Values]]:
            values = zip([*in_training, *others, *answering], [*moved, *rest, *frozen], strict=True)
            with keras.StatelessScope(state_mapping=list(values)) as scope:
                loss = self._loss(images, targets, side_px, dice)
                total = loss + self._penalty()
            return total, (loss, [scope.get_current_value(variable) for variable in others])

        gradients, (loss, rest) = jax.grad(objective, has_aux=True)(moved)
        moved, optimizer = self.optimizer.stateless_apply(optimizer, gradients, moved)
        newest = dict(zip([variable.path for variable in [*in_training, *others]], [*moved, *rest], strict=True))
        decay = self._average_decay(optimizer[0])  # the first variable of Keras's optimizers counts the steps
        averages = [
            mean * decay + newest[variable.path] * (1 - decay)
            for mean, variable in zip(averages, self.network.weights, strict=True)
        ]
        return [moved, rest, optimizer, averages], loss

    def _averaged_logits(self, weights: _Values, images: jax.Array) -> Tensor:
        state = list(zip(self.averaged.variables, weights, strict=True))
        with keras.StatelessScope(state_mapping=state):
            return heads(self.averaged(normalize(images[..., jnp.newaxis]), training=False))[0]


class _Dice:
    """Random numbers of one step; each call gives others."""

    def __init__(self, key: jax.Array) -> None:
        self._key = key

    def uniform(self, shape: Sequence[int], minval: float = 0.0, maxval: float = 1.0) -> Tensor:
        """float32, evenly distributed."""
        return jax.random.uniform(self._next(), tuple(shape), minval=minval, maxval=maxval)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """float32, of mean 0 and standard deviation 1."""
        return jax.random.normal(self._next(), tuple(shape))

    def _next(self) -> Tensor:
        self._key, key = jax.random.split(self._key)
        return key
