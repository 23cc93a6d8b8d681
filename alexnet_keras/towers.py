"""One column of layers: the whole net, or one of the two towers of 2012."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import layers

from alexnet_keras.layers import (
    CeilMaxPooling2D,
    ClassicDropout,
    LocalResponseNormalization,
    SpatialResponseNormalization,
)
from alexnet_keras.placement import check_devices, place
from alexnet_keras.tower_names import SUFFIXES
from alexnet_keras.variants import INITIALIZATIONS, Variant


class Tower:
    """Makes the layers of one column of `row`; their names end in "a" or "b" if it is one of two.

    Each method takes and returns Keras tensors.
    """

    def __init__(self, row: Variant, suffix: str = "", device: str | None = None) -> None:
        self.row, self.suffix, self.device = row, suffix, device

    def stage(self, number: int, x: Any) -> Any:
        """A convolution and what follows it up to the next, as `Variant.order` says."""
        row, inputs = self.row, x
        steps = row.order_of(number).split()
        if row.normalization == "batch":
            # Not where the order has its "norm": behind all five convolutions.
            steps = ["batch", *(step for step in steps if step not in ("norm", "spatial"))]
        elif row.normalization is None:
            steps = [step for step in steps if step not in ("norm", "spatial")]
        if row.residual and number in (4, 5):
            steps.insert(steps.index("batch") + 1 if "batch" in steps else 0, "add")
        fused = steps[0] == "act"
        x = self._conv(number, x, activation=row.activation if fused else None)
        for step in steps[fused:]:
            x = self._add(number, inputs, x) if step == "add" else self._step(number, step, x)
        return x

    def hidden(self, number: int, x: Any) -> Any:
        """fc6 or fc7, with its activation and dropout."""
        row, name = self.row, f"fc{number}"
        units = row.hidden_units[number - 6] // row.towers
        kind = ClassicDropout if row.dropout_scales == "inference" else layers.Dropout
        dropout = kind(row.dropout, name=self._name(f"drop{number}"))
        dense = layers.Dense(
            units,
            activation=row.activation,
            name=self._name(name),
            **initializers(row, name, fan_in=x.shape[-1]),
        )
        for layer in (dropout, dense) if row.dropout_on == "input" else (dense, dropout):
            x = self._apply(layer, x)
        return x

    def _conv(self, number: int, x: Any, activation: Any) -> Any:
        row, name, size = self.row, f"conv{number}", self.row.kernel_sizes[number - 1]
        groups = row.groups(number)
        layer = layers.Conv2D(
            row.filters[number - 1] // row.towers,
            size,
            strides=row.conv1_stride if number == 1 else 1,
            padding="valid" if number == 1 else "same",
            groups=groups,
            activation=activation,
            use_bias=row.normalization != "batch",  # batch normalization takes it out again
            name=self._name(name),
            **initializers(row, name, fan_in=size * size * x.shape[-1] // groups),
        )
        return self._apply(layer, x)

    def _step(self, number: int, step: str, x: Any) -> Any:
        row, (size, stride) = self.row, self.row.pool
        if step == "act":
            named = row.activation if isinstance(row.activation, str) else "activation"
            layer = layers.Activation(row.activation, name=self._name(f"{named}{number}"))
        elif step == "pool":
            kind = CeilMaxPooling2D if row.ceil_pooling else layers.MaxPooling2D
            layer = kind(size, strides=stride, name=self._name(f"pool{number}"))
        elif step == "norm":
            layer = LocalResponseNormalization(**row.lrn, name=self._name(f"norm{number}"))
        elif step == "spatial":
            layer = SpatialResponseNormalization(
                **row.spatial, name=self._name(f"spatial_norm{number}")
            )
        else:
            # Over all devices of a strategy: else each keeps moving statistics of its own.
            over_devices = keras.backend.backend() == "tensorflow"
            layer = layers.BatchNormalization(
                synchronized=over_devices, name=self._name(f"norm{number}")
            )
        return self._apply(layer, x)

    def _add(self, number: int, inputs: Any, x: Any) -> Any:
        if inputs.shape[-1] != x.shape[-1]:
            name = f"shortcut{number}"
            projection = layers.Conv2D(
                x.shape[-1],
                1,
                groups=self.row.groups(number),
                use_bias=False,
                kernel_initializer="he_normal",
                name=self._name(name),
            )
            inputs = self._apply(projection, inputs)
        return self._apply(layers.Add(name=self._name(f"add{number}")), [inputs, x])

    def _apply(self, layer: keras.Layer, x: Any) -> Any:
        if self.device is None:
            return layer(x)
        with tf.device(self.device):
            return place(layer, self.device)(x)

    def _name(self, name: str) -> str:
        return name + self.suffix


def towers_of(row: Variant, devices: Sequence[str] | None) -> list[Tower]:
    """The columns of a row, on the devices asked for.

    Raises:
        UserError: there is no such device, or not one for each tower.
    """
    if devices is not None:
        check_devices(row.towers, devices)
    placed = devices or [None] * row.towers
    suffixes = SUFFIXES if row.towers == 2 else ("",)
    return [Tower(row, *pair) for pair in zip(suffixes, placed, strict=True)]


def joined(name: str, outputs: Sequence[Any]) -> Any:
    """Both towers' outputs, the first tower's channels first; one tower's as it is."""
    return outputs[0] if len(outputs) == 1 else layers.Concatenate(name=name)(outputs)


def initializers(row: Variant, name: str, fan_in: int) -> dict[str, keras.Initializer]:
    """Keyword arguments for the layer `name` of a row, whose units have `fan_in` inputs each."""
    gaussian = INITIALIZATIONS[row.initialization]
    if gaussian is not None:
        return {
            "kernel_initializer": keras.initializers.RandomNormal(stddev=gaussian.std_of(name)),
            "bias_initializer": keras.initializers.Constant(gaussian.bias_of(name)),
        }
    if row.initialization == "he":
        # The classifier starts near even odds, whatever its inputs are.
        kernel = keras.initializers.RandomNormal(stddev=0.01) if name == "fc8" else "he_normal"
        return {"kernel_initializer": kernel}
    limit = 1 / math.sqrt(fan_in)
    return {
        "kernel_initializer": keras.initializers.RandomUniform(-limit, limit),
        "bias_initializer": keras.initializers.RandomUniform(-limit, limit),
    }
