"""The network: plain 3x3 convolutions with batch normalization and a few residual blocks, 0.8 M parameters by default.

Every layer becomes one int8 convolution, addition or mean in TFLite: nothing here needs a trick to be quantized.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from edge.contract import EMOTIONS
from trainer.labels import FERPLUS_EMOTIONS

PIXEL_CENTRE: Final = 128.0
PIXEL_SCALE: Final = 64.0
"""(pixel - 128) / 64: with this range the int8 input is exactly `pixel - 128`, so quantizing it costs nothing."""


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization over the channels through TensorFlow's fused kernel.

    Keras 3 composes it of single operations on TensorFlow, which takes about twice the time on a CPU.
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: Any = None) -> tf.Tensor:  # noqa: FBT001, ARG002
        """Normalizes float32 (N, H, W, C)."""
        fused = partial(
            tf.compat.v1.nn.fused_batch_norm, inputs, self.gamma.value, self.beta.value, epsilon=self.epsilon
        )
        if not (training and self.trainable):
            return fused(mean=self.moving_mean.value, variance=self.moving_variance.value, is_training=False)[0]
        outputs, mean, variance = fused(is_training=True)
        self.moving_mean.assign(self.moving_mean * self.momentum + mean * (1 - self.momentum))
        self.moving_variance.assign(self.moving_variance * self.momentum + variance * (1 - self.momentum))
        return outputs


def normalize(pixels: tf.Tensor) -> tf.Tensor:
    """Gray pixels 0-255 to the network's input, -2 to 1.984."""
    return (tf.cast(pixels, tf.float32) - PIXEL_CENTRE) / PIXEL_SCALE


def build_network(
    *,
    classes: int = len(EMOTIONS),
    width: float = 1.0,
    top_channels: int = 256,
    dropout: float = 0.0,
    vote_head: bool = False,
) -> keras.Model:
    """The untrained network.

    Args:
        classes: Outputs of the main head.
        width: Factor on the channels of every layer; 1 is what devices run, teachers are wider.
        top_channels: Channels of the last layer at width 1. It has 3x3 positions only, so that more of them cost
            bytes rather than multiplications.
        dropout: Share of features dropped before the heads while training.
        vote_head: Whether to add the second head that learns FER+'s votes.

    Returns:
        A model from normalized float32 (N, side, side, 1), side a multiple of 4, to logits float32 (N, classes), or to
        a pair with the vote logits (N, 8).
    """
    narrow, low, middle, high, top = (round(channels * width) for channels in (16, 32, 64, 128, top_channels))
    x = inputs = keras.Input((None, None, 1), name="face")
    x = _conv(x, narrow)  # (side, side, 16)
    x = _conv(x, low, stride=2)  # (side/2, side/2, 32)
    x = _conv(x, low)
    x = _conv(x, middle, stride=2)  # (side/4, side/4, 64)
    x = _residual(x, middle)
    x = _conv(x, high, stride=2)  # (side/8, side/8, 128)
    x = _residual(x, high)
    x = _conv(x, top, stride=2)  # (side/16, side/16, top)
    x = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)  # (1, 1, top)
    x = keras.layers.Dropout(dropout)(x)
    logits = _head(x, classes, "logits")
    outputs = (logits, _head(x, len(FERPLUS_EMOTIONS), "votes")) if vote_head else logits
    return keras.Model(inputs, outputs)


def grow(weight: NDArray[np.float32], into: NDArray[np.float32]) -> NDArray[np.float32]:
    """A weight of a narrower network as the first channels of a wider one, which so answers as the narrower did.

    New outputs keep their random weights, but nothing listens to them at first: what goes from new inputs into a kernel
    is zero (after Net2Net, Chen et al. 2016, arXiv:1511.05641, which copies channels instead).

    Args:
        weight: A kernel (height, width, inputs, outputs), or a vector over channels.
        into: The same weight of the wider network, freshly initialized; no axis is shorter.
    """
    corner = tuple(slice(length) for length in weight.shape)
    grown = into.copy()
    if weight.ndim > 1:
        grown *= np.linalg.norm(weight) / np.linalg.norm(into[corner])  # new outputs as long as those they join
        grown[:, :, weight.shape[2] :] = 0
    grown[corner] = weight
    return grown


def _conv(x: tf.Tensor, channels: int, *, stride: int = 1, relu: bool = True) -> tf.Tensor:
    x = keras.layers.Conv2D(channels, 3, stride, "same", use_bias=False, kernel_initializer="he_normal")(x)
    x = FusedBatchNormalization(momentum=0.9)(x)
    return keras.layers.ReLU()(x) if relu else x


def _residual(x: tf.Tensor, channels: int) -> tf.Tensor:
    branch = _conv(_conv(x, channels), channels, relu=False)
    return keras.layers.ReLU()(keras.layers.Add()([x, branch]))


def _head(x: tf.Tensor, classes: int, name: str) -> tf.Tensor:
    # A 1x1 convolution, because TensorFlow writes dense layers in a form that tflite-runtime 2.14 cannot load.
    x = keras.layers.Conv2D(classes, 1, name=name)(x)  # (1, 1, classes)
    return keras.layers.Reshape((classes,))(x)
