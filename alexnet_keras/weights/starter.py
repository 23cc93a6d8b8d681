"""Weights that come with the package: a trunk to start from where no others can be had."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from alexnet_keras.errors import UserError
from alexnet_keras.weights.formats import read_weights
from alexnet_keras.weights.stored import StoredWeights
from alexnet_keras.whole_files import written_beside

NAME = "starter"
#: the key in `VARIANTS` of the net that they fill, and in `PREPROCESSING` of what they expect
VARIANT = PREPROCESSING = "modern"
PATH = Path(__file__).with_name("starter.npz")
SHA256 = "a0630ff62c95db18df9814f8ffd95a375863eae540d8ac9fcd552ff696ad7d8e"
#: what they are, to follow a verb
DESCRIPTION = "the starter weights that come with the package, trained on Tiny ImageNet"

#: how the layers are called whose weights are kept
_TRUNK = ("conv", "norm", "shortcut")
_HALF = float(np.finfo(np.float16).max)


def starter_fault() -> str | None:
    """What is wrong with the installed starter weights, in one sentence; `None` if nothing is."""
    try:
        found = hashlib.sha256(PATH.read_bytes()).hexdigest()
    except FileNotFoundError:
        wrong = f"{PATH} is missing"
    except OSError as error:
        wrong = f"{PATH} cannot be read ({error.strerror or error})"
    else:
        if found == SHA256:
            return None
        wrong = f"the SHA-256 of {PATH} is {found} instead of {SHA256}"
    return f"The starter weights are not as they were shipped ({wrong}); reinstall alexnet-keras."


def open_starter() -> StoredWeights:
    """The starter weights: kernels in float16, all else in float32, without fc8.

    Raises:
        UserError: their file is missing, or is not the one that was shipped.
    """
    if (fault := starter_fault()) is not None:
        raise UserError(fault)
    return replace(read_weights(PATH), variants=(VARIANT,), preprocessing=PREPROCESSING)


def write_starter(model: keras.Model, path: str | Path) -> str:
    """Stores the trunk of a trained model as starter weights; the same weights, the same bytes.

    Kept are the layers of `model` whose names begin with conv, norm or shortcut: kernels rounded to
    float16, all else as float32. The file is written beside `path` and then renamed.

    Args:
        path: the `.npz` to write or to write over.

    Returns:
        The file's SHA-256, 64 hexadecimal digits.

    Raises:
        UserError: the model has no such layers, a value is not finite or too large for float16, or
            `path` cannot be written.
    """
    path = Path(path)
    content = _archive(_trunk(model))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(path, several=True) as part:
            part.write_bytes(content)
    except OSError as error:
        raise UserError(
            f"The starter weights cannot be written to {path} ({error.strerror or error}); make "
            "space there, or give another path."
        ) from error
    return hashlib.sha256(content).hexdigest()


def _trunk(model: keras.Model) -> dict[str, np.ndarray]:
    tensors = {}
    for layer in model.layers:
        if not layer.name.startswith(_TRUNK):
            continue
        for variable in layer.weights:
            name = f"{layer.name}/{variable.name}"
            value = np.asarray(keras.ops.convert_to_numpy(variable), np.float32)
            half = variable.name == "kernel"
            _check(name, value, _HALF if half else np.inf)
            tensors[name] = value.astype("<f2" if half else "<f4")
    if not any(name.endswith("/kernel") for name in tensors):
        raise UserError(
            f"The model {model.name!r} has no convolutions to store among its layers "
            f"({', '.join(layer.name for layer in model.layers)}); give an AlexNet()."
        )
    return tensors


def _check(name: str, value: np.ndarray, most: float) -> None:
    if not np.isfinite(value).all():
        raise UserError(f"{name} holds values that are not finite; give a model that has learned.")
    if (largest := float(np.abs(value).max(initial=0))) > most:
        raise UserError(
            f"{name} holds values up to {largest:g}, and float16 ends at {most:g}; give a model "
            "with smaller weights."
        )


def _archive(tensors: Mapping[str, np.ndarray]) -> bytes:
    """A NumPy archive that says nothing of when and where it was written."""
    content = io.BytesIO()
    # Not packed: weights hardly shrink, and what zlib makes of them depends on its version.
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(tensors):
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.create_system = 3  # Unix, wherever this runs
            member.external_attr = 0o644 << 16
            array = io.BytesIO()
            np.lib.format.write_array(array, tensors[name], version=(1, 0), allow_pickle=False)
            archive.writestr(member, array.getvalue())
    return content.getvalue()
