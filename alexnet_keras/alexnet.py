"""`AlexNet()`, which builds a row of the table of variants and fills it with weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from alexnet_keras.errors import UserError
from alexnet_keras.tower_names import halves
from alexnet_keras.towers import initializers, joined, towers_of
from alexnet_keras.variants import VARIANTS, Variant, variant_row, with_options
from alexnet_keras.weights import (
    PREPROCESSING,
    PUBLISHED,
    StoredWeights,
    load_tensors,
    open_weights,
    published_keys,
)


def AlexNet(
    include_top: bool = True,
    weights: str | Path | None = None,
    input_tensor: Any = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: str | None = "softmax",
    name: str = "alexnet",
    variant: str | None = None,
    *,
    activation: str | Callable[..., Any] | None = None,
    normalization: str | None = "auto",
    dropout: float | None = None,
    overlapping_pooling: bool | None = None,
    width: float = 1.0,
    residual: bool | None = None,
    tower_devices: Sequence[str] | None = None,
    skip_mismatch: bool = False,
) -> keras.Model:
    """AlexNet as a Keras functional model, with the signature of `keras.applications`.

    Layers are named `conv1`..`conv5`, `pool1`, `pool2`, `pool5`, `norm1`, `norm2` (variants with
    local response normalization) and `fc6`, `fc7`, `fc8`. The convolutions and hidden fully
    connected layers contain their activation where it follows them directly; elsewhere it is a
    layer of its own (`relu1`). The two towers of `"paper"` and `"release"` have layers of their
    own, `conv1a` and `conv1b` and so on, as in the 2012 source; `pool2` and `pool5` join them.
    `"modern"` has an average over positions in place of `pool5`, `fc6` and `fc7`. Weights and
    activations are channels-last.

    Args:
        include_top: whether to put `fc6`, `fc7` and the classifier `fc8` on `pool5`; in `"modern"`,
            an average and `fc8` on `conv5`.
        weights: `None` (random, as published); `"imagenet"`, the published weights of the variant,
            downloaded to Keras's cache if need be; a key of `weights.PUBLISHED`; `"starter"`, the
            trunk of `"modern"` that comes with the package; or the path of a weights file: PyTorch
            `.pth`, `.caffemodel`, `.onnx`, `.npy`, `.npz`, `.weights.h5` or `.keras`. All layers
            have to be in it with the model's shapes; see `skip_mismatch`.
        input_tensor: a Keras tensor to take as the input, for example the output of a
            preprocessing layer; then the model's own preprocessing is the caller's matter, and
            `model.preprocessing` is not set.
        input_shape: `(height, width, channels)`, by default the variant's published size,
            `(224, 224, 3)`, `(227, 227, 3)` or `(64, 64, 3)`. Without the top, and in `"modern"`,
            height and width may be `None`. `VARIANTS[variant].smallest_input()` is the smallest
            side, 52 to 64 px, in `"modern"` 13 px.
        pooling: without the top: `None` (pool5's 4-D output), `"avg"` or `"max"` over positions.
        classes: number of classes of `fc8`.
        classifier_activation: activation of `fc8`; `None` returns logits.
        name: name of the model.
        variant: a key of `VARIANTS`. `None` takes the variant that the weights belong to,
            `"torchvision"` with `"imagenet"`, and `"alexnet"` without weights.
        activation: of all layers but the last, by Keras's name or as a function; `None` takes the
            variant's own, ReLU.
        normalization: `"lrn"`, `"batch"` (behind all five convolutions, before their activation),
            `None`, or `"auto"` for the variant's own.
        dropout: share (0..1) of the outputs of fc6 and fc7 (their inputs in `"torchvision"`) that
            training drops; `None` takes one half.
        overlapping_pooling: `False` pools 2x2 instead of 3x3 positions at steps of 2 (paper,
            section 3.4).
        width: factor on all channels and hidden units.
        residual: `True` adds the inputs of conv4 and of conv5 to their outputs before the
            activation, through a 1x1 convolution (`shortcut4`, `shortcut5`) where the channels
            differ.
        tower_devices: for `"paper"` and `"release"`, the devices of the two towers, such as
            `("GPU:0", "GPU:1")`: a tower's variables and operations, backward ones included, lie
            there. What joins the towers before conv3, fc6, fc7 and fc8, and what an optimizer
            remembers, lies on the default device. Not saved with the model.
        skip_mismatch: whether layers may stay random that the weights do not hold or that have
            other shapes, such as `fc8` with other classes. A warning names them;
            `model.loaded` is the whole report, `None` without weights.

    Returns:
        A `keras.Model`: float images (batch, height, width, 3), already in the range that
        `model.preprocessing` describes, to probabilities (batch, classes) or features.

    Raises:
        UserError: a `ValueError`: an unknown variant, weights that are missing, damaged, out of
            reach or of another variant, or arguments that contradict each other.
    """
    if not isinstance(include_top, bool):
        raise UserError(
            f"include_top is True or False; received {include_top!r}. Weights are given by name: "
            "AlexNet(weights=...)."
        )
    if not include_top and dropout is not None:
        raise UserError(f"dropout={dropout} belongs to fc6 and fc7; it needs include_top=True.")
    published = () if weights is None else published_keys(weights, variant)
    if published and include_top and classes != 1000 and not skip_mismatch:
        raise UserError(
            f"The published weights have 1000 classes; received classes={classes}. Give "
            "skip_mismatch=True to have a random fc8, or leave classes out."
        )
    # What is wrong with the other arguments is said before anything is downloaded.
    stored = None if weights is None or published else open_weights(weights)
    if published and variant is None:
        variant = PUBLISHED[published[0]].variant
    variant = choose_variant(variant, stored, width=width, skip_mismatch=skip_mismatch)
    row = with_options(
        variant_row(variant),
        activation=activation,
        normalization=normalization,
        dropout=dropout,
        overlapping_pooling=overlapping_pooling,
        width=width,
        residual=residual,
    )
    if dropout is not None and row.head != "fc":
        raise UserError(
            f"dropout={dropout} belongs to fc6 and fc7, which the variant {variant!r} does not "
            "have; leave it out."
        )
    model = build(
        row,
        include_top=include_top,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        name=name,
        tower_devices=tower_devices,
    )
    if published:
        stored = open_weights(weights, variant)
        choose_variant(variant, stored, width=width, skip_mismatch=skip_mismatch)

    # Attributes, and so not part of the saved model; `weights.save_weights` keeps these two.
    model.variant, model.loaded = variant, None
    if input_tensor is None or input_tensor is keras.utils.get_source_inputs(input_tensor)[0]:
        told = None if stored is None else stored.preprocessing
        model.preprocessing = PREPROCESSING[told or row.preprocessing]
    if stored is not None:
        model.loaded = load_tensors(model, stored.tensors, stored.path, skip_mismatch=skip_mismatch)
        if model.loaded.fresh:
            warnings.warn(
                f"{stored.path} has no fitting weights for {', '.join(model.loaded.fresh)}: they "
                "stay random.",
                stacklevel=2,
            )
    return model


def choose_variant(
    variant: str | None,
    stored: StoredWeights | None,
    width: float = 1.0,
    skip_mismatch: bool = False,
) -> str:
    """The name of the variant to build, given what the user asked for and the weights read.

    Args:
        width: as in `AlexNet`.
        skip_mismatch: whether weights of other shapes belong to a variant that is asked for.

    Raises:
        UserError: the variant is unknown, or the weights belong to none, to another one, or to
            several while none was asked for.
    """
    if variant is not None:
        variant_row(variant)
    if stored is None:
        return variant or "alexnet"
    fitting = [
        key
        for key, row in VARIANTS.items()
        if _convolutions_fit(with_options(row, width=width), stored.tensors)
    ]
    if variant is not None and skip_mismatch:
        fitting.append(variant)
    possible = [key for key in fitting if not stored.variants or key in stored.variants]
    if not fitting:
        shapes = ", ".join(
            f"{key} {value.shape}"
            for key, value in sorted(stored.tensors.items())
            if "kernel" in key
        )
        raise UserError(
            f"The weights in {stored.path} fit no variant ({', '.join(VARIANTS)}): their kernels "
            f"are {shapes or 'missing'}. Give weights of an AlexNet, and their width=."
        )
    if variant is None and len(possible) > 1:
        raise UserError(
            f"The weights in {stored.path} may belong to {' or '.join(map(repr, possible))}; say "
            "which with variant=."
        )
    if not possible:
        raise UserError(
            f"The weights in {stored.path} say that they belong to "
            f"{' or '.join(map(repr, stored.variants))}, but their kernels have the shapes of "
            f"{', '.join(map(repr, fitting))}. Give weights of an AlexNet, and their width=."
        )
    if variant is not None and variant not in possible:
        raise UserError(
            f"The weights in {stored.path} do not fit the variant {variant!r}; they fit "
            f"{', '.join(map(repr, possible))}. Choose that variant or leave it out."
        )
    return variant or possible[0]


def build(
    row: Variant,
    *,
    include_top: bool = True,
    input_tensor: Any = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: str | None = "softmax",
    name: str = "alexnet",
    tower_devices: Sequence[str] | None = None,
) -> keras.Model:
    """The functional model of one row of the table, with random weights; see `AlexNet`."""
    if pooling not in (None, "avg", "max"):
        raise UserError(f"pooling={pooling!r} is not one of None, 'avg', 'max'.")
    if include_top and pooling is not None:
        raise UserError(f"pooling={pooling!r} needs include_top=False.")
    if include_top and classes < 1:
        raise UserError(f"classes={classes} must be at least 1.")
    towers = towers_of(row, tower_devices)
    inputs = _input(row, input_tensor, input_shape, include_top)

    x = inputs
    if row.conv1_padding != ((0, 0), (0, 0)):
        x = layers.ZeroPadding2D(row.conv1_padding, name="conv1_pad")(x)
    maps = [tower.stage(1, x) for tower in towers]
    maps = [tower.stage(2, x) for tower, x in zip(towers, maps, strict=True)]
    pool2 = joined("pool2", maps)
    maps = [tower.stage(3, pool2) for tower in towers]
    maps = [tower.stage(4, x) for tower, x in zip(towers, maps, strict=True)]
    maps = [tower.stage(5, x) for tower, x in zip(towers, maps, strict=True)]
    x = joined("pool5", maps)

    if include_top:
        if row.head == "average":
            x = layers.GlobalAveragePooling2D(name="average")(x)
        else:
            x = layers.Flatten(name="flatten")(x)
            x = joined("join6", [tower.hidden(6, x) for tower in towers])
            x = joined("join7", [tower.hidden(7, x) for tower in towers])
        x = layers.Dense(
            classes,
            # float32 under every policy: a softmax in half precision loses small probabilities.
            dtype="float32",
            activation=classifier_activation,
            name="fc8",
            **initializers(row, "fc8", fan_in=x.shape[-1]),
        )(x)
    elif pooling == "avg":
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    elif pooling == "max":
        x = layers.GlobalMaxPooling2D(name="max_pool")(x)

    if input_tensor is not None:
        (inputs,) = keras.utils.get_source_inputs(input_tensor)
    return keras.Model(inputs, x, name=name)


def _input(
    row: Variant,
    input_tensor: Any,
    input_shape: tuple[int | None, int | None, int] | None,
    include_top: bool,
) -> Any:
    if keras.config.image_data_format() != "channels_last":
        raise UserError(
            "AlexNet is channels-last; received image_data_format='channels_first'. Call "
            "keras.config.set_image_data_format('channels_last')."
        )
    if input_tensor is not None:
        shape = tuple(input_tensor.shape[1:])
        if input_shape is not None and tuple(input_shape) != shape:
            raise UserError(
                f"input_shape={tuple(input_shape)} contradicts input_tensor, whose shape is {shape}"
                "; give one of them."
            )
    else:
        shape = (row.image_size, row.image_size, 3) if input_shape is None else tuple(input_shape)
    if len(shape) != 3 or shape[2] is None:
        raise UserError(f"The input is (height, width, channels); received {shape}.")
    sides = [side for side in shape[:2] if side is not None]
    smallest = row.smallest_input()
    if any(side < smallest for side in sides):
        raise UserError(
            f"AlexNet needs inputs of at least {smallest}x{smallest} px; received "
            f"{shape[0]}x{shape[1]}."
        )
    if include_top and row.head == "fc" and len(sides) < 2:
        raise UserError(
            f"The fully connected layers need a fixed height and width; received {shape}. Give "
            "them or include_top=False."
        )
    return keras.Input(shape, name="image") if input_tensor is None else input_tensor


def _convolutions_fit(row: Variant, tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether the kernels among `tensors` have a row's shapes, tower by tower or as one."""
    expected = row.kernel_shapes()
    if row.towers == 2:
        for name, (*shape, filters) in row.kernel_shapes().items():
            expected |= dict.fromkeys(halves(name), (*shape, filters // 2))
    kernels = {
        name: tensor.shape
        for key, tensor in tensors.items()
        for name, _, variable in [key.partition("/")]
        if variable == "kernel" and name.startswith("conv")
    }

    def fits(name: str, shape: tuple[int, ...]) -> bool:
        if name.startswith("conv1"):  # an input may have other channels than red, green and blue
            return shape[:2] + shape[3:] == expected.get(name, ())[:2] + expected.get(name, ())[3:]
        return expected.get(name) == shape

    return bool(kernels) and all(fits(name, shape) for name, shape in kernels.items())
