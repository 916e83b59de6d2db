"""Layers that Keras lacks: ones that train faster with TensorFlow, and ones that are equivariant to horizontal flips.

In a network of `MirrorConv2D`, `MirrorBatchNormalization` and `MirrorHead`, channels come in pairs: channel `i` of the
first half and channel `i` of the second half. What one computes for an image, the other computes for its mirror image.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import keras
from keras import ops

Tensor: TypeAlias = Any
"""A tensor of the Keras backend; no backend publishes types."""

_MAX_MATMUL_ROWS: Final = 6
"""With twelve rows, the matrix product is faster only in bfloat16 with AMX."""


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization over the channels that uses TensorFlow's fused kernel.

    Keras 3 composes it from single operations, which takes about twice the time on a CPU. JAX's compiler fuses them.
    """

    def call(self, inputs: Tensor, training: bool | None = None, mask: Any = None) -> Tensor:  # noqa: FBT001
        """Normalizes (N, H, W, C)."""
        if keras.backend.backend() != "tensorflow":
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf  # not needed, and perhaps not installed, with another backend

        if training and self.trainable:
            outputs, mean, variance = _normalize_batch(inputs, self.gamma.value, self.beta.value, self.epsilon)
            self._update_moving_statistics(mean, variance)
            return outputs
        return tf.compat.v1.nn.fused_batch_norm(
            inputs, self.gamma.value, self.beta.value, self.moving_mean.value, self.moving_variance.value,
            epsilon=self.epsilon, is_training=False,
        )[0]  # fmt: skip

    def _update_moving_statistics(self, mean: Tensor, variance: Tensor) -> None:
        """Updates the moving averages with the statistics of a batch."""
        for moving, of_batch in (self.moving_mean, mean), (self.moving_variance, variance):
            moving.assign(moving * self.momentum + of_batch * (1 - self.momentum))


class Conv2D(keras.layers.Conv2D):
    """A convolution without bias that, with TensorFlow, trains as a matrix product if it halves a small feature map.

    The gradients of oneDNN's convolutions are computed row by row, and rows of the last layer have three positions
    only. Evaluation and export use an ordinary convolution. The bias is left to batch normalization.
    The class has Keras's name because weights files name layers by their class.
    """

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:  # noqa: FBT001
        """Maps (N, H, W, channels) to (N, H, W, filters)."""
        return self.convolve(inputs, self.kernel, training=training)

    def convolve(self, inputs: Tensor, kernel: Tensor, *, training: bool | None) -> Tensor:
        """Convolves `inputs` with a kernel (height, width, channels, filters)."""
        kernel = ops.cast(kernel, inputs.dtype)
        halves = self.strides == (2, 2) and self.padding == "same"
        small = inputs.shape[1] is not None and inputs.shape[1] <= _MAX_MATMUL_ROWS
        if training and halves and small and keras.backend.backend() == "tensorflow":
            return _strided_conv_by_matmul(inputs, kernel)
        return self.convolution_op(inputs, kernel)


