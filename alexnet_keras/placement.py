"""Running a layer on a device of one's choice, forward and backward."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from alexnet_keras.errors import UserError


def check_devices(towers: int, devices: Sequence[str]) -> None:
    """Whether TensorFlow has these devices, such as `"GPU:1"`, and there is one for each tower.

    Raises:
        UserError: it has not, there is not, or Keras runs on another backend.
    """
    if towers == 1:
        raise UserError(
            "tower_devices places the two towers of the variants 'paper' and 'release'; the others "
            "have one column. Leave it out."
        )
    if isinstance(devices, str) or len(devices) != towers:
        raise UserError(
            f"tower_devices names a device for each of the {towers} towers, such as ('GPU:0', "
            f"'GPU:1'); received {devices!r}."
        )
    if keras.backend.backend() != "tensorflow":
        raise UserError(
            "Towers are placed on devices by TensorFlow; Keras runs on "
            f"{keras.backend.backend()!r} here. Leave tower_devices out."
        )
    strategy = tf.distribute.get_strategy()
    if strategy.num_replicas_in_sync > 1:
        raise UserError(
            f"{type(strategy).__name__} gives each device a whole net; towers cannot be placed "
            "inside its scope. Leave tower_devices out, or train without the strategy."
        )
    here = [device.name for device in tf.config.list_logical_devices()]
    for device in devices:
        if not isinstance(device, str) or _short(device) not in map(_short, here):
            raise UserError(
                f"TensorFlow has no device {device!r} here; it has "
                f"{', '.join(name.partition('device:')[2] for name in here)}."
            )


def _short(name: str) -> str:
    """`CPU:0` for every way in which TensorFlow writes that device."""
    return name.rpartition("/")[2].lower().removeprefix("device:")


def place(layer: keras.Layer, device: str) -> keras.Layer:
    """Makes `layer` run on `device`: its operations and, in training, those of its gradient.

    TensorFlow's gradients do not follow the device of the operations that they belong to, hence the
    gradient of our own around the layer's. Variables lie where the layer is built: build it under
    `tf.device(device)`. Where a layer runs is a matter of the machine; it is not saved.
    """
    call = layer.call

    @functools.wraps(call)
    def placed(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        @tf.custom_gradient
        def run(*tensors: tf.Tensor) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                outputs = call(tf.nest.pack_sequence_as(inputs, tensors), *args, **kwargs)

            def gradient(upstream: tf.Tensor, variables: Any = None) -> Any:
                with tf.device(device):
                    found = tape.gradient(
                        outputs,
                        [*tensors, *(variables or [])],
                        upstream,
                        unconnected_gradients=tf.UnconnectedGradients.ZERO,
                    )
                ours, theirs = found[: len(tensors)], found[len(tensors) :]
                return ours if variables is None else (ours, theirs)

            return outputs, gradient

        with tf.device(device):
            return run(*tf.nest.flatten(inputs))

    layer.call = placed
    # XLA compiles for one device.
    layer.supports_jit = False
    return layer
