"""A faster gradient for fully connected layers."""

from __future__ import annotations

import functools
from typing import Any

import keras
import tensorflow as tf


def quicken_dense(model: keras.Model) -> None:
    """Has another kernel compute the gradients that fully connected layers hand down.

    TensorFlow's product with a transposed matrix reaches a third of the speed of its others on CPUs
    with AVX-512; its product of batches of matrices, here batches of one, does not lose speed.
    Values are the same and gradients within rounding. Nothing here is saved with the model.
    """
    for layer in model._flatten_layers():
        # A layer whose call was replaced, as `place` does, stays as it is.
        if type(layer) is keras.layers.Dense and "call" not in vars(layer):
            layer.call = _quick(layer)


def _quick(layer: keras.layers.Dense) -> Any:
    call = layer.call

    @functools.wraps(call)
    def quick(inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if len(inputs.shape) != 2:
            return call(inputs, training=training)
        outputs = _product(inputs, tf.convert_to_tensor(layer.kernel))
        if layer.use_bias:
            outputs = tf.nn.bias_add(outputs, tf.convert_to_tensor(layer.bias))
        return layer.activation(outputs)

    return quick


@tf.custom_gradient
def _product(x: tf.Tensor, kernel: tf.Tensor) -> Any:
    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        by_input = tf.matmul(upstream[tf.newaxis], kernel[tf.newaxis], transpose_b=True)
        return by_input[0], tf.matmul(x, upstream, transpose_a=True)

    return tf.matmul(x, kernel), gradient
