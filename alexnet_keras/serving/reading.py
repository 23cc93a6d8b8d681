"""Requests to pixels, in the graph: one bad image is told of and does not fail its batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

from alexnet_keras.data.headers import (
    FORMATS,
    NOT_AN_IMAGE,
    UNKNOWN,
    image_format,
    is_jpeg,
    more_scans_than,
    require,
    stored_shape,
)

#: the longest side in pixels; JPEG's own limit
LONGEST_SIDE = 65_535
#: key of the image in a `tf.Example`, as in the TFRecords of TFDS and of TensorFlow's own recipes
EXAMPLE_KEY = "image/encoded"


@dataclass(frozen=True)
class Limits:
    """What the images of a request may cost. What is over is refused before it is decoded.

    Attributes:
        encoded_bytes: the most bytes of the encoded image.
        pixels: the most pixels, height times width. A pixel takes up to 18 bytes while it is
            decoded, depending on the format.
        scans: the most passes over a JPEG's pixels. Cameras and the web make 1 to 12.
        images: the most images of one request; those after them are refused.

    Raises:
        ValueError: one of them is less than 1.
    """

    encoded_bytes: int = 20 * 2**20
    pixels: int = 50_000_000
    scans: int = 100
    images: int = 256

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name}={value!r} is not at least 1.")


class Read(NamedTuple):
    """What was read of a batch of requests.

    Attributes:
        pixels: float32 (most, side, side, 3), RGB in 0..255, of the images that could be read, in
            order. Where none could, one image of zeros, so that a net always has one to see.
        places: int64 (most,), the place of each in the batch; of the image of zeros, the number of
            requests.
        errors: string (requests,), why an image could not be read; empty for those that could.
    """

    pixels: tf.Tensor
    places: tf.Tensor
    errors: tf.Tensor

    def spread(self, rows: tf.Tensor) -> tf.Tensor:
        """`rows` (most, values) of `pixels` as rows of the batch, zeros for what was not read."""
        count = tf.size(self.errors)
        shape = tf.stack([count + 1, tf.shape(rows)[1]])
        spread = tf.scatter_nd(tf.cast(self.places, tf.int32)[:, None], rows, shape)[:count]
        return tf.ensure_shape(spread, [None, rows.shape[1]])


def read_images(
    images: tf.Tensor, view: Callable[[tf.Tensor], tf.Tensor], side: int, limits: Limits
) -> Read:
    """Decodes a batch of encoded images.

    Args:
        images: string (requests,).
        view: from one encoded image to float32 (side, side, 3); what it raises is that image's.
    """

    def decoded(encoded: tf.Tensor) -> tf.Tensor:
        return view(require(_refusal(encoded, limits) == "", "refused", encoded))

    count = tf.size(images, out_type=tf.int64)
    within = tf.range(count) < limits.images
    images = tf.where(within, images, "")
    places, pixels = _those_that_work(images, decoded, tf.zeros((side, side, 3)))

    def why_not() -> tf.Tensor:
        refused = _spread(*_those_that_work(images, lambda one: _refusal(one, limits), ""), "")
        why = tf.where(refused == "", _damaged(images), refused)
        why = tf.where(within, why, f"more than {limits.images} images; send fewer at a time")
        return tf.where(_spread(places, tf.ones_like(places, tf.bool), False), "", why)

    read = tf.size(places, out_type=tf.int64) - 1  # the last is what was appended
    errors = tf.cond(read < count, why_not, lambda: tf.fill([count], ""))
    most = tf.maximum(read, 1)
    return Read(pixels[:most], places[:most], tf.ensure_shape(errors, [None]))


def read_examples(examples: tf.Tensor, read_images: Callable[[tf.Tensor], Read]) -> Read:
    """What `read_images` reads of the images in serialized `tf.Example`s (requests,).

    They are bytes, one each, under `EXAMPLE_KEY`.
    """

    places, images = _those_that_work(examples, _image_of_example, "")
    read = read_images(_spread(places, images, ""))
    parsed = _spread(places, tf.ones_like(places, tf.bool), False)
    return read._replace(
        errors=tf.where(parsed, read.errors, f"no tf.Example with one {EXAMPLE_KEY}")
    )


def _those_that_work(
    requests: tf.Tensor, function: Callable[[tf.Tensor], tf.Tensor], last: tf.Tensor | str
) -> tuple[tf.Tensor, tf.Tensor]:
    """`function` of each of the requests for which it does not raise, and their places.

    A dataset, because its `ignore_errors` is the one op that lives on after another has failed.

    Returns:
        int64 (most + 1,) and the values (most + 1, ...); the last place is the number of requests,
        and its value `last`.
    """
    count = tf.size(requests, out_type=tf.int64)
    options = tf.data.Options()
    # Each request makes a dataset of its own: what takes longer than it saves is left out.
    options.experimental_optimization.apply_default_optimizations = False
    options.experimental_warm_start = False
    options.autotune.enabled = False
    tried = (
        tf.data.Dataset.from_tensor_slices((tf.range(count), requests))
        .map(
            lambda place, request: (place, function(request)),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        .ignore_errors()
        .concatenate(tf.data.Dataset.from_tensors((count, last)))
        .batch(count + 1)
        .with_options(options)
    )
    return tried.get_single_element()


def _image_of_example(example: tf.Tensor) -> tf.Tensor:
    """The bytes under `EXAMPLE_KEY`; raises if there are none, or several.

    Not by `tf.io.parse_single_example`: in TensorFlow 2.21 a string whose length is damaged makes
    it write outside its memory. This one parses by protobuf itself.
    """

    def within(message: tf.Tensor, kind: str, *names: str) -> list[tf.Tensor]:
        strings = [tf.string] * len(names)
        return tf.io.decode_proto(message, f"tensorflow.{kind}", names, strings)[1]

    (features,) = within(example, "Example", "features")
    (entries,) = within(features, "Features", "feature")
    keys, values = within(tf.reshape(entries, [-1]), "Features.FeatureEntry", "key", "value")
    (lists,) = within(values[keys == EXAMPLE_KEY], "Feature", "bytes_list")
    (images,) = within(tf.reshape(lists, [-1]), "BytesList", "value")
    # What is missing comes as an empty string.
    images = require((tf.size(images) == 1) & tf.reduce_all(images != ""), "not one", images)
    return tf.reshape(images, [])


def _spread(places: tf.Tensor, values: tf.Tensor, other: str | bool) -> tf.Tensor:
    """What `_those_that_work` gives, of scalars, as one for each request: `other` for the rest."""
    filled = tf.fill([places[-1] + 1], other)
    return tf.tensor_scatter_nd_update(filled, places[:, None], values)[:-1]


def _refusal(encoded: tf.Tensor, limits: Limits) -> tf.Tensor:
    """Why an image is not even decoded; empty if it is. Raises where its header is damaged."""
    size = tf.cast(tf.strings.length(encoded), tf.int64)

    def said(*parts: str | tf.Tensor) -> tf.Tensor:
        return tf.strings.join(
            [p if isinstance(p, str) else tf.strings.as_string(p) for p in parts]
        )

    def by_content() -> tf.Tensor:
        height, width = tf.unstack(tf.cast(stored_shape(encoded), tf.int64))
        too_many_scans = tf.cond(
            is_jpeg(encoded), lambda: more_scans_than(encoded, limits.scans), lambda: False
        )
        return tf.case(
            [
                (
                    (height > LONGEST_SIDE)
                    | (width > LONGEST_SIDE)
                    | (height * width > limits.pixels),
                    lambda: said(
                        height, " x ", width, f" pixels; send at most {limits.pixels} of them"
                    ),
                ),
                (too_many_scans, lambda: f"JPEG of more than {limits.scans} scans; save it anew"),
            ],
            default=lambda: "",
        )

    return tf.case(
        [
            (size == 0, lambda: "no bytes"),
            (
                size > limits.encoded_bytes,
                lambda: said(size, f" bytes; send at most {limits.encoded_bytes}"),
            ),
            (image_format(encoded) == UNKNOWN, lambda: NOT_AN_IMAGE),
        ],
        default=by_content,
    )


def _damaged(requests: tf.Tensor) -> tf.Tensor:
    return tf.gather(
        [*(f"damaged {name}" for name in FORMATS), NOT_AN_IMAGE], image_format(requests)
    )
