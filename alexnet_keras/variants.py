"""The table of AlexNet's variants: every point in which the published nets differ is a field."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from alexnet_keras.errors import UserError

NUMBERS = (1, 2, 3, 4, 5)
KERNEL_SIZES = (11, 5, 3, 3, 3)

# Local response normalization. Our layer's alpha is the paper's, which is not divided by n.
# Paper, section 3.3: k = 2, n = 5 (a radius of 2), alpha = 1e-4, beta = .75.
PAPER_LRN = {"depth_radius": 2, "bias": 2.0, "alpha": 1e-4, "beta": 0.75}
# 2012 source: rnorm1a in layer-params-145.cfg has scale 1e-4, minDiv 2; layer.py divides the scale
# by the size, 5.
RELEASE_LRN = PAPER_LRN | {"alpha": 1e-4 / 5}
# BVLC/caffe: models/bvlc_alexnet/train_val.prototxt; lrn_layer.cpp divides alpha by local_size; k
# is 1 by default.
CAFFE_LRN = PAPER_LRN | {"bias": 1.0, "alpha": 1e-4 / 5}

# Where every variant has the same, this is it: the paper, section 5.
_BIASED = ("conv2", "conv4", "conv5", "fc6", "fc7")


@dataclass(frozen=True)
class Gaussian:
    """Initial weights drawn from a normal distribution around 0, and constant biases."""

    #: standard deviation of the kernels, and of those that differ from it
    std: float = 0.01
    stds: Mapping[str, float] | None = None
    #: bias of conv2, conv4, conv5, fc6 and fc7, which feeds the ReLUs positive inputs early on
    bias: float = 1.0

    def std_of(self, layer: str) -> float:
        return (self.stds or {}).get(layer, self.std)

    def bias_of(self, layer: str) -> float:
        return self.bias if layer in _BIASED else 0.0


#: "pytorch" is uniform within 1 / sqrt(fan in), "he" normal with variance 2 / fan in and no biases
#: (arXiv:1502.01852)
INITIALIZATIONS: dict[str, Gaussian | None] = {
    "paper": Gaussian(),  # section 5
    # layers-145.cfg: initW .03 in conv3 to conv5
    "release": Gaussian(stds={"conv3": 0.03, "conv4": 0.03, "conv5": 0.03}),
    # train_val.prototxt; its readme: biases of 1 "gave flat loss"
    "caffe": Gaussian(stds={"fc6": 0.005, "fc7": 0.005}, bias=0.1),
    "caffenet": Gaussian(stds={"fc6": 0.005, "fc7": 0.005}),
    "pytorch": None,
    "he": None,
}


@dataclass(frozen=True)
class Variant:
    """One form of the net: a published one, a common one, or ours."""

    #: channels of conv1 to conv5, both towers together
    filters: tuple[int, int, int, int, int]
    #: side of the kernels of conv1 to conv5
    kernel_sizes: tuple[int, int, int, int, int] = KERNEL_SIZES
    #: steps of conv1's kernels; those of the others go by one
    conv1_stride: int = 4
    #: what leads from pool5 to fc8: "fc", fc6 and fc7; "average" of all positions (arXiv:1312.4400)
    head: str = "fc"
    #: units of fc6 and fc7, both towers together
    hidden_units: tuple[int, int] = (4096, 4096)
    #: side of the input in pixels
    image_size: int = 224
    #: columns of layers side by side, which see each other at conv3 and the fc layers only
    towers: int = 1
    #: convolutions of a single column that see half of the channels each, as towers would
    grouped: tuple[int, ...] = ()
    #: rows and columns of zeros around conv1's input: (top, bottom), (left, right)
    conv1_padding: tuple[tuple[int, int], tuple[int, int]] = ((2, 2), (2, 2))
    #: what follows conv1, conv2 and conv5, in order. conv3 and conv4 have their activation only.
    order: tuple[str, str, str] = ("act norm pool", "act norm pool", "act pool")
    #: what "norm" stands for: "lrn", "batch" or None. "batch" stands behind all five convolutions,
    #: before their activation, instead.
    normalization: str | None = "lrn"
    #: keyword arguments of LocalResponseNormalization
    lrn: Mapping[str, float] = field(default_factory=lambda: PAPER_LRN)
    #: keyword arguments of SpatialResponseNormalization, for "spatial" in the order
    spatial: Mapping[str, float] | None = None
    #: pools of 3 x 3 at steps of 2; else of 2 x 2, which give the same size (paper, section 3.4)
    overlapping_pooling: bool = True
    #: whether pools round their output size up, with windows over the edge, as Caffe's do
    ceil_pooling: bool = False
    activation: str | Callable[..., Any] = "relu"
    #: the input of conv4 and of conv5 is added to their output, before the activation
    #: (arXiv:1512.03385), through a 1 x 1 convolution where the channels differ
    residual: bool = False
    dropout: float = 0.5
    #: the dropout of fc6 and fc7: on their "output" (paper, section 4.2) or on their "input"
    dropout_on: str = "output"
    #: "inference": outputs times one half then (paper, section 4.2), ClassicDropout; "training":
    #: the kept ones times two then, keras.layers.Dropout
    dropout_scales: str = "training"
    #: a key of INITIALIZATIONS
    initialization: str = "paper"
    #: the key in `weights.PREPROCESSING` of what this variant's published weights were trained on
    preprocessing: str = "paper"

    @property
    def pool(self) -> tuple[int, int]:
        """Side and step of the pools' windows."""
        return (3 if self.overlapping_pooling else 2), 2

    def groups(self, number: int) -> int:
        """Groups of convolution `number` (1..5) inside one tower."""
        return 2 if number in self.grouped else 1

    def order_of(self, number: int) -> str:
        """What follows convolution `number` (1..5); see `order`."""
        return self.order[(1, 2, 5).index(number)] if number in (1, 2, 5) else "act"

    def kernel_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the convolutions' kernels by name, those of both towers as one."""
        split = {2, 4, 5} if self.towers == 2 else set(self.grouped)
        inputs = (3, *self.filters)
        return {
            f"conv{n}": (size, size, inputs[n - 1] // (1 + (n in split)), self.filters[n - 1])
            for n, size in zip(NUMBERS, self.kernel_sizes, strict=True)
        }

    def smallest_input(self) -> int:
        """The smallest side in pixels that leaves every pool a window and pool5 a position."""
        size, step = self.pool

        def fits(side: int) -> bool:
            padded = side + sum(self.conv1_padding[0])
            side = (padded - self.kernel_sizes[0]) // self.conv1_stride + 1
            for n in NUMBERS:
                if "pool" in self.order_of(n).split():
                    if side < size:
                        return False
                    side -= size
                    side = (-(-side // step) if self.ceil_pooling else side // step) + 1
            return side > 0

        return next(side for side in range(1, 256) if fits(side))


VARIANTS: dict[str, Variant] = {
    # The paper's channels in a single column; pooling before normalization, as many
    # reimplementations have it. 62,378,344 parameters at 1000 classes.
    "alexnet": Variant(
        filters=(96, 256, 384, 384, 256), order=("act pool norm", "act pool norm", "act pool")
    ),
    # torchvision.models.alexnet, after "One weird trick for parallelizing convolutional neural
    # networks" (arXiv:1404.5997). 61,100,840 parameters at 1000 classes.
    "torchvision": Variant(
        filters=(64, 192, 384, 256, 256),
        normalization=None,
        dropout_on="input",
        initialization="pytorch",
        preprocessing="torchvision",
    ),
    # The paper's text: two towers (figure 2), normalization within each (section 3.5 lets conv2, 4
    # and 5 see "only those kernel maps which reside on the same GPU"), order of section 3.5,
    # constants of section 3.3, halving at test time (section 4.2). "224x224" gives the 55x55
    # outputs of figure 2 with the released source's 3 px at the bottom and the right. 60,965,224
    # parameters at 1000 classes, as all that follow.
    "paper": Variant(
        filters=(96, 256, 384, 384, 256),
        towers=2,
        conv1_padding=((0, 3), (0, 3)),
        dropout_scales="inference",
    ),
    # Net 145 of the 2012 source (computerhistory/AlexNet-Source-Code): layers/layers-145.cfg,
    # layers/layer-params-145.cfg. Output sizes are rounded up (layer.py: modulesX, outputsX), for
    # conv1 by zeros below and to the right. `cnorm2` is the spatial norm; `hs` the dropout.
    "release": Variant(
        filters=(96, 256, 384, 384, 256),
        towers=2,
        conv1_padding=((0, 3), (0, 3)),
        order=("norm pool act", "act norm spatial pool", "pool act"),
        lrn=RELEASE_LRN,
        spatial={"size": 5, "scale": 1e-3, "power": 0.75},
        ceil_pooling=True,
        dropout_scales="inference",
        initialization="release",
    ),
    # BVLC/caffe, models/bvlc_alexnet/train_val.prototxt: one column, `group: 2`, crop of 227, and
    # normalization over all channels.
    "caffe": Variant(
        filters=(96, 256, 384, 384, 256),
        image_size=227,
        grouped=(2, 4, 5),
        conv1_padding=((0, 0), (0, 0)),
        lrn=CAFFE_LRN,
        ceil_pooling=True,
        initialization="caffe",
        preprocessing="caffe",
    ),
    # BVLC/caffe, models/bvlc_reference_caffenet/train_val.prototxt: pooling before normalization.
    "caffenet": Variant(
        filters=(96, 256, 384, 384, 256),
        image_size=227,
        grouped=(2, 4, 5),
        conv1_padding=((0, 0), (0, 0)),
        order=("act pool norm", "act pool norm", "act pool"),
        lrn=CAFFE_LRN,
        ceil_pooling=True,
        initialization="caffenet",
        preprocessing="caffe",
    ),
    # Ours, for small images and two cores: the five convolutions of 2012 with what the decade after
    # found to pay (figures: docs/results/tiny_imagenet/README.md). Batch normalization
    # (arXiv:1502.03167), residual connections (arXiv:1512.03385), small kernels (arXiv:1409.1556),
    # an average in place of pool5, fc6 and fc7 (arXiv:1312.4400). 1,588,632 parameters at 200
    # classes.
    "modern": Variant(
        filters=(48, 128, 256, 256, 256),
        image_size=64,
        kernel_sizes=(5, 3, 3, 3, 3),
        conv1_stride=2,
        order=("act pool", "act pool", "act"),
        normalization="batch",
        residual=True,
        head="average",
        initialization="he",
        preprocessing="modern",
    ),
}


def variant_row(name: str) -> Variant:
    """The row of the table called `name`.

    Raises:
        UserError: there is none.
    """
    if name not in VARIANTS:
        raise UserError(f"There is no variant {name!r}; the variants are {', '.join(VARIANTS)}.")
    return VARIANTS[name]


def with_options(
    row: Variant,
    *,
    activation: str | Callable[..., Any] | None = None,
    normalization: str | None = "auto",
    dropout: float | None = None,
    overlapping_pooling: bool | None = None,
    width: float = 1.0,
    residual: bool | None = None,
) -> Variant:
    """A row with other choices than the published ones; see `AlexNet` for what they mean.

    Raises:
        UserError: a value outside its range.
    """
    if normalization not in ("auto", "lrn", "batch", None):
        raise UserError(
            f"normalization={normalization!r} is not one of 'auto', 'lrn', 'batch', None."
        )
    if dropout is not None and not 0 <= dropout < 1:
        raise UserError(f"dropout={dropout} is a share of the units; give 0 or more, less than 1.")
    if not 0 < width <= 16:
        raise UserError(f"width={width} is a factor on the channels; give more than 0, 16 at most.")

    def scaled(count: int) -> int:
        # Even, so that two towers or groups have the same number.
        return count if width == 1 else max(2 * round(count * width / 2), 2)

    changes: dict[str, Any] = {
        "activation": activation,
        "dropout": dropout,
        "overlapping_pooling": overlapping_pooling,
        "residual": residual,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    if normalization != "auto":
        changes["normalization"] = normalization
    if overlapping_pooling is False:
        # Paper, section 3.4: 2 x 2 at steps of 2 "produces output of equivalent dimensions"; from
        # 55 positions that is so if rounded down.
        changes["ceil_pooling"] = False
    return replace(
        row,
        filters=tuple(scaled(count) for count in row.filters),
        hidden_units=tuple(scaled(count) for count in row.hidden_units),
        **changes,
    )
