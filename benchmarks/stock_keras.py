"""Fine-tuning as Keras's own parts make it: a contestant of `time_to_accuracy.py`, run by it.

A linear head is trained on stored features of centre views, then the whole net on random crops and
flips. Nothing of this project is used.
"""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from accuracy_curves import Curve, Point
from contestant import (
    AREA,
    ASPECT,
    BATCH,
    CURVE,
    DROPOUT,
    FEATURES,
    HEAD_EPOCHS,
    HEAD_RATE,
    MEAN,
    MOMENTUM,
    RATE,
    RESIZED,
    SIZE,
    STD,
    class_names,
    labelled,
    seconds,
    stock_options,
)

LOSS = "sparse_categorical_crossentropy"


def main() -> None:
    options = stock_options()
    keras.utils.set_random_seed(options.seed)
    classes = class_names(options.data_dir)
    paths, labels = labelled(options.data_dir, classes)
    trunk = build_trunk(np.load(options.trunk))
    head = keras.Sequential(
        [
            keras.Input((FEATURES,)),
            layers.Dropout(DROPOUT),
            layers.Dense(len(classes), activation="softmax"),
        ]
    )
    net = keras.Sequential([trunk, head])

    features = trunk.predict(centre_views(paths), verbose=0)
    began = seconds()
    head.compile(keras.optimizers.Adam(HEAD_RATE), LOSS, metrics=["accuracy"])
    head.fit(features, labels, batch_size=BATCH, epochs=HEAD_EPOCHS, verbose=2)
    rates = {"head": HEAD_EPOCHS * len(paths) / (seconds() - began)}
    snapshots = Snapshots([(seconds(), net.get_weights())])

    began = seconds()
    batches = random_views(paths, labels)
    cosine = keras.optimizers.schedules.CosineDecay(RATE, options.epochs * len(batches))
    sgd = keras.optimizers.SGD(cosine, momentum=MOMENTUM, nesterov=True)
    net.compile(sgd, LOSS, metrics=["accuracy"])
    net.fit(batches, epochs=options.epochs, callbacks=[snapshots], verbose=2)
    rates["whole net"] = options.epochs * len(paths) / (seconds() - began)

    began = seconds()
    paths, labels = labelled(options.val_dir, classes)
    views = centre_views(paths).cache()
    points = []
    for when, weights in snapshots.kept:
        net.set_weights(weights)
        answers = net.predict(views, verbose=0).argmax(axis=1)
        points.append(Point(when, float(np.mean(answers == labels))))
    Curve(tuple(points), rates, seconds() - began).write(options.output / CURVE)


def build_trunk(tensors: Mapping[str, np.ndarray]) -> keras.Model:
    """torchvision's AlexNet from RGB (batch, 224, 224, 3) in 0..1 to pool5, (batch, 9216)."""
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Normalization(mean=MEAN, variance=np.square(STD))(inputs)
    x = layers.ZeroPadding2D(2)(x)
    x = layers.Conv2D(64, 11, strides=4, activation="relu", name="conv1")(x)
    x = layers.MaxPooling2D(3, 2)(x)
    x = layers.Conv2D(192, 5, padding="same", activation="relu", name="conv2")(x)
    x = layers.MaxPooling2D(3, 2)(x)
    x = layers.Conv2D(384, 3, padding="same", activation="relu", name="conv3")(x)
    x = layers.Conv2D(256, 3, padding="same", activation="relu", name="conv4")(x)
    x = layers.Conv2D(256, 3, padding="same", activation="relu", name="conv5")(x)
    x = layers.MaxPooling2D(3, 2)(x)
    trunk = keras.Model(inputs, layers.Flatten()(x))
    for name in ("conv1", "conv2", "conv3", "conv4", "conv5"):
        trunk.get_layer(name).set_weights([tensors[f"{name}/kernel"], tensors[f"{name}/bias"]])
    return trunk


class Snapshots(keras.callbacks.Callback):
    """The weights after each epoch and when it ended, to be measured when all is trained."""

    def __init__(self, kept: list[tuple[float, list[np.ndarray]]]) -> None:
        super().__init__()
        self.kept = kept

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.kept.append((seconds(), self.model.get_weights()))


def random_views(paths: list[str], labels: np.ndarray) -> tf.data.Dataset:
    """Batches of random crops in 0..1, (batch, 224, 224, 3), and their labels; one epoch."""
    examples = tf.data.Dataset.from_tensor_slices((paths, labels)).shuffle(len(paths))
    views = examples.map(lambda path, label: (random_view(path), label), tf.data.AUTOTUNE)
    return views.batch(BATCH).prefetch(tf.data.AUTOTUNE)


def random_view(path: tf.Tensor) -> tf.Tensor:
    pixels = decoded(path)
    begin, size, _ = tf.image.sample_distorted_bounding_box(
        tf.shape(pixels),
        tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        min_object_covered=0.0,
        area_range=AREA,
        aspect_ratio_range=ASPECT,
    )
    crop = tf.image.resize(tf.slice(pixels, begin, size), (SIZE, SIZE), antialias=True)
    return tf.image.random_flip_left_right(crop) / 255


def centre_views(paths: list[str]) -> tf.data.Dataset:
    """Batches of centre crops in 0..1, (batch, 224, 224, 3), in order."""
    views = tf.data.Dataset.from_tensor_slices(paths).map(centre_view, tf.data.AUTOTUNE)
    return views.batch(BATCH).prefetch(tf.data.AUTOTUNE)


def centre_view(path: tf.Tensor) -> tf.Tensor:
    pixels = decoded(path)
    shape = tf.cast(tf.shape(pixels)[:2], tf.float32)
    shape = tf.cast(tf.round(shape * RESIZED / tf.reduce_min(shape)), tf.int32)
    pixels = tf.image.resize(pixels, shape, antialias=True)
    return tf.image.resize_with_crop_or_pad(pixels, SIZE, SIZE) / 255


def decoded(path: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_jpeg(tf.io.read_file(path), channels=3)


if __name__ == "__main__":
    main()
