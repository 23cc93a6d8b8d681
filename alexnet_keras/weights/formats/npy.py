"""NumPy's `.npy`: an array, or a pickled dictionary of layers as caffe-tensorflow writes it.

`bvlc_alexnet.npy` (M. Guerzhoy, University of Toronto) is such a dictionary, {"conv1": [kernel,
bias], ...}. Its kernels are in TensorFlow's order already, and so are the rows of fc6:
`DataReshaper.reshape` in caffe-tensorflow's kaffe/core.py reshapes the first dense kernel behind a
spatial layer to (out, channel, height, width), transposes it to (height, width, channel, out) and
only then flattens it. Later versions write {"weights": kernel, "biases": bias} in place of a list.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from alexnet_keras.weights.formats.arrays import array_of
from alexnet_keras.weights.formats.pickles import read_pickle
from alexnet_keras.weights.formats.unreadable import Unreadable, quoted

MAGIC = b"\x93NUMPY"
FLOATS = re.compile(r"[<>]f[248]")
# Of the header's keys NumPy writes these three, in this order (numpy.lib.format).
_HEADER = re.compile(
    r"\{'descr': (?P<descr>'[^']*'|\[.*\]), 'fortran_order': (?P<fortran>True|False), "
    r"'shape': \((?P<shape>[0-9L, ]*)\),? *\} *\n?"
)
# caffe-tensorflow wrote AlexNet and CaffeNet in the same way.
_VARIANTS = ("caffe", "caffenet")
_LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")


@dataclass(frozen=True)
class Header:
    """What is said about an array: its `dtype`, such as `<f4`, and where its data start."""

    dtype: str
    shape: tuple[int, ...]
    fortran: bool
    start: int


def read_header(data: memoryview, name: str) -> Header:
    """The header of a `.npy` file.

    Raises:
        Unreadable: there is no such header.
    """
    major = data[6] if len(data) > 12 and data[:6] == MAGIC else 0
    if major not in (1, 2, 3):
        raise Unreadable(f"{name} is no NumPy array")
    (length,) = struct.unpack_from("<H" if major == 1 else "<I", data, 8)
    start = (10 if major == 1 else 12) + length
    # NumPy itself reads no longer headers from files that it does not trust.
    if length > 10_000 or start > len(data):
        raise Unreadable(f"{name} is cut off in its header")
    found = _HEADER.fullmatch(str(data[start - length : start], "latin-1"))
    sides = re.findall(r"\d+", found["shape"]) if found else []
    if found is None or any(len(side) > 17 for side in sides):
        raise Unreadable(f"{name} has a header that NumPy does not write")
    shape = tuple(map(int, sides))
    return Header(found["descr"].strip("'"), shape, found["fortran"] == "True", start)


def read_array(data: memoryview, name: str) -> np.ndarray:
    """The array of floats in a `.npy` file, as a view.

    Raises:
        Unreadable: it is damaged, or holds something else.
    """
    header = read_header(data, name)
    if header.dtype == "|O":
        raise Unreadable(
            f"{name} is pickled, which only bvlc_alexnet.npy and its like may be",
            "save arrays of floats",
        )
    require_floats(header.dtype, name)
    return array_of(data[header.start :], header.dtype, header.shape, name, fortran=header.fortran)


def require_floats(dtype: str, name: str) -> None:
    if not FLOATS.fullmatch(dtype):
        raise Unreadable(f"{name} holds {quoted(dtype, 20)}, not floats", "save weights as floats")


def read_npy(data: memoryview) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The tensors of a `.npy` file that holds a pickled dictionary of layers.

    Raises:
        Unreadable: the file is damaged, or its pickle asks for anything but arrays.
    """
    header = read_header(data, "the file")
    if header.dtype != "|O":
        raise Unreadable(
            "it holds one array, not a dictionary of layers", "save several arrays with numpy.savez"
        )
    pickled, _ = read_pickle(data[header.start :], _NAMES)
    layers = pickled.data if isinstance(pickled, _Array) else None
    layers = layers[0] if isinstance(layers, list) and len(layers) == 1 else None
    if not isinstance(layers, dict):
        raise Unreadable("its pickle is no dictionary of layers")
    tensors = {}
    for key, value in layers.items():
        layer = _text(key)
        if layer not in _LAYERS:
            raise Unreadable(
                f"it has a layer {quoted(layer)}; AlexNet's are {', '.join(_LAYERS)}",
                "give weights of AlexNet",
            )
        for variable, array in _variables(value, layer):
            name = f"{layer}/{variable}"
            if not isinstance(array, _Array):
                raise Unreadable(f"{name} is no array")
            tensors[name] = array.array(name)
            # The same bytes may be said to be every layer's.
            if sum(tensor.nbytes for tensor in tensors.values()) > len(data):
                raise Unreadable("its arrays are more than it has bytes")
    return tensors, _VARIANTS


def _variables(value: Any, layer: str) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        value = {_text(key): item for key, item in value.items()}
        if set(value) <= {"weights", "biases"}:
            names = {"weights": "kernel", "biases": "bias"}
            return [(names[key], item) for key, item in value.items()]
    elif isinstance(value, list | tuple) and len(value) == 2:
        return [("kernel", value[0]), ("bias", value[1])]
    raise Unreadable(f"its layer {layer} is neither [kernel, bias] nor weights and biases")


def _text(key: Any) -> str:
    """A name, which Python 2 wrote as bytes. Other objects could be without end as text."""
    if not isinstance(key, str | bytes | int):
        raise TypeError("a name that is no text")
    return str(key, "latin-1") if isinstance(key, bytes) else str(key)


class _Type:
    """`numpy.dtype('f4', False, True)` and the state that follows it."""

    def __init__(self, code: Any, align: Any = False, copy: Any = False) -> None:
        self.code = _text(code)
        self.order = "<"

    def set_state(self, state: Any) -> None:
        order = _text(state[1])
        if order not in "<>|=" or len(order) != 1:
            raise ValueError("no byte order")
        self.order = ">" if order == ">" else "<"

    def __str__(self) -> str:
        return self.order + self.code.lstrip("<>|=")


class _Array:
    """`numpy.ndarray` before and after its state."""

    def __init__(self) -> None:
        self.shape: tuple[Any, ...] = ()
        self.type: Any = None
        self.fortran = False
        self.data: Any = None

    def set_state(self, state: Any) -> None:
        # The version comes first; NumPy before 1.0 wrote none.
        self.shape, self.type, self.fortran, self.data = state[-4:]
        if not isinstance(self.shape, tuple) or not isinstance(self.type, _Type):
            raise ValueError("no state of an array")

    def array(self, name: str) -> np.ndarray:
        require_floats(str(self.type), name)
        if not isinstance(self.data, bytes | bytearray | memoryview):
            raise Unreadable(f"{name} has no data")
        return array_of(
            memoryview(self.data), str(self.type), self.shape, name, fortran=bool(self.fortran)
        )


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.set_state((shape, dtype, order == "F", data))
    return array


# NumPy 2 renamed numpy.core to numpy._core; either writes its own name.
_NAMES = {
    "numpy.ndarray": "numpy.ndarray",
    "numpy.dtype": _Type,
    **{
        f"numpy.{core}.{name}": function
        for core in ("core", "_core")
        for name, function in (
            ("multiarray._reconstruct", _reconstruct),
            ("numeric._frombuffer", _from_buffer),
        )
    },
}
