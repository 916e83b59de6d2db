"""The optimizer for runs with `muon_lr`: Muon for hidden convolution kernels, SGD with momentum for the rest."""

from __future__ import annotations

import math
from typing import Final

import keras
from keras import ops

from trainer.layers import Tensor

_ITERATIONS: Final = 5
"""Newton-Schulz iterations. They bring singular values not far below the largest to 0.7-1.2, not exactly to 1."""


class KernelMuon(keras.optimizers.SGD):
    """Muon (Jordan et al., https://kellerjordan.github.io/posts/muon/) for convolutional networks.

    Each kernel is treated as a matrix, (height * width * inputs, outputs). Its momentum is orthogonalized, so that a
    step changes all directions of the matrix equally, where SGD follows the few that dominate the gradient. Batch
    normalization makes the norm of such a kernel irrelevant: in place of weight decay, it is fixed at that of He
    initialization, and the learning rate is the norm of a step relative to it.

    Keras's own Muon leaves 4-dimensional kernels to Adam, so only its orthogonalization is used here.

    Args:
        learning_rate: Learning rate of the weights that SGD trains.
        kernel_factor: Learning rate of the kernels, as a multiple of `learning_rate`.
        momentum: Nesterov momentum of both, 0 to 1.
    """

    def __init__(
        self, learning_rate: keras.optimizers.schedules.LearningRateSchedule, kernel_factor: float, momentum: float
    ) -> None:
        super().__init__(learning_rate, momentum, nesterov=True)
        self._kernel_factor = kernel_factor
        self._newton_schulz = keras.optimizers.Muon().zeropower_via_newtonschulz5

    def update_step(self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor) -> None:
        """Updates one variable; called by Keras for each."""
        if not is_hidden_kernel(variable):
            super().update_step(gradient, variable, learning_rate)
            return
        velocity = self.momentums[self._get_variable_index(variable)]
        self.assign(velocity, velocity * self.momentum + gradient)
        outputs = variable.shape[-1]
        direction = self.orthogonalize(ops.reshape(gradient + self.momentum * velocity, (-1, outputs)))
        norm = math.sqrt(2 * outputs)  # he_normal: a variance of 2 / fan_in, for fan_in * outputs weights
        step = learning_rate * self._kernel_factor * norm / math.sqrt(min(direction.shape))
        updated = ops.convert_to_tensor(variable) - step * ops.reshape(direction, variable.shape)
        self.assign(variable, updated * (norm / ops.norm(ops.reshape(updated, (-1,)))))

    def orthogonalize(self, matrix: Tensor) -> Tensor:
        """Returns approximately the nearest matrix with orthonormal rows or columns, float32 (rows, columns)."""
        return self._newton_schulz(matrix, _ITERATIONS)


def is_hidden_kernel(variable: keras.Variable) -> bool:
    """Whether the variable is a convolution kernel other than that of the first layer or of a 1x1 head."""
    return len(variable.shape) == 4 and variable.shape[0] > 1 and variable.shape[2] > 1
