"""From weights, wherever they are, to a built model: named tensors, checked one by one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from alexnet_keras.errors import UserError
from alexnet_keras.tower_names import SUFFIXES
from alexnet_keras.weights.download import cached, fetch
from alexnet_keras.weights.formats import read_weights
from alexnet_keras.weights.preprocessing import PREPROCESSING
from alexnet_keras.weights.published import PUBLISHED, imagenet_weights
from alexnet_keras.weights.starter import NAME as STARTER
from alexnet_keras.weights.starter import open_starter
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


def published_keys(weights: str | Path, variant: str | None = None) -> tuple[str, ...]:
    """The keys in `PUBLISHED` that `weights` stands for, best first; none for the path of a file.

    Args:
        weights, variant: as in `open_weights`.

    Raises:
        UserError: `"imagenet"`, and no weights were published for the variant.
    """
    if str(weights) == "imagenet":
        return imagenet_weights(variant or "torchvision")
    return (str(weights),) if str(weights) in PUBLISHED else ()


def open_weights(weights: str | Path, variant: str | None = None) -> StoredWeights:
    """The tensors of a weights file, of published weights, downloaded if need be, or the starter's.

    Args:
        weights: the path of a file; a key of `PUBLISHED`; `"imagenet"`, which takes the published
            weights of `variant`; or `"starter"`, those that come with the package. A file that is
            called so is given as `./starter`.
        variant: what `"imagenet"` chooses by; `None` stands for `"torchvision"`.

    Raises:
        UserError: there are no such weights, they cannot be had, or the file is not sound.
    """
    if keys := published_keys(weights, variant):
        return _published(keys)
    if weights == STARTER:
        return open_starter()
    stored = read_weights(Path(weights).expanduser())
    if stored.preprocessing not in (None, *PREPROCESSING):
        raise UserError(
            f"The weights in {weights} ask for a preprocessing {stored.preprocessing[:80]!r}, and "
            f"known here are {', '.join(PREPROCESSING)}. Save them again, or take a newer "
            "alexnet-keras."
        )
    return stored


def load_weights(
    model: keras.Model, weights: str | Path, *, skip_mismatch: bool = False
) -> LoadReport:
    """Puts weights into a built `AlexNet`, or another model with its layers' names.

    `model.loaded` becomes the report, and `model.preprocessing` that of the weights, where these
    are known to have one.

    Args:
        weights: as in `AlexNet`.
        skip_mismatch: whether layers may stay as they are that the weights do not hold, or hold
            with another shape.

    Raises:
        UserError: as `open_weights`; or the weights do not fit, which is said with both shapes, or
            belong to another variant than `model.variant`.
    """
    variant = getattr(model, "variant", None)
    stored = open_weights(weights, variant)
    if variant is not None and stored.variants and variant not in stored.variants:
        raise UserError(
            f"The weights in {stored.path} belong to {' or '.join(map(repr, stored.variants))}, "
            f"not to the variant {variant!r} of the model; build the model as that variant."
        )
    model.loaded = load_tensors(model, stored.tensors, stored.path, skip_mismatch=skip_mismatch)
    if stored.preprocessing is not None:
        model.preprocessing = PREPROCESSING[stored.preprocessing]
    return model.loaded


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
    tensors by their own names. Layers of the top that the model does not have are left out; others
    that it does not have are a mismatch.

    Args:
        model: a built model whose layers are named as in `AlexNet`.
        tensors: `layer/variable` to array, for example `conv1/kernel`.
        source: where the tensors come from, for messages.
        allow_missing: whether layers may stay as they are that `tensors` does not hold.
        skip_mismatch: the same for these and for layers that do not match.

    Raises:
        UserError: a layer is missing, or does not match the model's.
    """
    layers = {layer.name: layer for layer in model.layers if layer.weights}
    given: dict[str, set[str]] = {}
    for key in tensors:
        layer, _, variable = key.rpartition("/")
        given.setdefault(layer, set()).add(variable)
    from_layer = {name: _whole_or_own(name, given) for name in layers}
    found = {name: layer for name, layer in from_layer.items() if layer is not None}
    missing = [name for name in layers if name not in found]
    unused = sorted(given.keys() - set(found.values()))

    assignments, mismatched = [], {}
    for name, layer in found.items():
        variables = {variable.name: variable for variable in layers[name].weights}
        values = {
            variable: _half(tensors[f"{layer}/{variable}"], name)
            if layer != name
            else tensors[f"{layer}/{variable}"]
            for variable in given[layer]
        }
        why = _mismatch(layer, variables, values)
        if why is None:
            assignments += [(variables[key], values[key]) for key in variables]
        else:
            mismatched[name] = why
    foreign = [name for name in unused if name.startswith(_TRUNK)]
    mismatched |= {name: f"{name} is in the file and not in the model" for name in foreign}

    if mismatched and not skip_mismatch:
        raise UserError(
            f"The weights in {source} do not fit: {'; '.join(mismatched.values())}. Choose the "
            "variant, options, classes and image size that they were made for; "
            "skip_mismatch=True takes what fits and leaves the rest of the model random."
        )
    if missing and not (allow_missing or skip_mismatch):
        top = [name for name in missing if name.startswith("fc")]
        without = "include_top=False to do without the top, or " if top == missing else ""
        raise UserError(
            f"The weights in {source} hold nothing for {', '.join(missing)}; give a complete file, "
            f"{without}skip_mismatch=True to leave these layers random."
        )
    for variable, value in assignments:
        variable.assign(value)
    return LoadReport(
        loaded=tuple(name for name in found if name not in mismatched),
        fresh=tuple(name for name in layers if name in missing or name in mismatched),
        unused=tuple(unused),
        mismatched=tuple(mismatched.values()),
    )


#: how layers below the top are called: one that the model lacks is a part of another net
_TRUNK = ("conv", "norm", "spatial_norm", "shortcut")


def _mismatch(
    layer: str, variables: Mapping[str, Any], values: Mapping[str, np.ndarray]
) -> str | None:
    """How a layer's tensors differ from its variables, in words; `None` if they do not."""
    for name in [*variables, *values]:
        if name not in values:
            return f"{layer}/{name} is in the model and not in the file"
        if name not in variables:
            return f"{layer}/{name} is in the file and not in the model"
        shape = tuple(variables[name].shape)
        if values[name].shape != shape:
            return f"{layer}/{name} is {values[name].shape} in the file and {shape} in the model"
    return None


def _published(keys: tuple[str, ...]) -> StoredWeights:
    """The first of these published weights that is in the cache, else that can be downloaded."""
    rows = [PUBLISHED[key] for key in keys]
    if len(rows) > 1:
        rows.sort(key=lambda row: cached(row) is None)
    failures = []
    for row in rows:
        try:
            path = fetch(row)
        except UserError as error:
            failures.append(str(error))
        else:
            break
    else:
        raise UserError(" ".join(failures))
    # What the file does not say, the registry does.
    return replace(read_weights(path), variants=(row.variant,), preprocessing=row.preprocessing)


def _whole_or_own(name: str, given: Collection[str]) -> str | None:
    """The layer among `given` that fills the model's layer `name`; `None` if there is none."""
    if name in given:
        return name
    return name[:-1] if name.endswith(SUFFIXES) and name[:-1] in given else None


def _half(tensor: np.ndarray, tower: str) -> np.ndarray:
    """The outputs that belong to a tower, by the last letter of its layer's name."""
    half = tensor.shape[-1] // 2
    return tensor[..., :half] if tower.endswith(SUFFIXES[0]) else tensor[..., half:]
