"""A task for a classifier so small that it is trained within a test."""

from __future__ import annotations

import io
from dataclasses import replace

import keras
import numpy as np
from PIL import Image

from alexnet_keras.alexnet import VARIANTS, build
from alexnet_keras.data import Examples
from alexnet_keras.weights import PREPROCESSING, InputPreprocessing


def colored(count, seed):
    """Two classes told apart by colour: red or blue, with noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % 2
    contents = []
    for label in labels:
        pixels = rng.integers(0, 120, (70, 70, 3))
        pixels[..., 2 * label] += 110
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
        contents.append(file.getvalue())
    keys = tuple(f"{seed}-{i}" for i in range(count))
    return Examples("colored", ("red", "blue"), keys, labels, tuple(contents))


def small_classifier():
    keras.utils.set_random_seed(3)
    row = replace(
        VARIANTS["torchvision"], filters=(8, 8, 8, 8, 8), hidden_units=(16, 16), dropout=0.0
    )
    pixels = keras.Input((64, 64, 3), name="image")
    preprocessing = InputPreprocessing.of(PREPROCESSING["torchvision"])
    model = build(row, input_tensor=preprocessing(pixels), classes=2)
    # He's scale: a net this narrow learns nothing within a few steps from smaller weights.
    rng = np.random.default_rng(0)
    for layer in model.layers:
        for variable in layer.weights:
            fan_in = np.prod(variable.shape[:-1])
            deviation = (2 / fan_in) ** 0.5 if variable.name == "kernel" else 0
            variable.assign(rng.normal(0, deviation, variable.shape))
    return model
