"""PyTorch checkpoints, without PyTorch: the zip format of 1.6 and later, and the one before it.

Both are a pickle of a state_dict whose tensors point into storages by persistent ids
(torch/serialization.py). In the zip format a storage is a member that is not packed, so that the
tensors read here are views of the file.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from alexnet_keras.weights import layouts
from alexnet_keras.weights.formats.archives import Archive
from alexnet_keras.weights.formats.arrays import MOST_DIMENSIONS, array_of, described, item_size
from alexnet_keras.weights.formats.pickles import ForbiddenName, read_pickle
from alexnet_keras.weights.formats.unreadable import Unreadable, quoted

# PROTO 2 and LONG1 of ten bytes, 0x1950a86a20f9469cfc6c: how `torch.save` began until 1.5.
LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"

# torchvision/models/alexnet.py: where its layers are in `features` and `classifier`.
_LAYERS = {
    "features.0": "conv1",
    "features.3": "conv2",
    "features.6": "conv3",
    "features.8": "conv4",
    "features.10": "conv5",
    "classifier.1": "fc6",
    "classifier.4": "fc7",
    "classifier.6": "fc8",
}
_VARIANTS = ("torchvision",)
# What DataParallel and torch.compile put into the names of what they wrap.
_WRAPPERS = ("module", "_orig_mod")
# Where training scripts keep the state_dict among the epoch, the optimizer and so on.
_HOLDERS = ("state_dict", "model_state_dict", "model")

# The kind of element: for floats as `array_of` knows it, for the rest only the size counts.
_STORAGES = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": "bf16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "b1",
}


@dataclass(frozen=True)
class _StorageType:
    code: str


@dataclass(frozen=True)
class _Storage:
    code: str
    key: str
    count: int

    @property
    def bytes(self) -> int:
        return self.count * item_size("<" + self.code)


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch_zip(archive: Archive) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The tensors of a checkpoint in the zip format, by this package's names and in its layout.

    Raises:
        Unreadable: the checkpoint is damaged, holds more than tensors, or is not of AlexNet.
    """
    pickled = next(filter(is_zip_pickle, archive.names()), None)
    if pickled is None:
        raise Unreadable("it has no pickle of a state_dict")
    folder = pickled.removesuffix("data.pkl")
    if f"{folder}constants.pkl" in archive:
        raise Unreadable(
            "it is a TorchScript program", "load it in PyTorch and save its state_dict()"
        )
    order = "<"
    if f"{folder}byteorder" in archive:
        order = ">" if archive.read(f"{folder}byteorder") == b"big" else "<"
    content, _ = _read_pickle(archive.read(pickled), _storage)
    return _canonical(content, lambda storage: archive.read(f"{folder}data/{storage.key}"), order)


def is_torch_legacy(data: memoryview) -> bool:
    """Whether a file begins as `torch.save` made it begin until 1.5."""
    return data[: len(LEGACY_MAGIC)] == LEGACY_MAGIC


def is_zip_pickle(name: str) -> bool:
    """Whether a member is the pickle of a checkpoint: `archive/data.pkl`, the folder being free."""
    return name.endswith("/data.pkl") and name.count("/") == 1


