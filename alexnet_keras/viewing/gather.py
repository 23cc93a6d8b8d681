"""From what a fine-tuning run has at hand to the plain data of its report."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from alexnet_keras.data import Augmentation, Examples, centre_view, fixed_views
from alexnet_keras.evaluation import Answers
from alexnet_keras.viewing.report import Mistake, Report
from alexnet_keras.viewing.summary import layer_table
from alexnet_keras.weights import preprocessing_of

MOST_MISTAKES = 24
TRAINING_VIEWS = 12


def gather_report(
    *,
    model: keras.Model,
    title: str,
    trained_in: dict[str, Iterable[str]],
    train: Examples,
    validation: Examples,
    augmentation: Augmentation,
    seed: int,
    result: Answers,
    history: list[dict[str, Any]],
    metrics: dict[str, Any],
    config: dict[str, Any],
    notes: list[str],
    stops_early: bool = True,
) -> Report:
    """The report of a run: its figures, its mistakes and some training views as pictures.

    Args:
        title: heading of the page.
        trained_in: names of the layers that each phase trains.
        augmentation, seed: those of the training views.
        train: where training views are shown from.
        validation, result: what the reported figures come from, and the answers to it.
        history: rows of `training.EpochLog`.
        metrics, config: contents of the run's files.
        notes: sentences to show near the top.
        stops_early: whether what was watched meanwhile decided when to stop.
    """
    return Report(
        title=title,
        metrics=metrics,
        notes=notes,
        class_names=list(train.class_names),
        confusion=result.confusion(),
        history=history,
        mistakes=_mistakes(model, validation, result),
        layers=layer_table(model, trained_in),
        config=config,
        stops_early=stops_early,
        examples=_training_views(model, train, augmentation, seed),
    )


def _mistakes(model: keras.Model, validation: Examples, result: Answers) -> list[Mistake]:
    names = validation.class_names
    geometry = preprocessing_of(model).geometry
    return [
        Mistake(
            image=_jpeg(centre_view(validation.read(i), model.input_shape[1], **geometry)),
            name=validation.keys[i],
            truth=names[result.labels[i]],
            predicted=names[result.predictions[i]],
            probability=float(result.confidence[i]),
        )
        for i in result.mistakes(MOST_MISTAKES)
    ]


def _training_views(
    model: keras.Model, train: Examples, augmentation: Augmentation, seed: int
) -> list[tuple[bytes, str]]:
    chosen = np.random.default_rng(seed).permutation(len(train))[:TRAINING_VIEWS]
    some = train.select(chosen)
    batches = fixed_views(
        some, augmentation, image_size=model.input_shape[1], batch_size=TRAINING_VIEWS, seed=seed
    )
    return [
        (_jpeg(pixels), some.class_names[label])
        for pixels, label in zip(tf.concat(list(batches), axis=0), some.labels, strict=True)
    ]


def _jpeg(pixels: tf.Tensor) -> bytes:
    levels = tf.cast(tf.round(tf.clip_by_value(pixels, 0, 255)), tf.uint8)
    return tf.io.encode_jpeg(levels, quality=85).numpy()
