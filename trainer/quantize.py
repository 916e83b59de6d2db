"""Converts the trained network to TFLite: float32, or int8 by post-training quantization."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from trainer.data import FaceSet
from trainer.layouts import SIZE_PX
from trainer.model import normalize


def to_int8(network: keras.Model, representative: NDArray[np.uint8]) -> bytes:
    """Quantizes weights, activations, input and output to int8.

    Args:
        network: Maps normalized float32 (N, 48, 48, 1) to logits.
        representative: uint8 (N, 48, 48), training images used to calibrate the ranges of the activations.

    Returns:
        Content of the .tflite file. Its input is `pixel - 128`; it contains scale and zero point of the logits.
    """
    converter = _converter(network)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    converter.representative_dataset = lambda: _representative_dataset(representative)
    return bytes(converter.convert())


def to_float(network: keras.Model) -> bytes:
    """Returns a .tflite file with float32 weights, input and output."""
    return bytes(_converter(network).convert())


def representative_images(train: FaceSet, per_class: int, seed: int) -> NDArray[np.uint8]:
    """Returns uint8 (N, 48, 48): up to `per_class` random training images of each class."""
    random = np.random.default_rng(seed)
    chosen = [
        random.permutation(np.flatnonzero(train.labels == label))[:per_class] for label in np.unique(train.labels)
    ]
    return train.take(np.concatenate(chosen)).images


def _representative_dataset(images: NDArray[np.uint8]) -> Iterator[list[tf.Tensor]]:
    # A black and a white pixel extend the input to its full range, which makes its scale exactly 1/64 and its zero
    # point exactly 0: the int8 input is then the pixel minus 128, without rounding. In the corner of a single face
    # they do not widen the range of any activation.
    faces = images.copy()
    faces[0, 0, :2] = 0, 255
    for face in faces:
        yield [normalize(face[np.newaxis, :, :, np.newaxis])]


def _converter(network: keras.Model) -> tf.lite.TFLiteConverter:
    face = keras.Input(batch_shape=(1, SIZE_PX, SIZE_PX, 1), name="face")
    return tf.lite.TFLiteConverter.from_keras_model(keras.Model(face, network(face)))
