"""Dropout that depends on seed, step and example, and not on the device that an example is on."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from alexnet_keras.layers import ClassicDropout


class KeyedDropout:
    """The dropout layers of a model, with masks that are drawn for a step and given to them.

    One mask is drawn for the whole global batch, from a seed of the step and the layer, and each
    replica takes its own rows of it: the same net comes out whatever the number of devices.
    (`keras.layers.Dropout` draws equal masks on all replicas.) Masks are drawn outside what XLA
    compiles, because its generators give other numbers than the kernels' do.

    Outside `using` the layers work as Keras has them. Nothing here is saved with the model.

    Raises:
        ValueError: a dropout layer has a `noise_shape`.
    """

    def __init__(self, model: keras.Model) -> None:
        self._layers = [
            layer
            for layer in model._flatten_layers()
            if isinstance(layer, keras.layers.Dropout) and layer.rate > 0
        ]
        # By thread: MirroredStrategy traces each replica in a thread of its own.
        self._current = threading.local()
        for number, layer in enumerate(self._layers):
            if layer.noise_shape is not None:
                raise ValueError(f"The dropout layer {layer.name!r} has a noise_shape; remove it.")
            layer.call = self._masked(layer, number)

    def draw(self, seed: tf.Tensor, rows: tf.Tensor, batch_size: int) -> list[tf.Tensor]:
        """Which activations each layer keeps: bool (rows, ...), a tensor a layer.

        Args:
            seed: the step's stateless seed, integer [2].
            rows: int32, the places in the global batch that are computed here.
            batch_size: rows of the global batch.
        """
        masks = []
        for number, layer in enumerate(self._layers):
            shape = [batch_size, *layer.input.shape[1:]]
            drawn = tf.random.stateless_uniform(shape, tf.random.fold_in(seed, number))
            masks.append(tf.gather(drawn, rows) >= layer.rate)
        return masks

    @contextlib.contextmanager
    def using(self, masks: Sequence[tf.Tensor]) -> Iterator[None]:
        """The layers take these masks, in this thread."""
        self._current.masks = masks
        try:
            yield
        finally:
            del self._current.masks

    def _masked(self, layer: keras.layers.Dropout, number: int) -> Any:
        call = layer.call
        # What `ClassicDropout` keeps stays as it is; Keras's dropout scales it.
        scale = 1.0 if isinstance(layer, ClassicDropout) else 1.0 / (1.0 - layer.rate)

        @functools.wraps(call)
        def masked(inputs: Any, training: bool = False) -> Any:
            masks = getattr(self._current, "masks", None)
            if masks is None or not training:
                return call(inputs, training=training)
            kept = inputs * tf.cast(scale, inputs.dtype)
            return tf.where(masks[number], kept, tf.zeros_like(inputs))

        return masked


def step_seed(seed: int, step: tf.Tensor | int) -> tf.Tensor:
    """The stateless seed, int64 [2], of one step's dropout."""
    return tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)])
