"""The network's layers that Keras lacks: what trains faster with TensorFlow, and mirrored pairs.

In a network of `MirrorConv2D`, `MirrorBatchNormalization` and `MirrorHead`, channels come in pairs: what one sees in a
face, the other sees in its mirror image. Channel `i` of the first half and channel `i` of the second half are a pair.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import keras
from keras import ops

Tensor: TypeAlias = Any
"""An array of the backend that Keras runs on; none of them publishes types."""

_FEW_ROWS: Final = 6
"""Of twelve, products are faster in bfloat16 with AMX alone."""


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization over the channels, with TensorFlow through its fused kernel.

    Keras 3 composes it of single operations, which takes about twice the time on a CPU. JAX's compiler fuses them.
    """

    def call(self, inputs: Tensor, training: bool | None = None, mask: Any = None) -> Tensor:  # noqa: FBT001
        """Normalizes (N, H, W, C)."""
        if keras.backend.backend() != "tensorflow":
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf  # not needed, and perhaps not there, with another backend

        if training and self.trainable:
            outputs, mean, variance = _normalize_batch(inputs, self.gamma.value, self.beta.value, self.epsilon)
            self._follow(mean, variance)
            return outputs
        return tf.compat.v1.nn.fused_batch_norm(
            inputs, self.gamma.value, self.beta.value, self.moving_mean.value, self.moving_variance.value,
            epsilon=self.epsilon, is_training=False,
        )[0]  # fmt: skip

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Moves the averages on by the statistics of a batch."""
        for moving, newest in (self.moving_mean, mean), (self.moving_variance, variance):
            moving.assign(moving * self.momentum + newest * (1 - self.momentum))


class Conv2D(keras.layers.Conv2D):
    """A convolution that trains as a product of matrices where it halves the sides of few positions, with TensorFlow.

    The gradients of oneDNN's convolutions take the positions of a row at a time, and the last layer has three of them.
    Evaluation and export see an ordinary convolution. No `bias`: batch normalization has one.
    Files of weights name layers by their class: with another name than Keras's, earlier ones would not fit.
    """

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:  # noqa: FBT001
        """From (N, H, W, channels) to (N, H, W, filters)."""
        return self.convolve(inputs, self.kernel, training=training)

    def convolve(self, inputs: Tensor, kernel: Tensor, *, training: bool | None) -> Tensor:
        """`inputs` with a kernel (height, width, channels, filters); no bias."""
        kernel = ops.cast(kernel, inputs.dtype)
        halves = self.strides == (2, 2) and self.padding == "same"
        few = inputs.shape[1] is not None and inputs.shape[1] <= _FEW_ROWS
        if training and halves and few and keras.backend.backend() == "tensorflow":
            return _halve_by_product(inputs, kernel)
        return self.convolution_op(inputs, kernel)


class MirrorConv2D(Conv2D):
    """A convolution from pairs of channels, or from an image of one channel, to pairs of channels.

    The features of a mirror image are those of the image, mirrored and with the two halves exchanged (equivariance;
    Cohen and Welling 2016, arXiv:1602.07576, for the group of reflections).
    Only the first half of the kernels is learned. No `bias`: batch normalization has one.

    Args:
        filters: Outputs, of both halves; an even number.
        arguments: As of `Conv2D`. With a stride of 2, the image and the kernel must have even numbers of columns.
    """

    def __init__(self, filters: int, *arguments: Any, **named: Any) -> None:
        super().__init__(filters // 2, *arguments, **named)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:  # noqa: FBT001
        """From (N, H, W, channels) to (N, H, W, filters)."""
        halves = self.kernel.shape[2] // 2  # none of an image, whose one channel stays where it is
        mirrored = ops.roll(ops.flip(self.kernel, axis=1), halves, axis=2)
        kernels = ops.concatenate([self.kernel, mirrored], axis=3)
        return self.convolve(inputs, kernels, training=training)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        *image, half = super().compute_output_shape(input_shape)
        return (*image, 2 * half)


class MirrorBatchNormalization(FusedBatchNormalization):
    """Batch normalization that treats both channels of a pair alike."""

    def build(self, input_shape: tuple[int, ...]) -> None:
        *image, channels = input_shape
        super().build((*image, channels // 2))
        self.input_spec = None  # which asks for half of the channels

    def call(self, inputs: Tensor, training: bool | None = None, mask: Any = None) -> Tensor:  # noqa: FBT001, ARG002
        """Normalizes (N, H, W, C)."""
        gamma, beta = _twice(self.gamma), _twice(self.beta)
        if not (training and self.trainable):  # as one operation that TFLite folds into the convolution before it
            mean, variance = _twice(self.moving_mean), _twice(self.moving_variance)
            outputs = ops.batch_normalization(
                ops.cast(inputs, "float32"), mean, variance, -1, beta, gamma, self.epsilon
            )
            return ops.cast(outputs, inputs.dtype)
        outputs, mean, variance = _normalize_batch(inputs, gamma, beta, self.epsilon)
        # Of a batch, each of the pair has statistics of its own: the fused kernel knows no other, and images are
        # mirrored at random, so that both are estimates of the same.
        self._follow(*(ops.mean(ops.reshape(halves, (2, -1)), axis=0) for halves in (mean, variance)))
        return outputs


class MirrorHead(keras.layers.Conv2D):
    """A 1x1 convolution that adds up both channels of a pair, so that its outputs are the mirror image's too."""

    def build(self, input_shape: tuple[int, ...]) -> None:
        *image, channels = input_shape
        super().build((*image, channels // 2))
        self.input_spec = None

    def call(self, inputs: Tensor) -> Tensor:
        """From (N, 1, 1, channels) to (N, 1, 1, filters)."""
        kernel = ops.cast(ops.concatenate([self.kernel, self.kernel], axis=2), inputs.dtype)
        return self.convolution_op(inputs, kernel) + ops.cast(self.bias, inputs.dtype)


def _halve_by_product(inputs: Tensor, kernel: Tensor) -> Tensor:
    """The convolution with a stride of 2 and padding "same" as one product of patches (N * rows * columns) and kernel.

    Patches are cut by `ops.slice` alone: the gradient of a slice with steps takes longer than the convolution.
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
        for x in range(0, wide, 2)  # two columns lie beside each other
    ]
    product = ops.matmul(
        ops.reshape(ops.concatenate(patches, axis=3), (-1, tall * wide * channels)), ops.reshape(kernel, (-1, filters))
    )
    return ops.reshape(product, (-1, rows, columns, filters))


def _same_padding(length: int, kernel: int) -> tuple[int, int]:
    """Before and after, as "same" pads for a stride of 2; one more after where the sum would be odd."""
    missing = max(2 * (-(-length // 2) - 1) + kernel - length, 0)
    before = missing // 2
    after = missing - before
    return before, after + (length + missing) % 2


def _normalize_batch(inputs: Tensor, gamma: Tensor, beta: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """(N, H, W, C) normalized by its own statistics, and these: mean and variance, (C,)."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        fused = tf.compat.v1.nn.fused_batch_norm
        outputs, mean, variance = fused(inputs, gamma, beta, epsilon=epsilon, is_training=True)
        return outputs, mean, variance
    mean, variance = ops.moments(ops.cast(inputs, "float32"), axes=(0, 1, 2))
    outputs = ops.batch_normalization(ops.cast(inputs, "float32"), mean, variance, -1, beta, gamma, epsilon)
    return ops.cast(outputs, inputs.dtype), mean, variance


def _twice(half: Tensor) -> Tensor:
    """A vector over the first half of the channels as one over both."""
    return ops.concatenate([half, half])