class MirrorConv2D(Conv2D):
    """A convolution from pairs of channels, or from an image of one channel, to pairs of channels.

    It is equivariant to reflections (Cohen and Welling 2016, arXiv:1602.07576): the features of a mirrored image are
    those of the image, mirrored and with the two halves swapped. Only the first half of the kernels is trained.

    Args:
        filters: Output channels of both halves together; an even number.
        arguments: Those of `Conv2D`. With a stride of 2, image and kernel must have an even number of columns.
    """

    def __init__(self, filters: int, *arguments: Any, **named: Any) -> None:
        super().__init__(filters // 2, *arguments, **named)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:  # noqa: FBT001
        """Maps (N, H, W, channels) to (N, H, W, filters)."""
        shift = self.kernel.shape[2] // 2  # 0 for an image, whose single channel is not swapped
        mirrored = ops.roll(ops.flip(self.kernel, axis=1), shift, axis=2)
        kernels = ops.concatenate([self.kernel, mirrored], axis=3)
        return self.convolve(inputs, kernels, training=training)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        *image, half = super().compute_output_shape(input_shape)
        return (*image, 2 * half)


class MirrorBatchNormalization(FusedBatchNormalization):
    """Batch normalization with the same parameters for both channels of a pair."""

    def build(self, input_shape: tuple[int, ...]) -> None:
        *image, channels = input_shape
        super().build((*image, channels // 2))
        self.input_spec = None  # set to half of the channels by super().build

    def call(self, inputs: Tensor, training: bool | None = None, mask: Any = None) -> Tensor:  # noqa: FBT001, ARG002
        """Normalizes (N, H, W, C)."""
        gamma, beta = _twice(self.gamma), _twice(self.beta)
        if not (training and self.trainable):  # one operation, which TFLite folds into the preceding convolution
            mean, variance = _twice(self.moving_mean), _twice(self.moving_variance)
            outputs = ops.batch_normalization(
                ops.cast(inputs, "float32"), mean, variance, -1, beta, gamma, self.epsilon
            )
            return ops.cast(outputs, inputs.dtype)
        outputs, mean, variance = _normalize_batch(inputs, gamma, beta, self.epsilon)
        # The batch statistics are per channel, as the fused kernel computes them. Images are flipped at random, so
        # those of a pair estimate the same values.
        self._update_moving_statistics(*(ops.mean(ops.reshape(halves, (2, -1)), axis=0) for halves in (mean, variance)))
        return outputs


class MirrorHead(keras.layers.Conv2D):
    """A 1x1 convolution that sums both channels of a pair, so that its outputs are invariant to horizontal flips."""

    def build(self, input_shape: tuple[int, ...]) -> None:
        *image, channels = input_shape
        super().build((*image, channels // 2))
        self.input_spec = None

    def call(self, inputs: Tensor) -> Tensor:
        """Maps (N, 1, 1, channels) to (N, 1, 1, filters)."""
        kernel = ops.cast(ops.concatenate([self.kernel, self.kernel], axis=2), inputs.dtype)
        return self.convolution_op(inputs, kernel) + ops.cast(self.bias, inputs.dtype)


def _strided_conv_by_matmul(inputs: Tensor, kernel: Tensor) -> Tensor:
    """Computes a convolution with stride 2 and "same" padding as one matrix product of patches and kernel (im2col).

    Patches are extracted with `ops.slice` only: the gradient of a strided slice takes longer than the convolution.
    """
    *_, height, width, channels = inputs.shape
    tall, wide, _, filters = kernel.shape
    rows, columns = -(-height // 2), -(-width // 2)
    padded = ops.pad(inputs, ((0, 0), _same_padding(height, tall), _same_padding(width, wide), (0, 0)))
    _, height, width, _ = padded.shape
    by_parity = ops.unstack(ops.reshape(padded, (-1, height // 2, 2, width // 2, 2 * channels)), axis=2)
    patches = [
        ops.slice(by_parity[y % 2], (0, y // 2, x // 2, 0), (-1, rows, columns, min(2, wide - x) * channels))
        for y in range(tall)
        for x in range(0, wide, 2)  # two columns are adjacent in memory
    ]
    product = ops.matmul(
        ops.reshape(ops.concatenate(patches, axis=3), (-1, tall * wide * channels)), ops.reshape(kernel, (-1, filters))
    )
    return ops.reshape(product, (-1, rows, columns, filters))


def _same_padding(length: int, kernel: int) -> tuple[int, int]:
    """Returns "same" padding for stride 2, (before, after), with one more after if the padded length would be odd."""
    missing = max(2 * (-(-length // 2) - 1) + kernel - length, 0)
    before = missing // 2
    after = missing - before
    return before, after + (length + missing) % 2


def _normalize_batch(inputs: Tensor, gamma: Tensor, beta: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (N, H, W, C) normalized by its batch statistics, and these: mean and variance, (C,)."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        fused = tf.compat.v1.nn.fused_batch_norm
        outputs, mean, variance = fused(inputs, gamma, beta, epsilon=epsilon, is_training=True)
        return outputs, mean, variance
    mean, variance = ops.moments(ops.cast(inputs, "float32"), axes=(0, 1, 2))
    outputs = ops.batch_normalization(ops.cast(inputs, "float32"), mean, variance, -1, beta, gamma, epsilon)
    return ops.cast(outputs, inputs.dtype), mean, variance


def _twice(half: Tensor) -> Tensor:
    """Repeats a vector over the first half of the channels for the second half."""
    return ops.concatenate([half, half])
