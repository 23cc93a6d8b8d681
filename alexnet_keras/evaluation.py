"""How good a classifier is: probabilities, top-k accuracy, confusion, mistakes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy import stats

from alexnet_keras.data import Examples, evaluation_batches
from alexnet_keras.weights import preprocessing_of

#: of a bootstrap; from seed to seed, an end of an interval then moves by a hundredth of its width
RESAMPLES = 5000
_NORMAL_95 = 1.959963984540054


@dataclass(frozen=True, eq=False)
class Answers:
    """What a classifier answered to each example, and what was true: arrays (examples,).

    Attributes:
        labels: the true classes, integers.
        predictions: the most probable classes, integers.
        confidence: the probabilities (0..1) of these.
        ranks: places of the true classes among all by probability, from 1. A true class as probable
            as another counts as behind it, so that a net that answers the same for all classes, or
            no numbers, gets no credit for it.
        classes: how many there are.
    """

    labels: np.ndarray
    predictions: np.ndarray
    confidence: np.ndarray
    ranks: np.ndarray
    classes: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def right(self) -> np.ndarray:
        """Whether each example's true class is the most probable one: bool (examples,)."""
        return self.ranks <= 1

    def top(self, k: int) -> float:
        """The share (0..1) of examples whose true class is among the `k` most probable."""
        return float((self.ranks <= k).mean())

    def balanced_accuracy(self) -> float:
        """The mean over classes of the share (0..1) of each one's examples that are right.

        Classes without examples do not count; NaN if there are none at all.
        """
        counts = np.bincount(self.labels, minlength=self.classes)
        right = np.bincount(self.labels[self.right], minlength=self.classes)
        seen = counts > 0
        return float((right[seen] / counts[seen]).mean()) if seen.any() else float("nan")

    def bootstrap_interval(self, seed: int = 0) -> tuple[float, float]:
        """The 95% interval of `top(1)` by bootstrap over the examples (percentiles, `RESAMPLES`).

        Returns:
            Both ends, within 0..1. They are the same where all answers are right or all are wrong,
            which says nothing of what other examples would bring; NaN for fewer than two examples.
        """
        return _bootstrapped_mean(self.right, seed)

    def confusion(self) -> np.ndarray:
        """Counts, int64 (classes, classes): rows are true classes, columns predicted ones."""
        pairs = self.labels.astype(np.int64) * self.classes + self.predictions
        return np.bincount(pairs, minlength=self.classes**2).reshape(self.classes, self.classes)

    def mistakes(self, most: int) -> np.ndarray:
        """Indices of wrongly classified examples, the most confident first."""
        wrong = np.flatnonzero(self.predictions != self.labels)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")][:most]

    def confused(self, most: int, at_least: int = 2) -> list[tuple[int, int]]:
        """The pairs of classes that are taken for each other most often, the lower class first.

        Args:
            most: how many pairs are returned, if there are so many.
            at_least: how many mistakes, both ways together, make a pair.
        """
        one_way = self.confusion()
        both_ways = np.triu(one_way + one_way.T, k=1)
        order = np.argsort(-both_ways, axis=None, kind="stable")[:most]
        pairs = np.column_stack(np.unravel_index(order, both_ways.shape)).tolist()
        return [(a, b) for a, b in pairs if both_ways[a, b] >= at_least]


class Evaluation(Answers):
    """Answers with all probabilities (examples, classes) that a classifier gave."""

    def __init__(self, probabilities: np.ndarray, labels: np.ndarray) -> None:
        true = np.take_along_axis(probabilities, labels[:, None], axis=1)
        super().__init__(
            labels=labels,
            predictions=probabilities.argmax(axis=1),
            confidence=probabilities.max(axis=1),
            ranks=(~(probabilities < true)).sum(axis=1),  # the last where there is no number
            classes=probabilities.shape[1],
        )
        object.__setattr__(self, "probabilities", probabilities)


