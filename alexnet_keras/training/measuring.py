"""A pass of a classifier over examples that can be interrupted after each batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from alexnet_keras.data import Examples, centre_view
from alexnet_keras.data.pipeline import ten_views
from alexnet_keras.data.stream import Batch, Share, evaluation_stream, steps_in_epoch
from alexnet_keras.evaluation import Answers
from alexnet_keras.training.step import rank_of_truth
from alexnet_keras.weights import preprocessing_of

#: what is found out about each example, and how it is kept
COLUMNS = {
    "predictions": np.int32,
    "confidence": np.float32,
    "ranks": np.int32,
    "losses": np.float32,
    "readable": np.bool_,
}


class Measurement:
    """The answers of `model` to `examples`, in constant memory, on all replicas of a strategy.

    Photographs are resized and cropped as the preprocessing of the model says, which also governs
    training: they cannot drift apart.

    Args:
        model: a classifier from pixels in 0..255 to probabilities, with its preprocessing.
        batch_size: images a step over all replicas, which share it evenly.
        ten_crop: average the probabilities over ten crops (paper, section 4.1) instead of taking
            the centre crop.

    Attributes:
        columns: arrays (examples,), the keys and dtypes of `COLUMNS`, filled so far.
        done: batches that are in them.
        steps: batches in all.
    """

    def __init__(
        self,
        model: keras.Model,
        examples: Examples,
        strategy: tf.distribute.Strategy,
        *,
        batch_size: int,
        ten_crop: bool = False,
    ) -> None:
        self._model, self._examples, self._strategy = model, examples, strategy
        replicas = strategy.num_replicas_in_sync
        if ten_crop:
            batch_size = max(batch_size // 10 // replicas, 1) * replicas
        self._batch_size, self._ten_crop = batch_size, ten_crop
        self.steps = steps_in_epoch(len(examples), batch_size)
        self._compiled = tf.function(self._step, autograph=False)
        self.restart()

    def restart(self) -> None:
        """Forgets all answers."""
        self.done = 0
        self.columns = {
            name: np.zeros(len(self._examples), dtype) for name, dtype in COLUMNS.items()
        }

    def run(self, stop: Callable[[], bool] = lambda: False) -> Iterator[tuple[int, bool]]:
        """Measures batch after batch, from `done` on.

        Args:
            stop: whether this process was asked to stop.

        Yields:
            After each batch how many are done, and whether any process was asked to stop.
        """
        batches = self._batches_from(self.done) if self.done else self._whole_pass
        for batch, _ in zip(batches, range(self.done, self.steps), strict=False):
            # A number, since machines cannot gather booleans.
            given = self._compiled(batch, tf.constant([int(stop())]))
            found = {name: value.numpy() for name, value in given.items()}
            # Rows of weight 0 fill up the last batch, or could not be read.
            seen = found["weights"] > 0
            places = found["examples"][seen]
            for name in ("predictions", "confidence", "ranks", "losses"):
                self.columns[name][places] = found[name][seen]
            self.columns["readable"][places] = True
            self.done += 1
            yield self.done, bool(found["stop"].any())

    @property
    def answers(self) -> Answers:
        """The answers to the examples that can be read; complete when all steps are done."""
        readable = self.columns["readable"]
        return Answers(
            labels=self._examples.labels[readable],
            predictions=self.columns["predictions"][readable],
            confidence=self.columns["confidence"][readable],
            ranks=self.columns["ranks"][readable],
            classes=len(self._examples.class_names),
        )

    @property
    def readable(self) -> np.ndarray:
        """Indices of the examples behind `answers`."""
        return np.flatnonzero(self.columns["readable"])

    @property
    def unreadable(self) -> int:
        """How many of the examples measured cannot be read; right when all steps are done."""
        return len(self._examples) - len(self.readable)

    @property
    def loss(self) -> float:
        """Mean cross-entropy over the examples that can be read; NaN where there are none."""
        losses = self.columns["losses"][self.columns["readable"]]
        return float(losses.astype(np.float64).mean()) if len(losses) else float("nan")

    @functools.cached_property
    def _whole_pass(self) -> Any:
        """Kept, since making it takes seconds and it may be wanted after each epoch."""
        return self._batches_from(0)

    def _batches_from(self, first_step: int) -> Any:
        side = self._model.input_shape[1]
        geometry = preprocessing_of(self._model).geometry
        view = ten_views if self._ten_crop else centre_view
        shape = (side, side, 3)

        def stream(context: tf.distribute.InputContext) -> tf.data.Dataset:
            return evaluation_stream(
                self._examples,
                lambda encoded: view(encoded, side, **geometry),
                (10, *shape) if self._ten_crop else shape,
                share=Share.of(context, self._batch_size),
                first_step=first_step,
            )

        return self._strategy.distribute_datasets_from_function(stream)

    def _step(self, batch: Any, stop: tf.Tensor) -> dict[str, tf.Tensor]:
        found = self._strategy.run(self._on_replica, (batch, stop))
        return {name: self._strategy.gather(value, axis=0) for name, value in found.items()}

    def _on_replica(self, batch: Batch, stop: tf.Tensor) -> dict[str, tf.Tensor]:
        images = batch["images"]
        if self._ten_crop:
            views = tf.reshape(images, [-1, *images.shape[2:]])
            probabilities = self._model(views, training=False)
            probabilities = tf.reduce_mean(
                tf.reshape(probabilities, [-1, 10, probabilities.shape[-1]]), axis=1
            )
        else:
            probabilities = self._model(images, training=False)
        return {
            "examples": batch["examples"],
            "weights": batch["weights"],
            "predictions": tf.argmax(probabilities, axis=1, output_type=tf.int32),
            "confidence": tf.reduce_max(probabilities, axis=1),
            "ranks": rank_of_truth(probabilities, batch["truths"]),
            "stop": tf.identity(stop),
            "losses": keras.losses.categorical_crossentropy(batch["labels"], probabilities),
        }
