"""The network: plain 3x3 convolutions with batch normalization and a few residual blocks, 0.8 M parameters by default.

Every layer becomes one int8 convolution, addition or mean in TFLite: nothing here needs a trick to be quantized.
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
"""What flows between the layers; weights are float32."""

PIXEL_CENTRE: Final = 128.0
PIXEL_SCALE: Final = 64.0
"""(pixel - 128) / 64: with this range the int8 input is exactly `pixel - 128`, so quantizing it costs nothing."""


def normalize(pixels: Tensor) -> Tensor:
    """Gray pixels 0-255 to the network's input, -2 to 1.984."""
    return (ops.cast(pixels, "float32") - PIXEL_CENTRE) / PIXEL_SCALE


def build_network(
    *,
    classes: int = len(EMOTIONS),
    width: float = 1.0,
    top_channels: int = 256,
    blocks: tuple[int, int, int] = (0, 1, 1),
    dropout: float = 0.0,
    vote_head: bool = False,
    mirror: bool = False,
    policy: Policy = "float32",
) -> keras.Model:
    """The untrained network.

    Args:
        classes: Outputs of the main head.
        width: Factor on the channels of every layer; 1 is what devices run, teachers are wider.
        top_channels: Channels of the last layer at width 1. It has 3x3 positions only, so that more of them cost
            bytes rather than multiplications.
        blocks: Residual blocks at a half, a quarter and an eighth of the image's side.
        dropout: Share of features dropped before the heads while training.
        vote_head: Whether to add the second head that learns FER+'s votes.
        mirror: Whether a face and its mirror image get the same answer by construction. It has as many
            channels, little more than half as many weights to learn, and 9 % more multiplications.
        policy: What flows between the layers.

    Returns:
        A model from normalized float32 (N, side, side, 1), side a multiple of 4 (of 16 for the exact symmetry), to
        logits float32 (N, classes), or to a pair with the vote logits (N, 8).
    """
    standing = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        inputs = keras.Input((None, None, 1), name="face")
        layers = _Layers(mirror)
        step = 2 if mirror else 1  # channels come in pairs
        channels = [step * round(channels * width / step) for channels in (16, 32, 64, 128, top_channels)]
        features = layers.body(inputs, channels, blocks)  # before the dropout, which draws a seed for itself
        features = keras.layers.Dropout(dropout)(features)
        logits = layers.head(features, classes, "logits")
        outputs = (logits, layers.head(features, len(FERPLUS_EMOTIONS), "votes")) if vote_head else logits
        return keras.Model(inputs, outputs)
    finally:
        keras.config.set_dtype_policy(standing)


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


def heads(outputs: Tensor) -> Sequence[Tensor]:
    """What `build_network`'s network answers, as one array for each head; the main head's is the first."""
    return outputs if isinstance(outputs, list | tuple) else [outputs]


@dataclass(frozen=True, slots=True)
class _Layers:
    """How the layers of a network are made: as ordinary ones, or as ones that hold to the mirror symmetry."""

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
        # Of an even number of columns, every second one is symmetric only between two: hence kernels of four columns.
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
        # A 1x1 convolution, because TensorFlow writes dense layers in a form that tflite-runtime 2.14 cannot load.
        x = (MirrorHead if self.mirror else keras.layers.Conv2D)(classes, 1, name=name)(x)  # (1, 1, classes)
        return keras.layers.Reshape((classes,))(x)
