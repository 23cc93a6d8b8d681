"""The net that training from scratch begins with, and how it computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import keras
import tensorflow as tf
from keras import layers

from alexnet_keras.alexnet import build
from alexnet_keras.errors import UserError
from alexnet_keras.variants import variant_row, with_options
from alexnet_keras.weights import PREPROCESSING, InputPreprocessing


def build_net(
    classes: int,
    *,
    variant: str,
    image_size: int | None = None,
    normalization: str | None = "auto",
    width: float = 1.0,
    residual: bool | None = None,
    he: bool = False,
) -> keras.Model:
    """An AlexNet with random weights, its preprocessing inside.

    Args:
        classes: number of classes.
        variant, normalization, width, residual: as in `AlexNet`.
        image_size: side of the square input in pixels; None takes the published one.
        he: whether weights are initialized as by He et al. (arXiv:1502.01852), for inputs of unit
            variance, in place of the published way.

    Returns:
        A model from RGB pixels in 0..255 (batch, image_size, image_size, 3) to probabilities
        (batch, classes).

    Raises:
        UserError: as `AlexNet`.
    """
    row = with_options(
        variant_row(variant), normalization=normalization, width=width, residual=residual
    )
    if he and row.initialization != "he":
        row = replace(row, initialization="he", preprocessing="torchvision")
    side = image_size or row.image_size
    smallest = row.smallest_input()
    if side < smallest:
        raise UserError(
            f"The variant {variant!r} needs images of at least {smallest} px; received "
            f"--image-size {side}."
        )
    pixels = keras.Input((side, side, 3), name="image")
    net = build(
        row,
        input_tensor=InputPreprocessing.of(PREPROCESSING[row.preprocessing])(pixels),
        classes=classes,
    )
    return keras.Model(pixels, net.output, name="alexnet")


def at_size(model: keras.Model, side: int) -> keras.Model:
    """The same layers, weights shared, for square images of another size.

    Args:
        side: in pixels.
    """
    if side == model.input_shape[1]:
        return model
    image = keras.Input((side, side, 3), name="image")
    return keras.models.clone_model(model, input_tensors=image, clone_function=lambda layer: layer)


def check_sizes(model: keras.Model, sides: Sequence[int]) -> None:
    """Whether a model can be trained on views of these sides in pixels, one after the other.

    Raises:
        UserError: they do not grow; the net's head is made for one size.
    """
    own = model.input_shape[1]
    if sides != sorted(sides):
        raise UserError(
            f"Training views of {sides[0]} px cannot grow to {sides[-1]} px; give a "
            "--first-view-size of at most --last-view-size."
        )
    if set(sides) != {own} and any(isinstance(layer, layers.Flatten) for layer in model.layers):
        raise UserError(
            f"fc6 is made for images of {own} px and cannot be trained on {min(sides)} px; leave "
            "--first-view-size and --last-view-size out, or take --variant modern, which averages "
            "over positions."
        )


def make_repeatable(seed: int) -> None:
    """Keys all that Keras draws by `seed`, and lets TensorFlow use deterministic kernels only."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
