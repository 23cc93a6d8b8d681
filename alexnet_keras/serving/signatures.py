"""What a served model answers to: the functions behind the signatures of the SavedModel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from alexnet_keras.serving.net import ServedNet
from alexnet_keras.serving.reading import (
    Limits,
    Read,
    read_examples,
    read_images,
)

#: the signature of TensorFlow Serving's Classify API
CLASSIFY = "classify"

_IMAGES = tf.TensorSpec((None,), tf.string, name="images")


def signatures(
    net: ServedNet,
    labels: Sequence[str],
    view: Callable[[tf.Tensor], tf.Tensor],
    *,
    top: int,
    limits: Limits,
) -> dict[str, Any]:
    """The functions by the names of their signatures; `serving.export` describes them.

    Args:
        view: from one encoded image to what the net sees of it, float32 (side, side, 3).
    """
    side = net.side
    names = tf.constant(list(labels))

    def ranked(
        probabilities: tf.Tensor, read: tf.Tensor, errors: tf.Tensor | str, k: int | tf.Tensor
    ) -> dict[str, Any]:
        """The best `k` and all; nothing of an image that was not `read`, or without an answer.

        Probabilities come from numbers alone, for runtimes that have no strings.
        """
        numbers = tf.reduce_all(tf.math.is_finite(probabilities), axis=1)
        errors = tf.where(read, tf.where(numbers, "", "the net gives no number"), errors)
        good = (read & numbers)[:, None]
        probabilities = tf.where(good, probabilities, 0.0)
        scores, order = tf.math.top_k(probabilities, k=k)
        return {
            "classes": tf.where(good, tf.gather(names, order), ""),
            "scores": scores,
            "probabilities": probabilities,
            "error": errors,
        }

    @tf.function(input_signature=[_IMAGES], autograph=False)  # traced once for all signatures
    def read(images: tf.Tensor) -> Read:
        return read_images(images, view, side, limits)

    def of_read(found: Read, k: int | tf.Tensor = top) -> dict[str, Any]:
        probabilities = net.function(found.pixels)["probabilities"]
        return ranked(found.spread(probabilities), found.errors == "", found.errors, k)

    def serving_default(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return of_read(read(images))

    def predict_top(images: tf.Tensor, k: tf.Tensor) -> dict[str, tf.Tensor]:
        k = tf.clip_by_value(k, 1, len(labels))
        return of_read(read(images), k)

    def classify(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        answer = of_read(read_examples(inputs, read))
        # The API takes these two and refuses a signature with more.
        return {name: answer[name] for name in ("classes", "scores")}

    def predict_images(images: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = net.function(images)["probabilities"]
        # One pass: whatever is no finite number makes the sum none.
        finite = tf.math.is_finite(tf.reduce_sum(images, axis=[1, 2, 3]))
        return ranked(probabilities, finite, "pixels that are no numbers, or far too large", top)

    def predict_images_uint8(images: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = net.function(tf.cast(images, tf.float32))["probabilities"]
        return ranked(probabilities, tf.fill([tf.shape(images)[0]], True), "", top)

    def embed(images: tf.Tensor) -> dict[str, tf.Tensor]:
        found = read(images)
        embedding = found.spread(net.function(found.pixels)["embedding"])
        return {"embedding": embedding, "error": found.errors}

    def traced(function: Callable[..., Any], *inputs: tf.TensorSpec) -> Any:
        return tf.function(function, input_signature=inputs, autograph=False)

    pixels = (None, side, side, 3)
    return {
        "serving_default": traced(serving_default, _IMAGES),
        "predict_top": traced(predict_top, _IMAGES, tf.TensorSpec((), tf.int32, name="k")),
        "predict_images": traced(predict_images, tf.TensorSpec(pixels, tf.float32, name="images")),
        "predict_images_uint8": traced(
            predict_images_uint8, tf.TensorSpec(pixels, tf.uint8, name="images")
        ),
        CLASSIFY: traced(classify, tf.TensorSpec((None,), tf.string, name="inputs")),
        "embed": traced(embed, _IMAGES),
    }
