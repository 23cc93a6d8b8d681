"""Which devices of this machine train together."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from alexnet_keras.errors import UserError
from alexnet_keras.training.multiworker import worker_strategy


def choose_strategy(
    name: str,
    batch_size: int,
    *,
    wait_seconds: float = 300.0,
    say: Callable[[str], None] = print,
) -> tf.distribute.Strategy:
    """The distribution strategy for `auto`, `none`, `mirrored` or `multiworker`.

    `mirrored` takes all GPUs, or all virtual CPUs where there is no GPU; `auto` is `mirrored` where
    there are several GPUs and one device otherwise; for `multiworker` see `worker_strategy`.

    Args:
        batch_size: examples a step, over all devices.
        wait_seconds, say: as in `worker_strategy`.

    Raises:
        UserError: the batch cannot be shared out evenly among the devices; as `worker_strategy`.
    """
    if name == "multiworker":
        return worker_strategy(batch_size, wait_seconds=wait_seconds, say=say)
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
