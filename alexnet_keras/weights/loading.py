"""From weights, wherever they are, to a built model: named tensors, checked one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np

from alexnet_keras.errors import UserError
from alexnet_keras.tower_names import SUFFIXES
from alexnet_keras.weights.download import cached, fetch
from alexnet_keras.weights.formats import read_weights
from alexnet_keras.weights.published import PUBLISHED, imagenet_weights
from alexnet_keras.weights.stored import StoredWeights


@dataclass(frozen=True)
class LoadReport:
    """Which layers the weights filled, which they left as they were, and why."""

    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    #: layers of the weights that the model does not have (the top, where include_top=False)
    unused: tuple[str, ...] = ()
    #: of the fresh ones, those for which there were weights of another shape, in words
    mismatched: tuple[str, ...] = ()

    def __str__(self) -> str:
        def part(text: str, names: tuple[str, ...]) -> str:
            return f"{text} {', '.join(names)}" if names else ""

        parts = (
            part("weights for", self.loaded),
            part("none that fit, so random ones stay, in", self.fresh),
            part("left out", self.unused),
            *self.mismatched,
        )
        return "; ".join(text for text in parts if text)


def open_weights(weights: str | Path, variant: str | None = None) -> StoredWeights:
    """The tensors of a weights file, or of published weights, downloaded if need be.

    Args:
        weights: the path of a file; a key of `PUBLISHED`; or `"imagenet"`, which takes the
            published weights of `variant`.
        variant: what `"imagenet"` chooses by; `None` stands for `"torchvision"`.

    Raises:
        UserError: there are no such weights, they cannot be had, or the file is not sound.
    """
    if str(weights) == "imagenet":
        return _published(imagenet_weights(variant or "torchvision"))
    if str(weights) in PUBLISHED:
        return _published((str(weights),))
    return read_weights(weights)


def load_weights(
    model: keras.Model, weights: str | Path, *, skip_mismatch: bool = False
) -> LoadReport:
    """Puts weights into a built model whose layers are named as in `AlexNet`.

    Args:
        weights: as in `open_weights`, without `"imagenet"`.
        skip_mismatch: whether layers may stay as they are that the weights do not hold, or hold
            with another shape.

    Raises:
        UserError: as `open_weights`; or the weights do not fit, which is said with both shapes.
    """
    stored = open_weights(weights)
    return load_tensors(model, stored.tensors, stored.path, skip_mismatch=skip_mismatch)


def load_tensors(
    model: keras.Model,
    tensors: Mapping[str, np.ndarray],
    source: str | Path,
    *,
    allow_missing: bool = False,
    skip_mismatch: bool = False,
) -> LoadReport:
    """Puts named tensors into the layers of the same names; all are checked before any is set.

    The two towers' layers, `conv1a` and `conv1b`, take each its half of `conv1` where there are no
    tensors by their own names.

    Args:
        model: a built model whose layers are named as in `AlexNet`.
        tensors: `layer/variable` to array, for example `conv1/kernel`.
        source: where the tensors come from, for messages.
        allow_missing: whether layers may stay as they are that `tensors` does not hold.
        skip_mismatch: the same for these and for layers of another shape.

    Raises:
        UserError: a tensor's shape differs from the model's, or a layer is not or only half there.
    """
    layers = {layer.name: layer for layer in model.layers if layer.weights}
    given = {name.rpartition("/")[0] for name in tensors}
    origin = {name: _origin(name, given) for name in layers}
    assignments, mismatched = [], {}
    for name in (name for name in layers if origin[name]):
        values = []
        for variable in layers[name].weights:
            key = f"{origin[name]}/{variable.name}"
            if key not in tensors:
                raise UserError(
                    f"The weights in {source} hold a part of the layer {origin[name]} but not "
                    f"{key}; give a complete file."
                )
            value = _half(tensors[key], name) if origin[name] != name else tensors[key]
            if value.shape != tuple(variable.shape):
                mismatched.setdefault(
                    name,
                    f"{key} is {value.shape} in the file and {tuple(variable.shape)} in the model",
                )
            values.append((variable, value))
        if name not in mismatched:
            assignments += values
    if mismatched and not skip_mismatch:
        raise UserError(
            f"The weights in {source} do not fit: {'; '.join(mismatched.values())}. Choose the "
            "variant, classes and image size that the weights were made for, or "
            "skip_mismatch=True to leave these layers random."
        )
    missing = tuple(name for name in layers if not origin[name])
    if missing and not (allow_missing or skip_mismatch):
        raise UserError(
            f"The weights in {source} hold nothing for {', '.join(missing)}; give a complete file, "
            "include_top=False to do without the top, or skip_mismatch=True to leave these layers "
            "random."
        )
    for variable, value in assignments:
        variable.assign(value)
    used = {origin[name] for name in layers}
    return LoadReport(
        loaded=tuple(name for name in layers if origin[name] and name not in mismatched),
        fresh=tuple(name for name in layers if not origin[name] or name in mismatched),
        unused=tuple(sorted(given - used)),
        mismatched=tuple(mismatched.values()),
    )


def _published(keys: tuple[str, ...]) -> StoredWeights:
    """The first of these published weights that is in the cache, else that can be downloaded."""
    rows = sorted((PUBLISHED[key] for key in keys), key=lambda row: cached(row) is None)
    failures = []
    for row in rows:
        try:
            path = fetch(row)
        except UserError as error:
            failures.append(error)
        else:
            break
    else:
        raise failures[0]
    # What the file does not say, the registry does.
    return replace(read_weights(path), variants=(row.variant,), preprocessing=row.preprocessing)


def _origin(name: str, given: set[str]) -> str | None:
    """The layer of the weights that fills the model's layer `name`; `None` if there is none."""
    if name in given:
        return name
    return name[:-1] if name.endswith(SUFFIXES) and name[:-1] in given else None


def _half(tensor: np.ndarray, tower: str) -> np.ndarray:
    """The outputs that belong to a tower, by the last letter of its layer's name."""
    half = tensor.shape[-1] // 2
    return tensor[..., :half] if tower.endswith(SUFFIXES[0]) else tensor[..., half:]
