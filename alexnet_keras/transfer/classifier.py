"""A classifier that takes pixels: an AlexNet behind the preprocessing of its weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import keras
from keras import layers

from alexnet_keras.alexnet import build, choose_variant
from alexnet_keras.layers import BilinearPooling
from alexnet_keras.tower_names import halves
from alexnet_keras.towers import joined
from alexnet_keras.variants import Variant, variant_row
from alexnet_keras.weights import (
    PREPROCESSING,
    InputPreprocessing,
    LoadReport,
    load_tensors,
    open_weights,
)

#: the pooled head averages pool5 over the whole image and over GRID x GRID cells
GRID = 3
#: the convolutions whose features the bilinear head pairs
PAIRED = (3, 4, 5)
#: channels that each of them is projected onto before: of pairs of 128 a linear classifier makes as
#: much as of pairs of 256 or 384, which are six times as many
PROJECTED = 128
#: length of the vector that the linear classifier of the bilinear head sees
LENGTH = 32.0
#: side of the input in pixels, where fc6 does not fix it to the published one: averages and pairs
#: take any size, and small photographs scaled up show the convolutions more
FREE_SIZE = {"pooled": 288, "bilinear": 256}
#: the same for nets that were published with an average: those were trained on small images
SMALL_SIZE = 128
#: from random weights a CPU learns more from many small views than from few large ones
RANDOM_SIZE = 96
HIDDEN_UNITS = 512


#: what may follow the convolutions, in words
HEADS = {
    "fc": "the net's own",
    "pooled": "one hidden layer on averages of pool5, in place of fc6 and fc7",
    "bilinear": "a linear classifier on which features of conv3, conv4 and conv5 occur together "
    "(bilinear pooling), in place of fc6 and fc7 (--head fc takes those)",
}
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
    weights: str | Path | None = None,
    variant: str | None = None,
    image_size: int | None = None,
    head: str = "auto",
    crop: str = "centre",
) -> Classifier:
    """An AlexNet whose first layer is the preprocessing of its weights.

    Args:
        classes: number of classes of the new `fc8`.
        weights: as in `AlexNet`; `None` stands for random weights of He's initialization, which
            learns faster from few photographs than the published one of `AlexNet`. A `fc8` among
            them belongs to other classes and is left out.
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
    stored = None if weights is None else open_weights(weights, variant)
    variant = choose_variant(variant, stored)
    row = variant_row(variant)
    if stored is None and row.initialization != "he":
        # The published initialization takes long to get going. It expects pixels about 0 in steps
        # of one level, He's expects unit variance.
        row = replace(row, initialization="he", preprocessing="torchvision")
    elif stored is not None and stored.preprocessing is not None:
        row = replace(row, preprocessing=stored.preprocessing)
    tensors = {} if stored is None else stored.tensors
    if head == "auto":
        head = "fc" if stored is None else "bilinear"

    image_size = image_size or _image_size(row, head, stored is not None)
    preprocessing = PREPROCESSING[row.preprocessing]
    if crop == "whole":
        preprocessing = replace(preprocessing, resize_ratio=1.0, keep_aspect=False)
    pixels = keras.Input((image_size, image_size, 3), name="image")
    net = build(
        row,
        input_tensor=InputPreprocessing.of(preprocessing)(pixels),
        include_top=head == "fc",
        classes=classes,
    )
    if head == "fc":
        outputs = net.output
    elif head == "pooled":
        outputs = _pooled_head(net.output, classes)
    else:
        outputs = _bilinear_head(net, classes)
    model = keras.Model(pixels, outputs, name="alexnet")
    trunk = {key: value for key, value in tensors.items() if not key.startswith("fc8/")}
    source = "nothing" if stored is None else stored.path
    loaded = load_tensors(model, trunk, source, allow_missing=True)
    return Classifier(model, variant, head, loaded)


def _image_size(row: Variant, head: str, pretrained: bool) -> int:
    if not pretrained:
        return RANDOM_SIZE
    if head == "fc":
        return row.image_size
    return SMALL_SIZE if row.head == "average" else FREE_SIZE[head]


def _pooled_head(pool5: Any, classes: int) -> Any:
    averages = [layers.GlobalAveragePooling2D(name="average")(pool5)]
    side = pool5.shape[1]
    if side >= GRID:
        # Cells of equal size over all positions; they overlap where GRID does not divide the side.
        step = side // GRID
        cells = layers.AveragePooling2D(side - (GRID - 1) * step, step, name="cells")(pool5)
        averages.append(layers.Flatten(name="flat_cells")(cells))
    x = layers.Concatenate(name="averages")(averages) if len(averages) > 1 else averages[0]
    # Trunks differ in the scale of their activations; the rates of this head should not.
    x = layers.LayerNormalization(name="head_norm")(x)
    x = layers.Dropout(0.4, name="head_dropout")(x)
    x = layers.Dense(HIDDEN_UNITS, "relu", kernel_initializer="he_normal", name="hidden")(x)
    x = layers.Dropout(0.6, name="hidden_dropout")(x)
    return layers.Dense(classes, "softmax", dtype="float32", name="fc8")(x)


def _maps(net: keras.Model, number: int) -> Any:
    """What the net's convolution of this number gives after its activation, towers side by side."""
    names = {layer.name for layer in net.layers}
    for name in (f"relu{number}", f"conv{number}"):  # batch normalization parts the two
        if found := [one for one in (name, *halves(name)) if one in names]:
            return joined(f"{name}_maps", [net.get_layer(one).output for one in found])
    raise ValueError(f"The net has no convolution {number}; its layers are {sorted(names)}.")


def _bilinear_head(net: keras.Model, classes: int) -> Any:
    pooled = [BilinearPooling(PROJECTED, name=f"pairs{n}")(_maps(net, n)) for n in PAIRED]
    x = layers.Concatenate(name="pairs", dtype="float32")(pooled)
    x = layers.Rescaling(LENGTH / len(PAIRED) ** 0.5, name="length", dtype="float32")(x)
    # From zero: with so many inputs random weights would be nothing but noise to unlearn.
    return layers.Dense(
        classes, "softmax", kernel_initializer="zeros", dtype="float32", name="fc8"
    )(x)
