"""Batches as a function of the step: what training from scratch reads, on one process or many.

Nothing here has a state. The batches of a run can begin at any step, and a process that reads only
some rows of each batch reads the same ones as if it read them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from alexnet_keras.data.augmentation import Augmentation
from alexnet_keras.data.examples import Examples
from alexnet_keras.data.mixing import GROUP, Mixing
from alexnet_keras.data.pipeline import augmented_view, view_seed
from alexnet_keras.errors import UserError

#: what a stream yields: `images` float32 (rows, ...) in 0..255; `labels` float32 (rows, classes),
#: mixed where examples are; `truths` int32 (rows,), the example's own class; `weights` float32
#: (rows,), 0 for an example that fills up a batch or cannot be read, else 1; `rows` int32 (rows,),
#: the place in the global batch; `examples` int64 (rows,); `unreadable` bool (rows,)
Batch = dict[str, tf.Tensor]


@dataclass(frozen=True)
class Share:
    """The rows of each global batch that one process reads, cut into its replicas' batches.

    Attributes:
        batch_size: rows of the global batch.
        processes, process: how many processes share a batch, and which one this is, from 0.
        replicas: replicas of all processes together, which share a batch evenly.
    """

    batch_size: int
    processes: int = 1
    process: int = 0
    replicas: int = 1

    @property
    def rows(self) -> slice:
        count = self.batch_size // self.processes
        return slice(self.process * count, (self.process + 1) * count)

    @property
    def replica_batch(self) -> int:
        return self.batch_size // self.replicas

    @classmethod
    def of(cls, context: tf.distribute.InputContext, batch_size: int) -> Share:
        """The share of one call of `tf.distribute.Strategy.distribute_datasets_from_function`."""
        return cls(
            batch_size,
            context.num_input_pipelines,
            context.input_pipeline_id,
            context.num_replicas_in_sync,
        )


def steps_in_epoch(count: int, batch_size: int) -> int:
    """Steps in which `count` examples are seen once; the last may be filled up."""
    return -(-count // batch_size)


def training_stream(
    examples: Examples,
    augmentation: Augmentation,
    *,
    image_size: int,
    share: Share,
    seed: int,
    first_step: int = 0,
    color_until: int | None = None,
    mixing: Mixing | None = None,
) -> tf.data.Dataset:
    """Endless batches of augmented images, each epoch all examples once in a new order.

    Order, augmentation and mixtures are keyed by seed, step and example. The last batch of an epoch
    is filled up with examples of weight 0.

    Args:
        image_size: side of the square views in pixels.
        share: which rows of each batch to read.
        first_step: the step to begin with.
        color_until: the step from which on colours are left as they are; `None`: never.
        mixing: mixtures of two examples; `None` for none.

    Yields:
        A `Batch` of `share.replica_batch` rows for each replica of this process in turn.

    Raises:
        UserError: mixtures, and a share that is not made up of whole groups.
    """
    if mixing is not None and mixing.is_on and share.replica_batch % GROUP:
        raise UserError(
            f"Mixtures are made within groups of {GROUP} examples; a batch of {share.batch_size} "
            f"shared by {share.replicas} devices gives each {share.replica_batch}. Give a "
            f"--batch-size that {GROUP * share.replicas} divides."
        )
    steps = steps_in_epoch(len(examples), share.batch_size)

    def order(epoch: tf.Tensor) -> tf.Tensor:
        key = tf.stack([tf.cast(seed, tf.int64), epoch])
        return tf.random.experimental.stateless_shuffle(
            tf.range(len(examples), dtype=tf.int64), seed=key
        )

    def view(encoded: tf.Tensor, step: tf.Tensor, example: tf.Tensor) -> tf.Tensor:
        def recolor(pixels: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
            if color_until is None:
                return augmentation.recolor(pixels, key)
            return tf.cond(
                step < color_until, lambda: augmentation.recolor(pixels, key), lambda: pixels
            )

        until = Augmentation(augmentation.crop, recolor)
        return augmented_view(encoded, until, image_size, view_seed(seed, step, example))

    rows = _rows(examples, order, share, first_step // steps, None, first_step % steps)
    loaded = _loaded(rows, examples, view, [image_size, image_size, 3])
    if mixing is None or not mixing.is_on:
        return _batched(loaded, share)
    mixer = mixing.mixer()

    def mixed(batch: Batch) -> Batch:
        step, row = batch["step"][0], batch["rows"][0]
        key = tf.stack([tf.cast(seed, tf.int64) + 1, step])
        images, labels = mixer(
            batch["images"],
            batch["labels"],
            batch["readable"],
            tf.random.fold_in(key, tf.cast(row, tf.int64)),
        )
        return {**batch, "images": images, "labels": labels}

    groups = loaded.map(mixed, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return _finished(groups.rebatch(share.replica_batch, drop_remainder=True))


def evaluation_stream(
    examples: Examples,
    view: Callable[[tf.Tensor], tf.Tensor],
    shape: tuple[int, ...],
    *,
    share: Share,
    first_step: int = 0,
) -> tf.data.Dataset:
    """One pass over all examples in order; the last batch is filled up with weight 0.

    Args:
        view: an encoded image to pixels of `shape`, such as `centre_view` or `ten_views`.
        share, first_step: as in `training_stream`.

    Yields:
        As `training_stream`, unmixed.
    """

    def order(_: tf.Tensor) -> tf.Tensor:
        return tf.range(len(examples), dtype=tf.int64)

    rows = _rows(examples, order, share, 0, 1, first_step)
    return _batched(_loaded(rows, examples, lambda encoded, *_: view(encoded), shape), share)


def examples_of_step(count: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Which of `count` examples step `step` of `training_stream` trains on, int64, in order."""
    steps = steps_in_epoch(count, batch_size)
    epoch, within = divmod(step, steps)
    with tf.device("CPU"):
        order = tf.random.experimental.stateless_shuffle(
            tf.range(count, dtype=tf.int64), seed=tf.constant([seed, epoch], tf.int64)
        )
    return order.numpy()[within * batch_size : (within + 1) * batch_size]


