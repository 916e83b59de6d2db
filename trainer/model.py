"""The network: plain 3x3 convolutions with batch normalization and a few residual blocks, 0.8 M parameters by default.

In TFLite, every layer becomes one int8 convolution, addition or mean, so quantization needs no special care.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from edge.contract import EMOTIONS
from trainer.labels import FERPLUS_EMOTIONS
from trainer.layers import (
    Conv2D,
    FusedBatchNormalization,
    MirrorBatchNormalization,
    MirrorConv2D,
    MirrorHead,
    Tensor,
)

Policy = Literal["float32", "mixed_bfloat16"]
"""Keras dtype policy of the activations; weights are always float32."""

PIXEL_CENTER: Final = 128.0
PIXEL_SCALE: Final = 64.0
"""(pixel - 128) / 64: with this range the int8 input is exactly `pixel - 128`, so quantizing it costs nothing."""


def normalize(pixels: Tensor) -> Tensor:
    """Converts gray pixels, 0-255, to the network's input, -2 to 1.984."""
    return (ops.cast(pixels, "float32") - PIXEL_CENTER) / PIXEL_SCALE


def build_network(
    *,
    classes: int = len(EMOTIONS),
    width: float = 1.0,
    top_channels: int = 256,
    blocks: tuple[int, int, int] = (0, 1, 1),
    dropout: float = 0.0,
    ferplus_head: bool = False,
    mirror: bool = False,
    policy: Policy = "float32",
) -> keras.Model:
    """Builds the untrained network.

    Args:
        classes: Outputs of the main head.
        width: Factor on the number of channels of every layer: 1 for models that run on devices, more for teachers.
        top_channels: Channels of the last convolutional layer at width 1. Its feature map is 3x3, so more channels
            cost memory rather than multiplications.
        blocks: Number of residual blocks at 1/2, 1/4 and 1/8 of the image side.
        dropout: Dropout rate before the heads.
        ferplus_head: Whether to add a second head, for the FER+ votes.
        mirror: Whether to make the network invariant to horizontal flips by construction. It keeps the number of
            channels, has little more than half the trainable weights, and 9 % more multiplications.
        policy: Dtype policy of the activations.

    Returns:
        A model from normalized float32 (N, side, side, 1), side a multiple of 4 (of 16 for exact invariance), to
        logits float32 (N, classes), or to a pair with the FER+ logits (N, 8).
    """
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        inputs = keras.Input((None, None, 1), name="face")
        layers = _Layers(mirror)
        step = 2 if mirror else 1  # channels come in pairs
        channels = [step * round(channels * width / step) for channels in (16, 32, 64, 128, top_channels)]
        features = layers.body(inputs, channels, blocks)  # first: Dropout draws a seed of its own
        features = keras.layers.Dropout(dropout)(features)
        logits = layers.head(features, classes, "logits")
        outputs = (logits, layers.head(features, len(FERPLUS_EMOTIONS), "votes")) if ferplus_head else logits
        return keras.Model(inputs, outputs)
    finally:
        keras.config.set_dtype_policy(previous)


def widen(weight: NDArray[np.float32], initial: NDArray[np.float32]) -> NDArray[np.float32]:
    """Extends a weight of a narrower network to a wider one without changing what the network computes.

    The first channels are those of the narrower network. New outputs keep their random weights, but kernels are zero
    for new inputs, so that they have no effect at first (after Net2Net, Chen et al. 2016, arXiv:1511.05641, which
    duplicates channels instead).

    Args:
        weight: A kernel (height, width, inputs, outputs), or a vector over channels.
        initial: The same weight of the wider network, freshly initialized; no axis is shorter.
    """
    corner = tuple(slice(length) for length in weight.shape)
    widened = initial.copy()
    if weight.ndim > 1:
        widened *= np.linalg.norm(weight) / np.linalg.norm(initial[corner])  # scale new outputs like the trained ones
        widened[:, :, weight.shape[2] :] = 0
    widened[corner] = weight
    return widened


def heads(outputs: Tensor) -> Sequence[Tensor]:
    """Returns the outputs of a network of `build_network` as a sequence: one array per head, the main head first."""
    return outputs if isinstance(outputs, list | tuple) else [outputs]


@dataclass(frozen=True, slots=True)
class _Layers:
    """Factory of the layers: ordinary ones, or ones that are equivariant to horizontal flips."""

    mirror: bool

    def body(self, x: Tensor, channels: Sequence[int], blocks: Sequence[int]) -> Tensor:
        narrow, low, middle, high, top = channels
        x = self.conv(x, narrow)  # (side, side, 16)
        x = self.conv(x, low, stride=2)  # (side/2, side/2, 32)
        x = self.conv(x, low)
        x = self.residuals(x, low, blocks[0])
        x = self.conv(x, middle, stride=2)  # (side/4, side/4, 64)
        x = self.residuals(x, middle, blocks[1])
        x = self.conv(x, high, stride=2)  # (side/8, side/8, 128)
        x = self.residuals(x, high, blocks[2])
        x = self.conv(x, top, stride=2)  # (side/16, side/16, top)
        return keras.layers.GlobalAveragePooling2D(keepdims=True)(x)  # (1, 1, top)

    def conv(self, x: Tensor, channels: int, *, stride: int = 1, relu: bool = True) -> Tensor:
        # With stride 2 over an even number of columns, only kernels with an even number of columns can be symmetric.
        size = (3, 4) if self.mirror and stride == 2 else 3
        convolution = MirrorConv2D if self.mirror else Conv2D
        x = convolution(channels, size, stride, "same", use_bias=False, kernel_initializer="he_normal")(x)
        x = (MirrorBatchNormalization if self.mirror else FusedBatchNormalization)(momentum=0.9)(x)
        return keras.layers.ReLU()(x) if relu else x

    def residuals(self, x: Tensor, channels: int, count: int) -> Tensor:
        for _ in range(count):
            branch = self.conv(self.conv(x, channels), channels, relu=False)
            x = keras.layers.ReLU()(keras.layers.Add()([x, branch]))
        return x

    def head(self, x: Tensor, classes: int, name: str) -> Tensor:
        # A 1x1 convolution, because tflite-runtime 2.14 cannot load dense layers as TensorFlow converts them.
        x = (MirrorHead if self.mirror else keras.layers.Conv2D)(classes, 1, name=name)(x)  # (1, 1, classes)
        return keras.layers.Reshape((classes,))(x)
