"""A classifier that takes pixels: an AlexNet behind the preprocessing of its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import keras

from alexnet_keras.alexnet import build, choose_variant
from alexnet_keras.transfer.heads import (
    FIRST_PAIRED,
    HEADS,
    HeadShape,
    averages,
    bilinear_head,
    pairs,
    pooled_head,
)
from alexnet_keras.variants import Variant, variant_row
from alexnet_keras.weights import (
    PREPROCESSING,
    InputPreprocessing,
    LoadReport,
    load_tensors,
    open_weights,
)
from alexnet_keras.weights.stored import StoredWeights

#: side of the input in pixels, where fc6 does not fix it to the published one: averages and pairs
#: take any size, and small photographs scaled up show the convolutions more
FREE_SIZE = {"pooled": 288, "bilinear": 256}
#: the same for nets that were published with an average: those were trained on small images
SMALL_SIZE = 128
#: from random weights a CPU learns more from many small views than from few large ones
RANDOM_SIZE = 96


#: what of a photograph evaluation sees, in words
CROPS = {
    "centre": "the central square that the weights were evaluated on",
    "whole": "the whole photograph, stretched to a square",
}


class Classifier(NamedTuple):
    """A classifier, how it was built, and what the weights file filled."""

    model: keras.Model
    variant: str
    head: str
    loaded: LoadReport


def build_classifier(
    classes: int,
    *,
    weights: str | Path | StoredWeights | None = None,
    variant: str | None = None,
    image_size: int | None = None,
    head: str = "auto",
    crop: str = "centre",
    shape: HeadShape | None = None,
) -> Classifier:
    """An AlexNet whose first layer is the preprocessing of its weights.

    Args:
        classes: number of classes of the new `fc8`.
        weights: as in `AlexNet`, or what `open_weights` gave, for many classifiers of the same;
            `None` stands for random weights of He's initialization, which learns faster from few
            photographs than the published one of `AlexNet`. A `fc8` among them belongs to other
            classes and is left out.
        variant: as in `AlexNet`.
        image_size: side of the square input in pixels; `None` takes the published one with
            pretrained fully connected layers, 256 with a bilinear head and 288 with a pooled one
            (128 on `"modern"`), 96 from random weights.
        head: what follows pool5. `"fc"`: the net's own fc6 and fc7. `"pooled"`: averages of pool5
            over the whole image and over a grid of 3 x 3, and one hidden layer of 512 units, some
            fifty times fewer parameters to learn from few photographs. `"bilinear"`: a linear
            classifier on `layers.BilinearPooling` of conv3, conv4 and conv5. `"auto"`: bilinear
            with pretrained weights, else the net's own.
        crop: what of a photograph the classifier is to see. `"centre"`: the central square that
            belongs to the weights. `"whole"`: all of it, stretched to a square, for photographs
            that are cut to their object already.
        shape: of the head; `None` takes the defaults of `HeadShape`. AlexNet's own fc6 and fc7 take
            the dropout of it.

    Returns:
        A model from RGB pixels in 0..255 (batch, image_size, image_size, 3) to probabilities
        (batch, classes), its variant and head, and the report of the layers loaded and left random.

    Raises:
        UserError: as `AlexNet`.
        ValueError: an unknown head or crop.
    """
    for name, given, known in (("head", head, ("auto", *HEADS)), ("crop", crop, tuple(CROPS))):
        if given not in known:
            raise ValueError(f"{name}={given!r} is not one of {', '.join(map(repr, known))}.")
    variant, row, stored = _choose(weights, variant)
    if head == "auto":
        head = "fc" if stored is None else "bilinear"

    shape = shape or HeadShape()
    if head == "fc" and shape.dropout is not None:
        row = replace(row, dropout=shape.dropout)

    image_size = image_size or _image_size(row, head, stored is not None)
    net = _net(row, image_size, crop, include_top=head == "fc", classes=classes)
    if head == "fc":
        outputs = net.output
    elif head == "pooled":
        outputs = pooled_head(net, classes, shape)
    else:
        outputs = bilinear_head(net, classes, shape)
    model = keras.Model(net.input, outputs, name="alexnet")
    loaded = _load(model, stored, None if head == "fc" else shape.last)
    return Classifier(model, variant, head, loaded)


def build_readings(
    *,
    weights: str | Path | StoredWeights,
    variant: str | None = None,
    image_size: int,
    crop: str = "centre",
) -> keras.Model:
    """What pooled and bilinear heads of any shape read of pretrained convolutions.

    Args:
        weights, variant, image_size, crop: as in `build_classifier`.

    Returns:
        A model from pixels, as those of `build_classifier`, to a dictionary of vectors: for each
        convolution from conv3 to conv5 what a bilinear head reads of it, `pairs3` say, and what a
        pooled head does that is cut there, `averages3`.

    Raises:
        UserError: as `build_classifier`.
    """
    _, row, stored = _choose(weights, variant)
    net = _net(row, image_size, crop, include_top=False, classes=1)
    read = {}
    for last in range(FIRST_PAIRED, 6):
        read[f"pairs{last}"] = pairs(net, last)
        read[f"averages{last}"] = averages(net, last, suffix=str(last))
    model = keras.Model(net.input, read, name="readings")
    _load(model, stored, 5)
    return model


def _choose(
    weights: str | Path | StoredWeights | None, variant: str | None
) -> tuple[str, Variant, StoredWeights | None]:
    """The variant of a classifier and its row, and its weights."""
    opened = weights is None or isinstance(weights, StoredWeights)
    stored = weights if opened else open_weights(weights, variant)
    variant = choose_variant(variant, stored)
    row = variant_row(variant)
    if stored is None and row.initialization != "he":
        # The published initialization takes long to get going. It expects pixels about 0 in steps
        # of one level, He's expects unit variance.
        row = replace(row, initialization="he", preprocessing="torchvision")
    elif stored is not None and stored.preprocessing is not None:
        row = replace(row, preprocessing=stored.preprocessing)
    return variant, row, stored


def _net(
    row: Variant, image_size: int, crop: str, *, include_top: bool, classes: int
) -> keras.Model:
    """An AlexNet behind its preprocessing, from pixels on."""
    preprocessing = PREPROCESSING[row.preprocessing]
    if crop == "whole":
        preprocessing = replace(preprocessing, resize_ratio=1.0, keep_aspect=False)
    pixels = keras.Input((image_size, image_size, 3), name="image")
    prepared = InputPreprocessing.of(preprocessing)(pixels)
    net = build(row, input_tensor=prepared, include_top=include_top, classes=classes)
    return keras.Model(pixels, net.output)


def _load(model: keras.Model, stored: StoredWeights | None, last: int | None) -> LoadReport:
    """Loads all but fc8, and no convolution after number `last`, if that is given."""
    tensors = {} if stored is None else stored.tensors
    kept = {key: value for key, value in tensors.items() if not key.startswith("fc8/")}
    if last is not None:
        kept = _up_to(last, kept)
    source = "nothing" if stored is None else stored.path
    return load_tensors(model, kept, source, allow_missing=True)


def _image_size(row: Variant, head: str, pretrained: bool) -> int:
    if not pretrained:
        return RANDOM_SIZE
    if head == "fc":
        return row.image_size
    return SMALL_SIZE if row.head == "average" else FREE_SIZE[head]


def _up_to(last: int, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of convolutions up to `last`, with their norms and shortcuts, and all others."""
    numbered = {key: re.match("(?:conv|norm|spatial_norm|shortcut)([0-9])", key) for key in tensors}
    return {
        key: tensors[key] for key, found in numbered.items() if not found or int(found[1]) <= last
    }
