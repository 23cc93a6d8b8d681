"""Which devices of this machine train together."""

from __future__ import annotations

import tensorflow as tf

from alexnet_keras.errors import UserError


def choose_strategy(name: str, batch_size: int) -> tf.distribute.Strategy:
    """The distribution strategy for `auto`, `none` or `mirrored`.

    `mirrored` takes all GPUs, or all virtual CPUs where there is no GPU; `auto` is `mirrored` where
    there are several GPUs and one device otherwise.

    Raises:
        UserError: the batch cannot be shared out evenly among the devices.
    """
    gpus = tf.config.list_logical_devices("GPU")
    if name == "none" or (name == "auto" and len(gpus) < 2):
        return tf.distribute.get_strategy()
    devices = gpus or tf.config.list_logical_devices("CPU")
    if batch_size % len(devices):
        raise UserError(
            f"A batch of {batch_size} cannot be shared out evenly among {len(devices)} devices; "
            f"give a --batch-size that {len(devices)} divides."
        )
    return tf.distribute.MirroredStrategy(
        [device.name for device in devices],
        # On CPUs the default, collective operations, aborts when a process makes a second strategy.
        cross_device_ops=None if gpus else tf.distribute.ReductionToOneDevice(),
    )


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes and speaks for all: true where it is the only one."""
    resolver = strategy.cluster_resolver
    return resolver is None or not resolver.task_id
