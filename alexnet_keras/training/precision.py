"""In how many bits nets compute: float32, or 16 bits where the hardware has units for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from alexnet_keras.errors import UserError

#: what `--precision` stands for
POLICIES = {
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}
#: the flags of x86 CPUs that have it in hardware
_CPU_FLAGS = {"bfloat16": {"avx512_bf16", "amx_bf16"}, "float16": {"avx512_fp16", "amx_fp16"}}
#: the first compute capability of NVIDIA GPUs with matrix units for each
_CAPABILITY = {"bfloat16": (8, 0), "float16": (7, 0)}


def set_precision(name: str) -> None:
    """Sets Keras's dtype policy for the nets to come.

    Args:
        name: a key of `POLICIES`: `"float32"`, or activations and gradients of 16 bits with weights
            of 32, where the hardware computes so.

    Raises:
        UserError: the hardware does not.
    """
    check_precision(name)
    keras.mixed_precision.set_dtype_policy(POLICIES[name])


def choose_precision(name: str) -> str:
    """The precision that `"auto"` stands for, bfloat16 if it is in hardware; another one as it is.

    Raises:
        UserError: as `check_precision`.
    """
    if name == "auto":
        return "bfloat16" if in_hardware("bfloat16") else "float32"
    check_precision(name)
    return name


def check_precision(name: str) -> None:
    """
    Raises:
        UserError: the hardware does not compute in this precision.
    """
    if not in_hardware(name):
        gpus = _gpu_details()
        device = gpus[0].get("device_name", "this GPU") if gpus else "this machine's CPU"
        raise UserError(
            f"{device} does not compute in {name}, which would be slower than float32; leave "
            f"--precision {name} out."
        )


def in_hardware(name: str) -> bool:
    """Whether all GPUs, or else the CPU, have units for a precision, a key of `POLICIES`."""
    if name == "float32":
        return True
    if gpus := _gpu_details():
        return all(gpu.get("compute_capability", (0, 0)) >= _CAPABILITY[name] for gpu in gpus)
    return bool(_CPU_FLAGS[name] & _cpu_flags())


@contextmanager
def computing_in(name: str, model: keras.Model) -> Iterator[None]:
    """Inside, what `model` computes of feature maps is computed in a precision; then as before.

    Feature maps are 4-D: convolutions, the bulk of the work, and what stands between them. Vectors,
    a classifier's probabilities above all, stay in float32, and so do all weights. What was traced
    inside goes on computing so.

    Args:
        name: a key of `POLICIES`.
    """
    layers = [
        layer
        for layer in model.layers
        if not isinstance(layer, keras.layers.InputLayer) and len(layer.output.shape) == 4
    ]
    before = [layer.dtype_policy for layer in layers]
    try:
        for layer in layers:
            layer.dtype_policy = POLICIES[name]
        yield
    finally:
        for layer, policy in zip(layers, before, strict=True):
            layer.dtype_policy = policy


def _gpu_details() -> list[dict[str, Any]]:
    """What TensorFlow knows of each GPU."""
    gpus = tf.config.list_physical_devices("GPU")
    return [tf.config.experimental.get_device_details(gpu) for gpu in gpus]


def _cpu_flags() -> set[str]:
    """Features of the CPU as Linux names them; empty elsewhere."""
    try:
        with open("/proc/cpuinfo") as file:
            lines = [line for line in file if line.startswith("flags")]
    except OSError:
        return set()
    return set(lines[0].split()) if lines else set()
