"""A small classifier to export, and pictures to send it."""

from __future__ import annotations

import io

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from alexnet_keras import AlexNet, features
from alexnet_keras.transfer import build_classifier
from alexnet_keras.weights import from_pixels

NAMES = ("daisy", "rose", "tulip")
SIDE = 64


def small_classifier(head: str = "bilinear") -> keras.Model:
    """An AlexNet of full width with random weights, three classes and 64 px."""
    keras.utils.set_random_seed(0)
    model = build_classifier(len(NAMES), variant="torchvision", image_size=SIDE, head=head).model
    return with_a_mind(model)


def narrow_classifier() -> keras.Model:
    """An AlexNet of a quarter of the width with fc6 and fc7, three classes and 64 px."""
    keras.utils.set_random_seed(0)
    shape = (SIDE, SIDE, 3)
    net = AlexNet(classes=len(NAMES), input_shape=shape, variant="torchvision", width=0.25)
    return with_a_mind(from_pixels(net))


def with_a_mind(model: keras.Model) -> keras.Model:
    """The same with random weights in fc8 whose logits have a standard deviation of 1."""
    net = next((layer for layer in model.layers if isinstance(layer, keras.Model)), model)
    last = net.get_layer("fc8")
    before = features(model, [net.layers[-2].name])
    images = np.random.default_rng(0).uniform(0, 255, (16, SIDE, SIDE, 3)).astype(np.float32)
    (seen,) = before(images).values()
    seen = np.asarray(seen).reshape(len(images), -1)
    kernel = np.random.default_rng(1).normal(0, 1, last.kernel.shape)
    last.kernel.assign(kernel / (seen @ kernel).std())
    return model


def picture(
    kind: str = "JPEG", seed: int = 0, size: tuple[int, int] = (90, 120), **options
) -> bytes:
    """An image file with coarse random colours; `size` is height and width."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    file = io.BytesIO()
    coarse.resize(size[::-1]).save(file, kind, **options)
    return file.getvalue()


def animated_gif(frames: int, side: int) -> bytes:
    """A GIF whose frames compress to almost nothing."""
    file = io.BytesIO()
    shades = [Image.new("P", (side, side), color=i % 2) for i in range(frames)]
    shades[0].save(file, "GIF", save_all=True, append_images=shades[1:], disposal=2, optimize=False)
    return file.getvalue()


def as_example(encoded: bytes) -> bytes:
    """A serialized `tf.Example` with the image where TensorFlow's recipes put it."""
    value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded]))
    features = tf.train.Features(feature={"image/encoded": value})
    return tf.train.Example(features=features).SerializeToString()
