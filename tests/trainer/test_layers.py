"""The project's own layers compute the same in training as in evaluation."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.layers import Conv2D, MirrorConv2D


@pytest.mark.parametrize("side_px", [2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize(("kind", "size"), [(Conv2D, (3, 3)), (MirrorConv2D, (3, 4))])
def test_strided_convolutions_of_small_maps_are_equal_in_training_and_evaluation(
    kind: type[Conv2D], size: tuple[int, int], side_px: int
) -> None:
    """For even and odd sides; the gradients agree too."""
    image = tf.random.stateless_normal((5, side_px, side_px, 4), seed=(1, side_px))
    layer = kind(6, size, 2, "same", use_bias=False)

    results = [_output_and_gradients(layer, image, training=training) for training in (False, True)]

    assert results[0][0].shape == (5, -(-side_px // 2), -(-side_px // 2), 6)
    for in_evaluation, in_training in zip(*results, strict=True):
        np.testing.assert_allclose(in_training, in_evaluation, atol=1e-5)


def test_strided_convolutions_of_small_maps_are_matrix_products_in_training_only() -> None:
    """Evaluation and export use an ordinary convolution, and so does training on larger feature maps."""
    layer = Conv2D(6, 3, 2, "same", use_bias=False)
    assert {_operation(layer, 6, training=True), _operation(layer, 5, training=True)} == {"MatMul"}
    assert {_operation(layer, 6, training=False), _operation(layer, 12, training=True)} == {"Conv2D"}


def _operation(layer: keras.layers.Layer, side_px: int, *, training: bool) -> str:
    """The operation with which TensorFlow computes the layer."""
    image = tf.TensorSpec((5, side_px, side_px, 4), tf.float32)
    graph = tf.function(lambda images: layer(images, training=training)).get_concrete_function(image).graph
    (kind,) = {str(operation.type) for operation in graph.get_operations()} & {"Conv2D", "MatMul"}
    return kind


def _output_and_gradients(layer: keras.layers.Layer, image: tf.Tensor, *, training: bool) -> list[np.ndarray]:
    with tf.GradientTape() as tape:
        tape.watch(image)
        output = layer(image, training=training)
        loss = tf.reduce_sum(tf.sin(output))  # its gradient differs between positions
    kernel = layer.trainable_variables[0].value
    return [output.numpy(), *(gradient.numpy() for gradient in tape.gradient(loss, [image, kernel]))]
