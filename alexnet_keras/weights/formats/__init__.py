"""Readers of weights files, one a module, none of which trusts its file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from alexnet_keras.errors import UserError
from alexnet_keras.weights.formats import keras_files, npy
from alexnet_keras.weights.formats.archives import Archive
from alexnet_keras.weights.formats.caffemodel import read_caffemodel
from alexnet_keras.weights.formats.files import map_file
from alexnet_keras.weights.formats.npz import read_npz
from alexnet_keras.weights.formats.onnx_model import read_onnx
from alexnet_keras.weights.formats.protobuf import kind_of
from alexnet_keras.weights.formats.torch_checkpoint import (
    is_torch_legacy,
    is_zip_pickle,
    read_torch_legacy,
    read_torch_zip,
)
from alexnet_keras.weights.formats.unreadable import Unreadable
from alexnet_keras.weights.stored import StoredWeights

KINDS = (
    "a PyTorch checkpoint (.pth), a Caffe model (.caffemodel), an ONNX model (.onnx), a NumPy "
    "archive (.npz), a bvlc_alexnet.npy, or Keras 3's .weights.h5 or .keras"
)
_PYTORCH, _CAFFE, _ONNX = "PyTorch checkpoint", "Caffe model", "ONNX model"
_NPZ, _NPY = "NumPy archive", "NumPy file"
_HDF5, _KERAS = "Keras weights file", "Keras model"
# For messages, where the content does not say what a file is or was.
_BY_SUFFIX = {
    ".pth": _PYTORCH,
    ".pt": _PYTORCH,
    ".tar": _PYTORCH,
    ".caffemodel": _CAFFE,
    ".onnx": _ONNX,
    ".npz": _NPZ,
    ".npy": _NPY,
    ".h5": _HDF5,
    ".keras": _KERAS,
}


def read_weights(path: str | Path) -> StoredWeights:
    """The tensors of a weights file of any kind, by this package's names and in its layout.

    What kind it is, the content says, not the name. Nothing in the file is run, and nothing is
    allocated from a size that it merely declares. Tensors may be views of the mapped file.

    Raises:
        UserError: the file is missing, of an unknown kind, damaged, not of AlexNet, or holds
            something else than finite floats. The file is left as it is.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no weights file {path}; give the path of {KINDS}.")
    kind = _BY_SUFFIX.get(path.suffix.lower(), "weights file")
    try:
        data = map_file(path)
        kind, archive = _opened(data, kind)
        stored = _read(kind, archive, data, path)
        _require_finite(stored.tensors)
    except Unreadable as error:
        article = "an" if kind[0] in "AEIOU" else "a"
        raise UserError(
            f"The weights file {path} cannot be read as {article} {kind}: {error}; {error.advice}."
        ) from error
    except OSError as error:
        raise UserError(
            f"The weights file {path} cannot be read ({error}); give a file that can."
        ) from error
    return stored


def _opened(data: memoryview, guess: str) -> tuple[str, Archive | None]:
    """What kind of file it is by its content, and the archive if it is one."""
    if data[:2] == b"PK":
        archive = Archive(data)
        names = archive.names()
        if any(map(is_zip_pickle, names)):
            return _PYTORCH, archive
        if keras_files.WEIGHTS in names:
            return _KERAS, archive
        if any(name.endswith(".npy") for name in names):
            return _NPZ, archive
    elif is_torch_legacy(data):
        return _PYTORCH, None
    elif data[: len(npy.MAGIC)] == npy.MAGIC:
        return _NPY, None
    elif data[: len(keras_files.MAGIC)] == keras_files.MAGIC:
        return _HDF5, None
    else:
        try:
            kind = kind_of(data)
        except Unreadable:
            if guess in (_ONNX, _CAFFE):
                raise
        else:
            if kind is not None:
                return (_ONNX if kind == "onnx" else _CAFFE), None
    raise Unreadable("its content is of no kind that is known here", f"give {KINDS}")


def _read(kind: str, archive: Archive | None, data: memoryview, path: Path) -> StoredWeights:
    preprocessing = None
    if kind == _PYTORCH:
        tensors, variants = read_torch_zip(archive) if archive else read_torch_legacy(data)
    elif kind == _CAFFE:
        tensors, variants = read_caffemodel(data)
    elif kind == _ONNX:
        tensors, variants = read_onnx(data)
    elif kind == _NPZ:
        tensors, variants = read_npz(archive), ()
    elif kind == _NPY:
        tensors, variants = npy.read_npy(data)
    elif kind == _KERAS:
        tensors, variants, preprocessing = keras_files.read_keras(archive, path)
    else:
        tensors, variants, preprocessing = keras_files.read_hdf5(data, path)
    return StoredWeights(path, kind, tensors, variants, preprocessing)


def _require_finite(tensors: Mapping[str, np.ndarray]) -> None:
    if not tensors:
        raise Unreadable("it holds no tensors")
    for name, tensor in tensors.items():
        # A NaN is its array's least and greatest element; no array of booleans is needed.
        with np.errstate(invalid="ignore"):
            extremes = (tensor.min(), tensor.max())
        if not np.isfinite(extremes).all():
            raise Unreadable(f"it is damaged: {name} holds values that are not finite")
