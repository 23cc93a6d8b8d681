"""From what a fine-tuning run has at hand to the plain data of its report."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from alexnet_keras.data import Augmentation, Examples, RandomView, centre_view, fixed_views
from alexnet_keras.evaluation import Answers, accuracy_difference
from alexnet_keras.training import RateSearch
from alexnet_keras.transfer import FromScratch
from alexnet_keras.viewing.comparison import Comparison, TrainedNet
from alexnet_keras.viewing.report import ConfusedClasses, Mistake, Report
from alexnet_keras.viewing.summary import layer_table
from alexnet_keras.weights import preprocessing_of

MOST_MISTAKES = 24
TRAINING_VIEWS = 12
#: pairs of classes that are shown side by side
MOST_CONFUSED = 6
#: photographs in each of a pair's three rows
PAIR_ROW = 4
#: pixels; these are shown small, and there are up to 72 of them
PAIR_SIDE = 160


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
    comparison: Comparison | None = None,
    rate_searches: Sequence[RateSearch] = (),
) -> Report:
    """The report of a run: its figures, and as pictures its mistakes and some training views.

    Args:
        title: heading of the page.
        trained_in: names of the layers that each phase trains.
        augmentation, seed: those of the training views.
        train: where training views and photographs of confused classes are shown from.
        validation, result: what the reported figures come from, and the answers to it.
        history: rows of `training.EpochLog`.
        metrics, config: contents of the run's files.
        notes: sentences to show near the top.
        stops_early: whether what was watched meanwhile decided when to stop.
        comparison: the net beside one from random weights, if one was trained.
        rate_searches: how learning rates were found, where they were searched for.
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
        confused=confused_classes(model, train, validation, result, seed),
        comparison=comparison,
        rate_searches=rate_searches,
    )


def compare_with_scratch(
    weights: str,
    history: list[dict[str, Any]],
    result: Answers,
    seconds: float,
    scratch: FromScratch,
) -> tuple[Comparison, str]:
    """What pretrained weights are worth: a figure's data, and a sentence.

    Args:
        weights: what they are called.
        history, result, seconds: epochs of the net that has them, its answers to the validation
            part and the time that it was trained for.
        scratch: the same from random weights.
    """
    taken = sum(row["seconds"] for row in scratch.history)
    comparison = Comparison(
        TrainedNet(f"weights {weights}", history, result.top(1), int(result.right.sum()), seconds),
        TrainedNet(
            "random weights",
            scratch.history,
            scratch.plateau.top(1),
            int(scratch.plateau.right.sum()),
            taken,
        ),
        *accuracy_difference(result, scratch.plateau),
    )
    difference, low, high = accuracy_difference(result, scratch.same_time)
    sentence = (
        f"Random weights come to {scratch.same_time.top(1):.1%} in the same {seconds:.0f} s: the "
        f"pretrained ones are worth {100 * difference:.1f} points there (95% interval "
        f"{100 * low:.1f} to {100 * high:.1f}); and to {scratch.plateau.top(1):.1%} at their own "
        f"plateau, after {taken:.0f} s: {100 * comparison.difference:.1f} points "
        f"({100 * comparison.low:.1f} to {100 * comparison.high:.1f})."
    )
    return comparison, sentence


def confused_classes(
    model: keras.Model, train: Examples, validation: Examples, result: Answers, seed: int
) -> list[ConfusedClasses]:
    """The classes most often taken for each other, in pictures.

    Args:
        model: what the thumbnails are cropped for.
        train, seed: some photographs of each class are drawn from `train`; unreadable ones are
            passed over.
        validation, result: what was answered to which photographs.
    """
    names = train.class_names
    counts = result.confusion()
    wrong = result.mistakes(len(result))
    truth, predicted = result.labels[wrong], result.predictions[wrong]
    side = min(PAIR_SIDE, model.input_shape[1])
    generator = np.random.default_rng(seed)
    pairs = []
    for first, second in result.confused(MOST_CONFUSED):
        either = (truth == first) & (predicted == second) | (truth == second) & (predicted == first)
        pairs.append(
            ConfusedClasses(
                first=names[first],
                second=names[second],
                first_taken=int(counts[first, second]),
                second_taken=int(counts[second, first]),
                mistakes=_as_mistakes(model, validation, result, wrong[either][:PAIR_ROW], side),
                first_trained=_some_of_class(model, train, first, side, generator),
                second_trained=_some_of_class(model, train, second, side, generator),
            )
        )
    return pairs


def _mistakes(model: keras.Model, validation: Examples, result: Answers) -> list[Mistake]:
    chosen = result.mistakes(MOST_MISTAKES)
    return _as_mistakes(model, validation, result, chosen, model.input_shape[1])


def _as_mistakes(
    model: keras.Model,
    validation: Examples,
    result: Answers,
    chosen: Sequence[int] | np.ndarray,
    side: int,
) -> list[Mistake]:
    names = validation.class_names
    return [
        Mistake(
            image=_thumbnail(model, validation.read(i), side),
            name=validation.keys[i],
            truth=names[result.labels[i]],
            predicted=names[result.predictions[i]],
            probability=float(result.confidence[i]),
        )
        for i in chosen
    ]


def _some_of_class(
    model: keras.Model, train: Examples, label: int, side: int, generator: np.random.Generator
) -> list[bytes]:
    """Up to `PAIR_ROW` photographs of one class, chosen at random, as thumbnails."""
    shown: list[bytes] = []
    for i in generator.permutation(np.flatnonzero(train.labels == label)):
        if len(shown) == PAIR_ROW:
            break
        # Training from scratch does not screen its photographs, but passes over unreadable ones.
        with contextlib.suppress(OSError, tf.errors.InvalidArgumentError):
            shown.append(_thumbnail(model, train.read(i), side))
    return shown


def _thumbnail(model: keras.Model, encoded: bytes, side: int) -> bytes:
    """What the net sees of a photograph, as a JPEG of `side` pixels."""
    return _jpeg(centre_view(encoded, side, **preprocessing_of(model).geometry))


def _training_views(
    model: keras.Model, train: Examples, augmentation: Augmentation, seed: int
) -> list[tuple[bytes, str]]:
    chosen = np.random.default_rng(seed).permutation(len(train))[:TRAINING_VIEWS]
    some = train.select(chosen)
    views = fixed_views(
        [(some, RandomView(augmentation, seed))],
        image_size=model.input_shape[1],
        batch_size=1,
    )
    return [
        (_jpeg(pixels[0]), some.class_names[label])
        for (pixels, _, _), label in zip(views, some.labels, strict=True)
    ]


def _jpeg(pixels: tf.Tensor) -> bytes:
    levels = tf.cast(tf.round(tf.clip_by_value(pixels, 0, 255)), tf.uint8)
    return tf.io.encode_jpeg(levels, quality=85).numpy()
