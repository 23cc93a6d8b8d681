"""Keras 3's own files: `.weights.h5`, and `.keras`, a zip archive with a `model.weights.h5`.

Keras numbers variables (`layers/conv2d_1/vars/0`) and notes the name of the layer on each group
`vars`. The first variable of a convolution or a dense layer is its kernel, the second its bias.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_keras.errors import UserError
from alexnet_keras.weights.formats import hdf5_contents
from alexnet_keras.weights.formats.archives import Archive
from alexnet_keras.weights.formats.arrays import array_of
from alexnet_keras.weights.formats.npy import FLOATS
from alexnet_keras.weights.formats.unreadable import Unreadable, quoted

if TYPE_CHECKING:
    import keras

MAGIC = b"\x89HDF\r\n\x1a\n"
WEIGHTS, CONFIGURATION = "model.weights.h5", "config.json"
VARIANT, PREPROCESSING = "alexnet_keras_variant", "alexnet_keras_preprocessing"
# The process's own limit, of computing time, is shorter; this one is for a machine that is busy.
SECONDS = 60
_PREPROCESSING = "InputPreprocessing"
# What other layers than convolutions and dense ones call their variables, all of one dimension.
_NORMALIZATIONS = {
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "layer_normalization": ("gamma", "beta"),
}
_DAMAGED = "the HDF5 library cannot read it"


def read_hdf5(
    data: memoryview, path: Path
) -> tuple[dict[str, np.ndarray], tuple[str, ...], str | None]:
    """The tensors of a `.weights.h5`, and the variants and the preprocessing that it names.

    The HDF5 library is not let near this process: of 4,000 small files with a few bytes changed, 12
    made it crash or run for over ten seconds (h5py 3.14, HDF5 1.14.6). `hdf5_contents` asks it, in
    another process, where the variables are. Nothing was gained by pyfive 1.3, a reader in Python:
    of 1,000 such files ten filled 2 GiB.

    Args:
        data: the file, mapped.
        path: where it is.

    Raises:
        Unreadable: the file is damaged, or not written by Keras 3.
    """
    with path.open("rb") as file:
        return _read(data, file.fileno(), 0)


def read_keras(
    archive: Archive, path: Path
) -> tuple[dict[str, np.ndarray], tuple[str, ...], str | None]:
    """The same for a `.keras` file.

    Variants and preprocessing are told by the layers in its configuration, which is read as data:
    no layer is made.

    Raises:
        Unreadable: as `read_hdf5`.
    """
    content = archive.read(WEIGHTS)
    if archive.stored(WEIGHTS):
        with path.open("rb") as file:
            tensors, *_ = _read(content, file.fileno(), archive.start(WEIGHTS))
    else:
        with tempfile.TemporaryFile() as file:
            file.write(content)
            file.flush()
            tensors, *_ = _read(content, file.fileno(), 0)
    layers = list(_configured(archive))
    conventions = {layer.get("convention") for kind, layer in layers if kind == _PREPROCESSING}
    told = next(iter(conventions)) if len(conventions) == 1 else None
    return tensors, _variants(layers), told if isinstance(told, str) else None


def save_weights(
    model: keras.Model,
    path: str | Path,
    variant: str | None = None,
    preprocessing: str | None = None,
) -> Path:
    """Saves a model's weights in Keras's own format, so that the next load converts nothing.

    The file has what `model.save_weights` writes, and Keras loads it; this package also finds in
    it what the weights need. It is written beside `path` and then renamed.

    Args:
        path: ends in `.weights.h5`.
        variant: the variant that the weights belong to; `None` asks the model, which `AlexNet`
            has told.
        preprocessing: the key of `PREPROCESSING` that they were trained with; `None` likewise.

    Returns:
        `path`.

    Raises:
        UserError: `path` ends otherwise, or cannot be written.
    """
    import h5py

    variant = variant or getattr(model, "variant", None)
    preprocessing = preprocessing or getattr(getattr(model, "preprocessing", None), "name", None)
    path = Path(path)
    if not path.name.endswith(".weights.h5"):
        raise UserError(f"Weights are saved as .weights.h5; received {path}. Change its ending.")
    unfinished = path.with_name(f".{path.name[:-11]}.{os.getpid()}.weights.h5")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save_weights(unfinished)
        with h5py.File(unfinished, "a") as file:
            for name, value in ((VARIANT, variant), (PREPROCESSING, preprocessing)):
                if value is not None:
                    file.attrs[name] = value
        unfinished.replace(path)
    except OSError as error:
        raise UserError(
            f"The weights cannot be written to {path} ({error}); make space there, or give another "
            "path."
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _configured(archive: Archive) -> Iterator[tuple[str, dict[str, Any]]]:
    """Class and configuration of each layer of a model, those of nested models included."""
    if CONFIGURATION not in archive:
        return
    try:
        models = [json.loads(bytes(archive.read(CONFIGURATION)))]
    except (ValueError, RecursionError):
        return
    while models:
        model = models.pop()
        layers = model.get("config", {}) if isinstance(model, dict) else {}
        layers = layers.get("layers", []) if isinstance(layers, dict) else []
        for layer in layers if isinstance(layers, list) else []:
            if isinstance(layer, dict) and isinstance(layer.get("config"), dict):
                yield str(layer.get("class_name")), layer["config"]
                models.append(layer)


def _variants(layers: list[tuple[str, dict[str, Any]]]) -> tuple[str, ...]:
    """The variants that have such layers in such an order, whatever their shapes."""
    names = [str(layer.get("name")) for _, layer in layers]
    normalized = [
        str(layer.get("name")) for kind, layer in layers if kind == "LocalResponseNormalization"
    ]
    if "conv1a" in names:
        return ("release",) if "spatial_norm2a" in names else ("paper",) if normalized else ()
    if "norm1" not in normalized or "pool1" not in names:
        return ()
    if names.index("norm1") < names.index("pool1"):
        return ("caffe", "torchvision")
    return ("caffenet", "alexnet")


def _read(
    data: memoryview, descriptor: int, start: int
) -> tuple[dict[str, np.ndarray], tuple[str, ...], str | None]:
    contents = _contents(descriptor, start, len(data))
    attributes = contents["attributes"]
    variables = [entry for entry in contents["variables"] if "/vars/" in f"/{entry['path']}"]
    if not variables:
        raise Unreadable(
            "it has no variables that Keras 3 wrote",
            "load it with the program that wrote it and save its weights with Keras 3",
        )
    _check_spans(variables, len(data))
    tensors: dict[str, np.ndarray] = {}
    for name, entry in _named(variables):
        if name in tensors:
            raise Unreadable(f"it has two layers with {quoted(name)}", "give layers other names")
        first = entry["offset"]
        tensors[name] = array_of(
            data[first : first + entry["size"]], entry["dtype"], entry["shape"], name
        )
    variant = attributes.get(VARIANT)
    return tensors, (variant,) if variant else (), attributes.get(PREPROCESSING)


def _contents(descriptor: int, start: int, length: int) -> dict[str, Any]:
    """What `hdf5_contents` finds out, in a process of its own."""
    program = Path(hdf5_contents.__file__)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OPENBLAS_NUM_THREADS": "1",  # each thread reserves memory
    }
    try:
        ended = subprocess.run(
            # -P: the program's folder, whose modules have names like `onnx`, is not searched.
            [sys.executable, "-P", program, str(descriptor), str(start), str(length)],
            env=environment,
            pass_fds=(descriptor,),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
        answer = json.loads(ended.stdout)
    except subprocess.TimeoutExpired as error:
        raise Unreadable(f"{_DAMAGED} in {SECONDS} seconds") from error
    except ValueError as error:
        raise Unreadable(f"{_DAMAGED} (it ended with code {ended.returncode})") from error
    if "error" in answer:
        raise Unreadable(f"{_DAMAGED} ({answer['error']})")
    return answer


def _check_spans(variables: list[dict[str, Any]], length: int) -> None:
    """Refuses variables that are not whole inside the file, or that share bytes."""
    spans = []
    for entry in variables:
        offset, size, path = entry["offset"], entry["size"], quoted(entry["path"])
        if offset is None:
            raise Unreadable(
                f"its variable {path} is empty or not in one piece", "save the weights with Keras 3"
            )
        if offset < 0 or size < 0 or offset + size > length:
            raise Unreadable(f"its variable {path} reaches beyond the end")
        spans.append((offset, offset + size))
    spans.sort()
    if any(after[0] < before[1] for before, after in zip(spans, spans[1:], strict=False)):
        raise Unreadable("its variables overlap")


def _named(variables: list[dict[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Variables with their names, `layer/kernel`; those of layers that are no part of a net are
    left out, such as the state of a seed generator."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in variables:
        groups.setdefault(entry["path"].rpartition("/")[0], []).append(entry)
    named = []
    for path, group in groups.items():
        group.sort(key=lambda entry: entry["path"].rpartition("/")[2].zfill(9))
        kind = re.sub(r"_\d+$", "", path.removesuffix("/vars").rpartition("/")[2])
        if len(group[0]["shape"]) > 1:
            names: tuple[str, ...] = ("kernel", "bias")[: len(group)]
        else:
            names = _NORMALIZATIONS.get(kind, ())
        layer = group[0]["layer"]
        if not names:
            continue
        if not layer:
            raise Unreadable(
                "its layers have no names, as in files of older versions of Keras",
                "load it in Keras and save its weights again with a newer version",
            )
        for name, entry in zip(names, group, strict=False):
            if not FLOATS.fullmatch(entry["dtype"]) and entry["dtype"] != "<bf16":
                raise Unreadable(f"{layer}/{name} holds {entry['dtype']}, not floats")
        if len(names) != len(group):
            raise Unreadable(
                f"its layer {quoted(layer)} has {len(group)} variables where {len(names)} are known"
            )
        named += [(f"{layer}/{name}", entry) for name, entry in zip(names, group, strict=True)]
    return named
