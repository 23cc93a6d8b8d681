"""Dropout as it was in 2012 (paper, section 4.2)."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="alexnet_keras")
class ClassicDropout(keras.layers.Dropout):
    """Dropout that scales when the net is used, not when it is trained.

    With `training=True` each activation becomes zero with probability `rate` and the others stay
    as they are; otherwise all are multiplied by `1 - rate`. `keras.layers.Dropout` instead divides
    by `1 - rate` in training and changes nothing otherwise, so outputs and gradients here are
    `1 - rate` times its own, always: published initializations, learning rates and weights go with
    the kind that they were made for.

    Source: paper, section 4.2 (rate 0.5, outputs halved at test time), and `HiddenSexLayer` in
    `src/layer.cu` of computerhistory/AlexNet-Source-Code (type `hs`, `keep=0.5` in
    `layers/layers-145.cfg`), whose gradients are these too. Caffe's Dropout layer is Keras's kind.

    Input and output are of any shape, in the policy's compute dtype. At a rate of 0.5 the
    activations that stay are exactly those that came, at others within rounding. The mask is the
    one that `keras.layers.Dropout` draws from the same seed; like there, replicas under
    `tf.distribute` draw equal masks.

    Args:
        rate: probability of each activation to become zero, 0 to 1; the 2012 code's `1 - keep`.
        noise_shape: shape of the mask, as in `keras.layers.Dropout`.
        seed: integer; `None` draws one.

    Raises:
        ValueError: `rate` is outside 0 to 1, or `noise_shape` is no shape.
    """

    def call(self, inputs: Any, training: bool = False) -> Any:
        # Before Keras divides the rest by 1 - rate: half precision could overflow there.
        return super().call(ops.multiply(inputs, 1 - self.rate), training=training)
