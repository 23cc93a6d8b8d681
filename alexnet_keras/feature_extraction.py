"""AlexNet as a measuring instrument: the activations of named layers, from pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from alexnet_keras.errors import UserError
from alexnet_keras.tower_names import halves
from alexnet_keras.weights import from_pixels, preprocessing_of


def features(model: keras.Model, layers: Sequence[str]) -> keras.Model:
    """A model that gives what the named layers of `model` give, from RGB pixels in 0..255.

    The preprocessing of the weights is inside, as the first layer. Convolutions contain their ReLU
    in most variants, so `["conv1", "conv2", "conv3", "conv4", "conv5"]` of torchvision's net are
    the activations that the LPIPS metric compares (arXiv:1801.03924). In nets of two towers,
    `"conv1"` is `conv1a` and `conv1b` side by side, the first tower's channels first.

    Args:
        model: an `AlexNet()`, or one that has its preprocessing already, such as a classifier of
            `transfer.build_classifier`. Weights are shared with it, not copied.
        layers: names of layers, in any order.

    Returns:
        A model from (batch, height, width, 3), of any numeric dtype, to a dictionary of the layers'
        outputs by name, channels-last.

    Raises:
        UserError: no layer, one that the model does not have, or no preprocessing is recorded with
            the model.
    """
    layers = [layers] if isinstance(layers, str) else list(layers)
    if not layers:
        raise UserError(f"No layer is named; name some of {_names(model)}.")
    nested = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    if len(nested) == 1:  # what `from_pixels` made
        nested[0].preprocessing = preprocessing_of(model)
        return features(nested[0], layers)
    outputs = {name: _output(model, name) for name in layers}
    measured = keras.Model(model.input, outputs, name=f"{model.name}_features")
    # The new model's own, where it is not among its layers.
    measured.preprocessing = preprocessing_of(model)
    return from_pixels(measured)


def _output(model: keras.Model, name: str) -> Any:
    known = {layer.name: layer for layer in model.layers}
    if name in known:
        return known[name].output
    towers = [known[half].output for half in halves(name) if half in known]
    if not towers:
        raise UserError(f"The model has no layer {name!r}; its layers are {_names(model)}.")
    return keras.layers.Concatenate(name=name)(towers)


def _names(model: keras.Model) -> str:
    return ", ".join(layer.name for layer in model.layers)
