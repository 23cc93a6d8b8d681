"""From the axis orders of PyTorch, Caffe and ONNX to those of Keras.

Convolutions are (out, in, height, width) there and (height, width, in, out) here, with in / groups
for in. Dense kernels are (out, in) there, except for ONNX's MatMul, and (in, out) here. The input
of fc6 is pool5 flattened as channel, height, width there and as height, width, channel here.

The functions return views where a view can do; only fc6 is copied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from alexnet_keras.weights.formats.unreadable import Unreadable


def oihw_to_hwio(kernel: np.ndarray) -> np.ndarray:
    """(out, in, height, width) to (height, width, in, out), as a view."""
    return kernel.transpose(2, 3, 1, 0)


def out_in_to_in_out(kernel: np.ndarray) -> np.ndarray:
    """(out, in) to (in, out), as a view."""
    return kernel.T


def chw_rows_to_hwc(kernel: np.ndarray, channels: int) -> np.ndarray:
    """fc6 with its rows in the order height, width, channel instead of channel, height, width.

    Args:
        kernel: (in, out), rows in the order channel, height, width of a square pool5.
        channels: the channels of pool5, which are the outputs of conv5.

    Returns:
        (in, out), a copy in C order.

    Raises:
        ValueError: the rows are not `channels` squares.
    """
    rows, outputs = kernel.shape
    side = math.isqrt(rows // channels) if channels > 0 else 0
    if rows == 0 or side * side * channels != rows:
        raise ValueError(
            f"{rows} inputs are no whole number of pixels of a square with {channels} channels"
        )
    return kernel.reshape(channels, side * side, outputs).transpose(1, 0, 2).reshape(rows, outputs)


def from_out_in(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of a whole net, from the layout of PyTorch and Caffe to this package's.

    Args:
        tensors: `convN/kernel` (out, in, height, width), `fcN/kernel` (out, in), and the biases.

    Raises:
        Unreadable: a tensor has the wrong number of dimensions, or fc6 does not fit conv5.
    """
    laid_out = {}
    for name, tensor in tensors.items():
        layer, variable = name.split("/")
        dimensions = 1 if variable == "bias" else 4 if layer.startswith("conv") else 2
        if tensor.ndim != dimensions:
            raise Unreadable(
                f"{name} has the shape {tensor.shape}, which should be of {dimensions} dimensions"
            )
        if dimensions == 4:
            tensor = oihw_to_hwio(tensor)
        elif dimensions == 2:
            tensor = out_in_to_in_out(tensor)
        laid_out[name] = tensor
    if "fc6/kernel" in laid_out:
        if "conv5/kernel" not in laid_out:
            raise Unreadable(
                "it has fc6 without conv5, whose channels tell the order of fc6's inputs",
                "give a file that has both",
            )
        channels = laid_out["conv5/kernel"].shape[-1]
        try:
            laid_out["fc6/kernel"] = chw_rows_to_hwc(laid_out["fc6/kernel"], channels)
        except ValueError as error:
            raise Unreadable(
                f"fc6 does not fit conv5 ({error})", "give weights of AlexNet"
            ) from error
    return laid_out
