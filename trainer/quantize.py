"""From the trained network to a TFLite file: folded, calibrated and rounded to int8, or left in float."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from trainer.data import FaceSet
from trainer.layouts import SIZE_PX
from trainer.model import normalize


def to_int8(network: keras.Model, calibration: NDArray[np.uint8]) -> bytes:
    """Quantizes weights and activations to int8; input and output are int8 too.

    Args:
        network: Normalized float32 (N, 48, 48, 1) to logits.
        calibration: uint8 (N, 48, 48), training images from which the range of each activation is read.

    Returns:
        The .tflite file. Its input is `pixel - 128`; scale and zero point of the logits stand in the file.
    """
    converter = _converter(network)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    converter.representative_dataset = lambda: _representatives(calibration)
    return bytes(converter.convert())


def to_float(network: keras.Model) -> bytes:
    """The .tflite file with float32 weights, input and output."""
    return bytes(_converter(network).convert())


def calibration_images(train: FaceSet, per_class: int, seed: int) -> NDArray[np.uint8]:
    """uint8 (N, 48, 48): up to `per_class` training images of each class, chosen at random."""
    random = np.random.default_rng(seed)
    chosen = [
        random.permutation(np.flatnonzero(train.labels == label))[:per_class] for label in np.unique(train.labels)
    ]
    return train.take(np.concatenate(chosen)).images


def _representatives(calibration: NDArray[np.uint8]) -> Iterator[list[tf.Tensor]]:
    # A black and a white pixel make the input's range whole, so that its scale is exactly 1/64 and its zero point
    # exactly 0: the int8 input then is the pixel minus 128, without rounding. In the corner of one face they widen no
    # other range.
    faces = calibration.copy()
    faces[0, 0, :2] = 0, 255
    for face in faces:
        yield [normalize(face[np.newaxis, :, :, np.newaxis])]


def _converter(network: keras.Model) -> tf.lite.TFLiteConverter:
    face = keras.Input(batch_shape=(1, SIZE_PX, SIZE_PX, 1), name="face")
    return tf.lite.TFLiteConverter.from_keras_model(keras.Model(face, network(face)))
