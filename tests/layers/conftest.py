"""What the tests of the layers share."""

from __future__ import annotations

import keras
import pytest
import tensorflow as tf


@pytest.fixture
def save_and_load(tmp_path):
    """A model written to a `.keras` file and read again, as another program would."""

    def through_a_file(model: keras.Model) -> keras.Model:
        model.save(tmp_path / "model.keras")
        return keras.models.load_model(tmp_path / "model.keras", compile=False, safe_mode=True)

    return through_a_file


@pytest.fixture
def two_replicas():
    devices = [device.name for device in tf.config.list_logical_devices("CPU")]
    assert len(devices) == 2
    # Collective ops, the default, clash as soon as one process holds a second strategy.
    return tf.distribute.MirroredStrategy(
        devices, cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
