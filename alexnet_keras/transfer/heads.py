"""What follows the convolutions: heads that learn from few photographs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
from keras import layers

from alexnet_keras.layers import BilinearPooling
from alexnet_keras.tower_names import halves
from alexnet_keras.towers import joined

#: the pooled head averages pool5 over the whole image and over GRID x GRID cells
GRID = 3
#: the convolutions that a head may read last
CUTS = ("conv5", "conv4", "conv3")
#: the first convolution whose features the bilinear head may pair
FIRST_PAIRED = 3
#: channels that each of them is projected onto before: of pairs of 128 a linear classifier makes as
#: much as of pairs of 256 or 384, which are six times as many
PROJECTED = 128
#: length of the vector that the linear classifier of the bilinear head sees
LENGTH = 32.0
#: of the last layer's inputs, by the kind of head; AlexNet's own has it in its row
DROPOUT = {"pooled": 0.6, "bilinear": 0.0}
#: that of the pooled head's averages, as a share of the one after its hidden layer
AVERAGES_SHARE = 2 / 3

#: what may follow the convolutions, in words
HEADS = {
    "fc": "the net's own",
    "pooled": "one hidden layer on averages of pool5, in place of fc6 and fc7",
    "bilinear": "a linear classifier on which features of conv3, conv4 and conv5 occur together "
    "(bilinear pooling), in place of fc6 and fc7 (--head fc takes those)",
}


@dataclass(frozen=True)
class HeadShape:
    """What may differ within a kind of head.

    Attributes:
        cut: the last convolution that a pooled or bilinear head reads, one of `CUTS`; the net does
            without those after it.
        paired: how many convolutions a bilinear head reads, the cut and those before it; `None` for
            all from conv3 on.
        hidden_units: of a pooled head's hidden layer.
        dropout: share (0..1) of the last layer's inputs that is left out in training; of a pooled
            head's averages two thirds of it. `None`: 0 with a bilinear head, .6 with a pooled one,
            and what the variant says for fc6 and fc7.

    Raises:
        ValueError: a value outside its range.
    """

    cut: str = "conv5"
    paired: int | None = None
    hidden_units: int = 512
    dropout: float | None = None

    def __post_init__(self) -> None:
        if self.cut not in CUTS:
            raise ValueError(f"cut={self.cut!r} is not one of {', '.join(CUTS)}.")
        most = self.last - FIRST_PAIRED + 1
        if self.paired is not None and not 1 <= self.paired <= most:
            raise ValueError(f"paired={self.paired} is not from 1 to {most}, up to {self.cut}.")
        if self.hidden_units < 1:
            raise ValueError(f"hidden_units={self.hidden_units} is not at least 1.")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} is not from 0 to below 1.")

    @property
    def last(self) -> int:
        """The number of the last convolution."""
        return int(self.cut[-1])

    @property
    def pairs(self) -> tuple[int, ...]:
        """The numbers of the convolutions that a bilinear head reads."""
        first = FIRST_PAIRED if self.paired is None else self.last - self.paired + 1
        return tuple(range(first, self.last + 1))


def averages(net: keras.Model, last: int, suffix: str = "") -> Any:
    """What a pooled head reads after convolution `last`, pooled if it is the fifth: averages.

    Args:
        suffix: of the layers' names.

    Returns:
        A tensor (batch, channels), or (batch, 10 * channels) with those of the cells.
    """
    maps = net.output if last == 5 else _maps(net, last)
    found = [layers.GlobalAveragePooling2D(name=f"average{suffix}")(maps)]
    side = maps.shape[1]
    if side >= GRID:
        # Cells of equal size over all positions; they overlap where GRID does not divide the side.
        step = side // GRID
        cells = layers.AveragePooling2D(side - (GRID - 1) * step, step, name=f"cells{suffix}")(maps)
        found.append(layers.Flatten(name=f"flat_cells{suffix}")(cells))
    return layers.Concatenate(name=f"averages{suffix}")(found) if len(found) > 1 else found[0]


def pairs(net: keras.Model, number: int) -> Any:
    """What a bilinear head reads of convolution `number`, a tensor (batch, pairs of channels)."""
    return BilinearPooling(PROJECTED, name=f"pairs{number}")(_maps(net, number))


def pooled_head(net: keras.Model, classes: int, shape: HeadShape) -> Any:
    dropout = DROPOUT["pooled"] if shape.dropout is None else shape.dropout
    # Trunks differ in the scale of their activations; the rates of this head should not.
    x = layers.LayerNormalization(name="head_norm")(averages(net, shape.last))
    x = layers.Dropout(AVERAGES_SHARE * dropout, name="head_dropout")(x)
    x = layers.Dense(shape.hidden_units, "relu", kernel_initializer="he_normal", name="hidden")(x)
    x = layers.Dropout(dropout, name="hidden_dropout")(x)
    return layers.Dense(classes, "softmax", dtype="float32", name="fc8")(x)


def _maps(net: keras.Model, number: int) -> Any:
    """What the net's convolution of this number gives after its activation, towers side by side."""
    names = {layer.name for layer in net.layers}
    for name in (f"relu{number}", f"conv{number}"):  # batch normalization parts the two
        if found := [one for one in (name, *halves(name)) if one in names]:
            return joined(f"{name}_maps", [net.get_layer(one).output for one in found])
    raise ValueError(f"The net has no convolution {number}; its layers are {sorted(names)}.")


def bilinear_head(net: keras.Model, classes: int, shape: HeadShape) -> Any:
    read = [pairs(net, number) for number in shape.pairs]
    x = layers.Concatenate(name="pairs", dtype="float32")(read) if len(read) > 1 else read[0]
    x = layers.Rescaling(LENGTH / len(read) ** 0.5, name="length", dtype="float32")(x)
    if dropout := DROPOUT["bilinear"] if shape.dropout is None else shape.dropout:
        x = layers.Dropout(dropout, name="head_dropout", dtype="float32")(x)
    # From zero: with so many inputs random weights would be nothing but noise to unlearn.
    return layers.Dense(
        classes, "softmax", kernel_initializer="zeros", dtype="float32", name="fc8"
    )(x)
