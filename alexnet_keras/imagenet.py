"""ImageNet's 1000 classes and pixels, with the functions that every `keras.applications` net has.

The class names are part of the package (`imagenet_classes.txt`): nothing is downloaded.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from alexnet_keras.errors import UserError
from alexnet_keras.variants import variant_row
from alexnet_keras.weights import PREPROCESSING

CLASSES = 1000


def class_names() -> list[tuple[str, str]]:
    """WordNet id and name of each class of ILSVRC 2012, in the order of the nets' outputs.

    The names are those of `keras.applications`: the first of ImageNet's synonyms of each, with
    underscores for spaces. Two pairs of classes share a name: `crane` (the bird n02012849, the
    machine n03126707) and `maillot` (n03710637, n03710721).
    """
    return list(_class_names())


@cache
def _class_names() -> tuple[tuple[str, str], ...]:
    text = Path(__file__).with_name("imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(tuple(line.split(" ")) for line in text.splitlines())


def decode_predictions(preds: Any, top: int = 5) -> list[list[tuple[str, str, float]]]:
    """The best classes of each prediction, as `keras.applications` decodes them.

    Args:
        preds: scores of a net, an array or a tensor (batch, 1000).
        top: how many classes to return for each image.

    Returns:
        A list for each image of `(WordNet id, name, score)`, best first.

    Raises:
        UserError: a `ValueError`: `preds` has another shape, or `top` is less than 1.
    """
    preds = ops.convert_to_numpy(preds)
    if preds.ndim != 2 or preds.shape[1] != CLASSES:
        raise UserError(
            f"decode_predictions needs the {CLASSES} scores of each image, (batch, {CLASSES}); "
            f"received {preds.shape}."
        )
    if top < 1:
        raise UserError(f"top={top} is a number of classes; give 1 or more.")
    names = _class_names()
    best = np.argsort(preds, axis=1)[:, ::-1][:, :top]
    return [
        [(*names[i], scores[i]) for i in chosen] for scores, chosen in zip(preds, best, strict=True)
    ]


def preprocess_input(x: Any, data_format: str | None = None, variant: str = "torchvision") -> Any:
    """Pixels as a variant's published weights expect them, called as in `keras.applications`.

    Resizing is not part of it: `VARIANTS[variant].image_size` is the side that the net takes.

    Args:
        x: RGB pixels in 0..255, an array or a tensor of any numeric dtype: (height, width, 3) or
            (batch, height, width, 3), or with the channels first. It stays as it is.
        data_format: `"channels_last"` or `"channels_first"`; Keras's setting by default.
        variant: a key of `VARIANTS`.

    Returns:
        float32 of the same shape and layout; a NumPy array for a NumPy array, else a tensor.

    Raises:
        UserError: a `ValueError`: the variant or data format is unknown, or `x` is no RGB image.
    """
    preprocessing = PREPROCESSING[variant_row(variant).preprocessing]
    data_format = data_format or keras.config.image_data_format()
    if data_format not in ("channels_last", "channels_first"):
        raise UserError(
            f"data_format={data_format!r} is not one of 'channels_last', 'channels_first'."
        )
    x = x if hasattr(x, "shape") else np.asarray(x)
    axis = -1 if data_format == "channels_last" else -3
    if len(x.shape) not in (3, 4) or x.shape[axis] != 3:
        raise UserError(
            f"preprocess_input needs RGB images, one or a batch, {data_format}; received the shape "
            f"{tuple(x.shape)}."
        )
    move = np.moveaxis if isinstance(x, np.ndarray) else ops.moveaxis
    return move(preprocessing.apply(move(x, axis, -1)), -1, axis)
