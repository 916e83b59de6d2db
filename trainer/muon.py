"""The optimizer where a run sets `muon_lr`: Muon for the kernels between features, Nesterov SGD for all else."""

from __future__ import annotations

import math
from typing import Final

import keras
from keras import ops

from trainer.layers import Tensor

_ITERATIONS: Final = 5
"""Of Newton and Schulz: they bring singular values that are not far below the largest to 0.7-1.2, not exactly to 1."""


class KernelMuon(keras.optimizers.SGD):
    """Muon (Jordan et al., https://kellerjordan.github.io/posts/muon/) on a network of convolutions.

    Each kernel is one matrix, (height * width * inputs, outputs). Its momentum is orthogonalized, so that a step turns
    all directions of the matrix alike, the rare ones too, where SGD follows the few that dominate the gradient. Batch
    normalization makes the length of such a kernel meaningless: it is held at what He's initialization gives it, in
    place of a weight decay, and the learning rate is the length of a step relative to it.

    Keras's own Muon leaves kernels of four dimensions to Adam, which is why only its orthogonalization is used here.

    Args:
        learning_rate: Of the weights that SGD moves.
        kernel_factor: The kernels' learning rate, as a multiple of `learning_rate`.
        momentum: Nesterov momentum of both, 0 to 1.
    """

    def __init__(
        self, learning_rate: keras.optimizers.schedules.LearningRateSchedule, kernel_factor: float, momentum: float
    ) -> None:
        super().__init__(learning_rate, momentum, nesterov=True)
        self._kernel_factor = kernel_factor
        self._newton_schulz = keras.optimizers.Muon().zeropower_via_newtonschulz5

    def update_step(self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor) -> None:
        """Moves one variable; Keras calls it for each."""
        if not is_hidden_kernel(variable):
            super().update_step(gradient, variable, learning_rate)
            return
        velocity = self.momentums[self._get_variable_index(variable)]
        self.assign(velocity, velocity * self.momentum + gradient)
        outputs = variable.shape[-1]
        direction = self.orthogonalize(ops.reshape(gradient + self.momentum * velocity, (-1, outputs)))
        length = math.sqrt(2 * outputs)  # he_normal: a variance of 2 / fan_in, for fan_in * outputs weights
        step = learning_rate * self._kernel_factor * length / math.sqrt(min(direction.shape))
        moved = ops.convert_to_tensor(variable) - step * ops.reshape(direction, variable.shape)
        self.assign(variable, moved * (length / ops.norm(ops.reshape(moved, (-1,)))))

    def orthogonalize(self, matrix: Tensor) -> Tensor:
        """float32 (rows, columns): nearly the nearest matrix with orthogonal rows or columns of length 1."""
        return self._newton_schulz(matrix, _ITERATIONS)


def is_hidden_kernel(variable: keras.Variable) -> bool:
    """Whether the variable is a kernel from features to features: not the first layer's, not that of a 1x1 head."""
    return len(variable.shape) == 4 and variable.shape[0] > 1 and variable.shape[2] > 1
