"""From encoded images to batches of pixels, repeatable whatever the number of threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from alexnet_keras.data.augmentation import Augmentation, CentreCrop
from alexnet_keras.data.decoding import decode_window
from alexnet_keras.data.examples import Examples

if TYPE_CHECKING:
    from alexnet_keras.data.views import View


def training_batches(
    examples: Examples,
    augmentation: Augmentation,
    *,
    image_size: int,
    batch_size: int,
    seed: int,
    first_epoch: int = 0,
) -> tf.data.Dataset:
    """Endless batches of augmented images and one-hot labels.

    Each epoch is a new order of all examples; the examples that fill no whole batch at its end
    wait for another epoch. Order and augmentation are keyed by seed, step and example.

    Args:
        image_size: side of the square views, in pixels; smaller photographs are scaled up.
        first_epoch: where to begin, so that a second phase of training goes on with new views.

    Yields:
        float32 (batch_size, image_size, image_size, 3) in 0..255 and float32 (batch_size, classes).
    """
    load = examples.loader()

    def view(step: tf.Tensor, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels = augmented_view(load(index), augmentation, image_size, view_seed(seed, step, index))
        return pixels, _one_hot(examples, index)

    steps = shuffled_steps(len(examples), batch_size, seed, first_epoch)
    batches = _mapped(steps, view).batch(min(batch_size, len(examples)), drop_remainder=True)
    return untuned(batches.prefetch(2))


def shuffled_steps(count: int, batch_size: int, seed: int, first_epoch: int = 0) -> tf.data.Dataset:
    """Endless pairs of int64 scalars: a step, and an example's index that belongs to it.

    Each epoch is a new order of all `count` indices, cut to whole batches.
    """
    batch_size = min(batch_size, count)
    steps = steps_per_epoch(count, batch_size)

    def epoch_order(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(
            tf.range(count, dtype=tf.int64), seed=tf.stack([tf.cast(seed, tf.int64), epoch])
        )[: steps * batch_size]
        step = epoch * steps + tf.range(steps * batch_size, dtype=tf.int64) // batch_size
        return tf.data.Dataset.from_tensor_slices((step, order))

    return tf.data.Dataset.range(first_epoch, 2**62).flat_map(epoch_order)


def fixed_views(
    asked: Sequence[tuple[Examples, View]],
    *,
    image_size: int,
    batch_size: int,
    choose: Callable[[int, np.ndarray], np.ndarray] | None = None,
) -> tf.data.Dataset:
    """One view of each of some examples, then another of the same or of others, and so on.

    All in one dataset, since each takes a second or two to begin.

    Args:
        asked: examples, and what is to be seen of each; the seed of a view comes from the image's
            bytes alone.
        choose: which examples of a part are to be seen after all, asked shortly before they are
            read: from the part's number in `asked` and int64 indices to some of these.

    Yields:
        float32 (batch, image_size, image_size, 3) in 0..255; string (batch,), SHA-256 of the bytes
        that each was decoded from; and int64 (batch,), the number in `asked` of each.
    """
    views = {repr(view): view for _, view in asked}  # what is said of it is all that a view is

    loads = {id(examples): examples.loader() for examples, _ in asked}  # each with its names

    def encoded(number: int) -> tf.data.Dataset:
        examples, _ = asked[number]
        load, indices = loads[id(examples)], tf.data.Dataset.range(len(examples))
        if choose is not None:
            chosen = partial(choose, number)

            def some_of(indices: tf.Tensor) -> tf.Tensor:
                found = tf.numpy_function(chosen, [indices], tf.int64, stateful=True)
                return tf.ensure_shape(found, [None])

            indices = indices.batch(batch_size).map(_plain(some_of)).unbatch()
        return _mapped(indices, lambda index: (load(index), tf.constant(number, tf.int64)))

    def view(encoded: tf.Tensor, number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        digest = tf.numpy_function(lambda read: sha256(read).digest(), [encoded], tf.string)
        seed = tf.io.decode_raw(tf.ensure_shape(digest, []), tf.int64)[0]
        which = tf.gather([list(views).index(repr(one)) for _, one in asked], number)
        pixels = tf.switch_case(
            which, [lambda one=one: one(encoded, seed, image_size) for one in views.values()]
        )
        return pixels, digest, number

    images = encoded(0)
    for number in range(1, len(asked)):
        images = images.concatenate(encoded(number))
    return untuned(_mapped(images, view).batch(batch_size).prefetch(2))


def evaluation_batches(
    examples: Examples,
    *,
    image_size: int,
    resize_ratio: float,
    keep_aspect: bool = True,
    batch_size: int,
) -> tf.data.Dataset:
    """The centre crop and one-hot label of each example, in order; the last batch may be short."""
    load = examples.loader()

    def view(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels = centre_view(load(index), image_size, resize_ratio, keep_aspect)
        return pixels, _one_hot(examples, index)

    views = _mapped(tf.data.Dataset.range(len(examples)), view)
    return untuned(views.batch(batch_size).prefetch(2))


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The same without tf.data's tuner: maps that are left to it run on all cores at once.

    The tuner sleeps between two looks, each time twice as long, and whoever has done with an
    iterator waits for it to wake up, now and then: after 5 s of training, or of a measurement, up
    to 5 s more (TensorFlow 2.21).
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def centre_view(
    encoded: tf.Tensor, image_size: int, resize_ratio: float, keep_aspect: bool = True
) -> tf.Tensor:
    """What evaluation and the exported model see of one encoded image.

    The shorter side (without `keep_aspect`, each side) is resized to `image_size * resize_ratio`
    and the centre taken: float32 [image_size, image_size, 3] in 0..255.
    """
    return decode_window(encoded, CentreCrop(resize_ratio, keep_aspect), image_size)


def ten_views(
    encoded: tf.Tensor, image_size: int, resize_ratio: float, keep_aspect: bool = True
) -> tf.Tensor:
    """The corners, the centre and their left-right mirrors: ten-crop evaluation (section 4.1).

    Returns:
        float32 [10, image_size, image_size, 3] in 0..255, of the central square that `centre_view`
        takes its centre from.
    """
    side = round(image_size * resize_ratio)
    square = decode_window(encoded, CentreCrop(1.0, keep_aspect), side)
    free = side - image_size
    places = [(0, 0), (0, free), (free, 0), (free, free), (free // 2, free // 2)]
    crops = tf.stack(
        [square[top : top + image_size, left : left + image_size] for top, left in places]
    )
    return tf.concat([crops, tf.reverse(crops, [2])], axis=0)


def augmented_view(
    encoded: tf.Tensor, augmentation: Augmentation, image_size: int, seed: tf.Tensor
) -> tf.Tensor:
    """What training sees of one encoded image under `seed` (int [2]); as `centre_view`."""
    crop_seed, flip_seed, color_seed = tf.unstack(tf.random.split(seed, 3))
    pixels = decode_window(encoded, lambda h, w: augmentation.crop(h, w, crop_seed), image_size)
    if augmentation.mirror:
        flip = tf.random.stateless_uniform([], flip_seed) < 0.5
        pixels = tf.cond(flip, lambda: tf.reverse(pixels, [1]), lambda: pixels)
    return augmentation.recolor(pixels, color_seed)


def view_seed(seed: int, step: tf.Tensor | int, index: tf.Tensor) -> tf.Tensor:
    """The stateless seed, int64 [2], of one example in one step of one run."""
    keyed = tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)])
    return tf.random.fold_in(keyed, tf.cast(index, tf.int64))


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Whole batches in one pass over `count` examples; at least one."""
    return max(count // batch_size, 1)


def _one_hot(examples: Examples, index: tf.Tensor) -> tf.Tensor:
    return tf.one_hot(tf.gather(examples.labels, index), len(examples.class_names))


def _mapped(dataset: tf.data.Dataset, function: Callable[..., Any]) -> tf.data.Dataset:
    """`function` of each element, some at a time, in order."""
    return dataset.map(_plain(function), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    # What it calls is written for graphs; AutoGraph would take seconds to find that out.
    return tf.autograph.experimental.do_not_convert(function)
