"""Two virtual CPUs for every test, so that MirroredStrategy is tested on any machine; one seed."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import pytest
import tensorflow as tf

# Has to happen before anything initialises TensorFlow's devices, hence at import.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Where the references have to be installed, a reference test that skips has failed."""
    report = yield
    required = os.environ.get("ALEXNET_KERAS_REQUIRE_REFERENCE")
    # Real data may be anywhere or nowhere.
    needed = item.get_closest_marker("reference") and not item.get_closest_marker("real_data")
    if required and report.skipped and needed:
        report.outcome = "failed"
        report.longrepr = f"skipped, though its reference is required: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def same_random_numbers():
    """What is drawn without a seed, initial weights say, is the same each time the test runs."""
    keras.utils.set_random_seed(20120930)


@pytest.fixture
def repository() -> Path:
    return REPOSITORY


def _shared(*parts: str) -> Path:
    """A file or folder of real photographs or weights, which are not in the repository."""
    root = os.environ.get("ALEXNET_KERAS_REAL_DATA")
    if not root:
        pytest.skip("ALEXNET_KERAS_REAL_DATA does not name a folder with real photographs")
    path = Path(root, *parts)
    if not path.exists():
        pytest.skip(f"ALEXNET_KERAS_REAL_DATA names a folder without {'/'.join(parts)}")
    return path


@pytest.fixture(scope="session")
def flower_photos() -> Path:
    return _shared("data", "flower_photos")


@pytest.fixture(scope="session")
def torchvision_trunk() -> Path:
    return _shared("weights", "torchvision_alexnet_conv_hwio.npz")