def _rows(
    examples: Examples,
    order: Callable[[tf.Tensor], tf.Tensor],
    share: Share,
    first_epoch: int,
    epochs: int | None,
    skipped_steps: int,
) -> tf.data.Dataset:
    """Step, place in the batch, example and weight of each row of the share."""
    count, batch_size = len(examples), share.batch_size
    steps = steps_in_epoch(count, batch_size)

    def epoch_rows(epoch: tf.Tensor) -> tf.data.Dataset:
        places = tf.range(steps * batch_size, dtype=tf.int64)
        # Filled up with the first of the same order: real photographs, for batch normalization.
        chosen = tf.gather(order(epoch), places % count)
        columns = (
            epoch * steps + places // batch_size,
            tf.cast(places % batch_size, tf.int32),
            chosen,
            tf.cast(places < count, tf.float32),
        )

        def of_share(column: tf.Tensor) -> tf.Tensor:
            skipped = tf.where(epoch == first_epoch, tf.cast(skipped_steps, tf.int64), 0)
            return tf.reshape(tf.reshape(column, [steps, batch_size])[skipped:, share.rows], [-1])

        return tf.data.Dataset.from_tensor_slices(tuple(map(of_share, columns)))

    last = 2**62 if epochs is None else first_epoch + epochs
    return tf.data.Dataset.range(first_epoch, last).flat_map(epoch_rows)


def _loaded(
    rows: tf.data.Dataset,
    examples: Examples,
    view: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor],
    shape: tuple[int, ...] | list[int],
) -> tf.data.Dataset:
    """The rows with their pixels, by groups; what cannot be read becomes black, of weight 0."""
    load = examples.loader()
    classes = len(examples.class_names)
    labels = tf.constant(examples.labels, tf.int32)

    def pixels(
        number: tf.Tensor, step: tf.Tensor, example: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        return number, tf.ensure_shape(view(load(example), step, example), shape)

    def group(step: tf.Tensor, place: tf.Tensor, example: tf.Tensor, weight: tf.Tensor) -> Batch:
        # A data set inside, because errors can be caught nowhere else in a graph; of a few
        # examples, because making one takes as long as a small photograph.
        count = tf.shape(example, tf.int64)[0]
        each = tf.data.Dataset.from_tensor_slices((tf.range(count), step, example)).map(pixels)
        black = tf.data.Dataset.from_tensors((count, tf.zeros(shape)))
        tried = each.ignore_errors().concatenate(black).batch(GROUP + 1)
        numbers, images = tried.get_single_element()
        # Where each example's pixels are among those that came; at the end, the black ones.
        last = tf.shape(numbers)[0] - 1
        found = tf.tensor_scatter_nd_update(
            tf.fill([count + 1], last), numbers[:, tf.newaxis], tf.range(last + 1)
        )[:-1]
        unreadable = found == last
        truth = tf.gather(labels, example)
        return {
            "images": tf.gather(images, found),
            "labels": tf.one_hot(truth, classes),
            "truths": truth,
            "weights": tf.where(unreadable, 0.0, weight),
            "rows": place,
            "examples": example,
            # A row that only fills up is no news.
            "unreadable": unreadable & (weight > 0),
            "readable": ~unreadable,
            "step": step,
        }

    return rows.batch(GROUP).map(group, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _batched(loaded: tf.data.Dataset, share: Share) -> tf.data.Dataset:
    return _finished(loaded.rebatch(share.replica_batch, drop_remainder=True))


def _finished(batches: tf.data.Dataset) -> tf.data.Dataset:
    """The batches without what only mixtures need to know."""

    def without(batch: Batch) -> Batch:
        return {name: value for name, value in batch.items() if name not in ("step", "readable")}

    return batches.map(without).prefetch(2)
