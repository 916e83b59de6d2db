"""Training throughput, compared to plain Keras with the same network and similar augmentation."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from trainer.data import FaceSet
from trainer.layers import Conv2D, FusedBatchNormalization
from trainer.model import build_network
from trainer.processor import supports_bfloat16
from trainer.recipes import RECIPES
from trainer.training_tensorflow import TensorFlowTraining

_IMAGES = 1024
_PASSES, _ROUNDS = 2, 3
_PLAIN = {FusedBatchNormalization: keras.layers.BatchNormalization, Conv2D: keras.layers.Conv2D}
"""Keras layers that are replaced by optimized ones in the trainer."""


def images_per_second() -> dict[str, float]:
    """Returns the median throughput of each implementation over alternating rounds in two passes."""
    faces = _random_faces()
    implementations = {
        "plain Keras": (_PlainKeras(faces).train, False),
        "trainer fit, float32": (_trainer(faces), False),
    }
    if supports_bfloat16():
        implementations["trainer fit, bfloat16"] = (_trainer(faces), True)
    seconds: dict[str, list[float]] = {name: [] for name in implementations}
    for _ in range(_PASSES):
        for name, (train, bfloat16) in implementations.items():
            tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": bfloat16})
            train()  # compiles
            seconds[name] += [_timed(train) for _ in range(_ROUNDS)]
    return {name: _IMAGES / float(np.median(times)) for name, times in seconds.items()}


def _trainer(faces: FaceSet) -> Callable[[], object]:
    training = TensorFlowTraining(RECIPES["default"], faces)

    def epoch() -> None:
        training.epoch = RECIPES["default"].epochs - 1  # the last epochs use the full image size
        training.run_epoch(_nothing)

    return epoch


class _PlainKeras:
    """Straightforward Keras code: built-in layers, `compile` and `fit`."""

    def __init__(self, faces: FaceSet) -> None:
        network = keras.models.clone_model(build_network(), clone_function=_plain_layer)
        augmentation = [
            keras.layers.RandomFlip("horizontal"), keras.layers.RandomRotation(0.03), keras.layers.RandomZoom(0.15),
            keras.layers.RandomTranslation(0.1, 0.1), keras.layers.RandomContrast(0.3), keras.layers.Rescaling(1 / 128),
        ]  # fmt: skip
        self._model = keras.Sequential([keras.Input((48, 48, 1)), *augmentation, network])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self._model.compile(optimizer=keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True), loss=loss)
        self._images = faces.images[..., np.newaxis].astype(np.float32)
        self._labels = faces.labels

    def train(self) -> None:
        self._model.fit(self._images, self._labels, batch_size=RECIPES["default"].batch_size, verbose=0)


def _plain_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
    kind = _PLAIN.get(type(layer), type(layer))
    return kind.from_config(layer.get_config())


def _random_faces() -> FaceSet:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (_IMAGES, 48, 48)).astype(np.uint8)
    votes = random.integers(0, 5, (_IMAGES, 10))
    return FaceSet(images, random.integers(0, 7, _IMAGES), tuple(map(str, range(_IMAGES))), votes)


def _timed(call: Callable[[], object]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


def _nothing(_step: int, _loss: float) -> None:
    """Ignores the progress."""