def accuracy_difference(
    first: Answers, second: Answers, seed: int = 0
) -> tuple[float, float, float]:
    """How much more often `first` is right than `second`, on the same examples in the same order.

    What both answer alike does not widen the interval: each example counts as a pair of answers.

    Returns:
        The difference of the two `top(1)`, -1..1, and both ends of its 95% interval by paired
        bootstrap over the examples; NaN ends for fewer than two examples.

    Raises:
        ValueError: the true classes differ.
    """
    if not np.array_equal(first.labels, second.labels):
        raise ValueError(
            "Two nets are compared on the same examples in the same order; received "
            f"{len(first)} and {len(second)} answers, whose true classes differ."
        )
    gains = first.right.astype(float) - second.right
    return first.top(1) - second.top(1), *_bootstrapped_mean(gains, seed)


def wilson_interval(right: float, count: float) -> tuple[float, float]:
    """The 95% score interval of a share of which `right` of `count` were seen (Wilson 1927).

    Returns:
        Both ends, within 0..1; NaN for no observations or an unknown number of them.
    """
    if not count > 0 or math.isnan(right):
        return math.nan, math.nan
    share, square = right / count, _NORMAL_95**2
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = (
        _NORMAL_95
        * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
        / (1 + square / count)
    )
    return max(centre - half, 0.0), min(centre + half, 1.0)


def evaluate(
    model: keras.Model,
    examples: Examples,
    *,
    mirrored: bool = False,
    batch_size: int = 64,
    verbose: int = 0,
) -> Evaluation:
    """Runs a classifier over the centre crop of each example, as the exported model sees it.

    Args:
        mirrored: as in `answers`.
    """
    probabilities = predict(
        model, examples, mirrored=mirrored, batch_size=batch_size, verbose=verbose
    )
    return Evaluation(probabilities, examples.labels.astype(int))


def centre_batches(model: keras.Model, examples: Examples, batch_size: int) -> tf.data.Dataset:
    """The centre crop of each example with its one-hot label, as `model`'s preprocessing has it."""
    return evaluation_batches(
        examples,
        image_size=model.input_shape[1],
        **preprocessing_of(model).geometry,
        batch_size=batch_size,
    )


def answers(model: keras.Model, pixels: Any, mirrored: bool = False) -> Any:
    """A classifier's probabilities (batch, classes) for pixels (batch, height, width, channels).

    Args:
        mirrored: whether they are the mean over the pixels and their left-right mirror, which two
            looks make a little surer than one. It takes twice as long.
    """
    given = model(pixels, training=False)
    if not mirrored:
        return given
    return (given + model(keras.ops.flip(pixels, 2), training=False)) / 2


def predict(
    model: keras.Model,
    examples: Examples,
    *,
    mirrored: bool = False,
    batch_size: int = 64,
    verbose: int = 0,
) -> np.ndarray:
    """Probabilities, float64 (examples, classes), from the centre crop of each example.

    Args:
        model: a classifier from RGB pixels in 0..255, with its preprocessing.
        mirrored: as in `answers`.
    """
    # Keras gives a device without an image an empty batch, which the kernels refuse: the examples
    # are made up to a number that all devices share evenly, and the answers cut back.
    devices = model.distribute_strategy.num_replicas_in_sync
    count = -(-len(examples) // devices) * devices
    batches = centre_batches(
        model,
        examples.select(np.arange(count) % len(examples)) if count > len(examples) else examples,
        batch_size,
    )
    if mirrored:
        image = keras.Input(model.input_shape[1:])
        with model.distribute_strategy.scope():  # for the devices that the model is on
            model = keras.Model(image, answers(model, image, mirrored))
    probabilities = model.predict(batches.map(lambda images, _: images), verbose=verbose)
    return np.asarray(probabilities, dtype=np.float64)[: len(examples)]


def _bootstrapped_mean(values: np.ndarray, seed: int) -> tuple[float, float]:
    """The 95% percentile interval of a mean; NaN for fewer than two values."""
    if len(values) < 2:
        return float("nan"), float("nan")
    found = stats.bootstrap(
        (values.astype(float),),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, 2_000_000 // len(values)),  # 16 MB at a time
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)