def read_torch_legacy(data: memoryview) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The same for the older format: four pickles, the list of storages, and their bytes.

    Raises:
        Unreadable: as `read_torch_zip`.
    """
    at = len(LEGACY_MAGIC) + 1  # and STOP
    protocol, size = read_pickle(data[at:], {})
    at += size
    system, size = read_pickle(data[at:], {})
    at += size
    if protocol != 1001 or not isinstance(system, dict):
        raise Unreadable("it is a checkpoint of an unknown version of the old format")
    storages: dict[str, _Storage] = {}

    def persistent(identity: Any) -> _Storage:
        storage = _storage(identity)
        return storages.setdefault(storage.key, storage)

    content, size = _read_pickle(data[at:], persistent)
    at += size
    keys, size = read_pickle(data[at:], {})
    at += size
    if not isinstance(keys, list) or not all(isinstance(key, str | bytes) for key in keys):
        raise Unreadable("its list of storages is damaged")
    found = {}
    for key in map(_text, keys):
        if key not in storages or len(data) - at < 8 + storages[key].bytes:
            raise Unreadable("it ends before its last tensor, or has storages of no tensor")
        if struct.unpack_from("<q", data, at) != (storages[key].count,):
            raise Unreadable(f"its storage {quoted(key)} is said to be of two sizes")
        found[key] = data[at + 8 : at + 8 + storages[key].bytes]
        at += 8 + storages[key].bytes
    if at != len(data):
        raise Unreadable(f"it has {len(data) - at:,} bytes behind its last tensor")

    def read(storage: _Storage) -> memoryview:
        if storage.key not in found:
            raise Unreadable(f"its storage {quoted(storage.key)} is missing")
        return found[storage.key]

    # Big-endian machines wrote little-endian storages, too (torch/csrc/serialization.cpp).
    return _canonical(content, read, "<")


def _read_pickle(data: memoryview, persistent: Callable[[Any], Any]) -> tuple[Any, int]:
    try:
        return read_pickle(data, _NAMES, persistent)
    except ForbiddenName as error:
        if error.name.startswith(("torch.nn.", "torchvision.", "__main__.")):
            raise Unreadable(
                f"it is a whole PyTorch object, of {quoted(error.name)}, and running its code is "
                "what is avoided here",
                "load it in PyTorch and save its state_dict()",
            ) from error
        error.advice += (
            "; if it is a whole model of your own, load it in PyTorch and save its state_dict()"
        )
        raise


def _canonical(
    content: Any, read: Callable[[_Storage], memoryview], order: str
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    tensors: dict[str, np.ndarray] = {}
    # Storages may be shared. One key may come with two types: each has to fit the bytes.
    flat: dict[_Storage, np.ndarray] = {}
    for name, tensor in _state_dict(content).items():
        path = [part for part in _text(name).split(".") if part not in _WRAPPERS]
        layer = _LAYERS.get(".".join(path[:-1]))
        if layer is None or path[-1] not in ("weight", "bias"):
            raise Unreadable(
                f"it has a tensor {quoted(_text(name))}, which torchvision's AlexNet has not",
                "give a state_dict of torchvision's alexnet",
            )
        canonical = f"{layer}/{'kernel' if path[-1] == 'weight' else 'bias'}"
        if not isinstance(tensor, _Tensor):
            raise Unreadable(f"its {quoted(_text(name))} is no tensor")
        if canonical in tensors:
            raise Unreadable(f"it has {canonical} twice")
        _check(tensor, _text(name))
        storage = tensor.storage
        if storage not in flat:
            flat[storage] = array_of(
                read(storage), order + storage.code, (storage.count,), _text(name)
            )
        tensors[canonical] = np.lib.stride_tricks.as_strided(
            flat[storage][tensor.offset :],
            tensor.shape,
            [stride * flat[storage].itemsize for stride in tensor.strides],
            writeable=False,
        )
    return layouts.from_out_in(tensors), _VARIANTS


def _state_dict(content: Any) -> Mapping[Any, Any]:
    for _ in range(3):
        if not isinstance(content, dict):
            break
        # First, for beside it may be other tensors: PyTorch's ImageNet example keeps `best_acc1`.
        held = next((content[key] for key in _HOLDERS if isinstance(content.get(key), dict)), None)
        if held is None and any(isinstance(value, _Tensor) for value in content.values()):
            return content
        content = held
    raise Unreadable(
        "it holds no state_dict", "save the state_dict() of torchvision's alexnet with torch.save"
    )


def _check(tensor: _Tensor, name: str) -> None:
    """Refuses a tensor that is not inside its storage."""
    code, shape, strides = tensor.storage.code, tensor.shape, tensor.strides
    if "f" not in code:
        raise Unreadable(f"its {quoted(name)} holds {code}, not floats")
    if not shape or len(shape) != len(strides) or min(shape) < 1:
        raise Unreadable(f"its {quoted(name)} is said to have the shape {described(shape)}")
    last = tensor.offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if tensor.offset < 0 or min(strides) < 0 or last >= tensor.storage.count:
        raise Unreadable(f"its {quoted(name)} reaches beyond its storage")
    # Strides of 0 make much of little: an expanded tensor need not be in memory to be huge.
    if math.prod(shape) > tensor.storage.count:
        raise Unreadable(f"its {quoted(name)} has more elements than its storage")


def _text(name: Any) -> str:
    """A name, which Python 2 wrote as bytes. Other objects could be without end as text."""
    if not isinstance(name, str | bytes | int):
        raise TypeError("a name that is no text")
    return str(name, "latin-1") if isinstance(name, bytes) else str(name)


def _storage(identity: Any) -> _Storage:
    """A storage by its persistent id, ("storage", type, key, device, count)."""
    kind, storage_type, key, _, count, *view = identity[:8]
    if _text(kind) != "storage" or not isinstance(storage_type, _StorageType):
        raise ValueError("a persistent id of something else")
    if any(part is not None for part in view):
        raise Unreadable(
            "it has storages inside storages, which PyTorch wrote before 1.0",
            "load it in PyTorch and save its state_dict() again",
        )
    if not _integers((count,)) or count < 0 or not isinstance(key, str | bytes):
        raise ValueError("no size or no key of a storage")
    return _Storage(storage_type.code, _text(key), count)


def _integers(values: Any) -> bool:
    return (
        isinstance(values, tuple | list)
        and len(values) <= MOST_DIMENSIONS
        and all(type(value) is int for value in values)
    )


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *more: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise TypeError("a tensor without a storage")
    if not _integers((offset,)) or not _integers(shape) or not _integers(strides):
        raise TypeError("a tensor without a shape")
    # After requires_grad and the hooks: marks such as "neg", for values stored with the other sign.
    if len(more) > 2 and more[2]:
        raise Unreadable(
            "it has a tensor that is stored negated or conjugated",
            "call resolve_neg() in PyTorch and save the state_dict() again",
        )
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


class _Ignored:
    """What training scripts keep beside the weights, such as a best accuracy out of NumPy."""

    def __init__(self, *_: Any) -> None: ...

    def set_state(self, state: Any) -> None: ...


_NAMES: dict[str, Any] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch.Size": lambda sides: sides,
    "torch.device": _Ignored,
    "collections.Counter": _Ignored,
    "numpy.dtype": _Ignored,
    "numpy.core.multiarray.scalar": _Ignored,
    "numpy._core.multiarray.scalar": _Ignored,
    **{f"torch.{name}": _StorageType(code) for name, code in _STORAGES.items()},
}
