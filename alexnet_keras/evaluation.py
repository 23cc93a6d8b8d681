"""How good a classifier is: probabilities, top-k accuracy, confusion, mistakes."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np

from alexnet_keras.data import Examples, evaluation_batches
from alexnet_keras.weights import preprocessing_of


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

    def top(self, k: int) -> float:
        """The share (0..1) of examples whose true class is among the `k` most probable."""
        return float((self.ranks <= k).mean())

    def confusion(self) -> np.ndarray:
        """Counts, int64 (classes, classes): rows are true classes, columns predicted ones."""
        pairs = self.labels.astype(np.int64) * self.classes + self.predictions
        return np.bincount(pairs, minlength=self.classes**2).reshape(self.classes, self.classes)

    def mistakes(self, most: int) -> np.ndarray:
        """Indices of wrongly classified examples, the most confident first."""
        wrong = np.flatnonzero(self.predictions != self.labels)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")][:most]


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


def evaluate(
    model: keras.Model, examples: Examples, *, batch_size: int = 64, verbose: int = 0
) -> Evaluation:
    """Runs a classifier over the centre crop of each example, as the exported model sees it."""
    probabilities = predict(model, examples, batch_size=batch_size, verbose=verbose)
    return Evaluation(probabilities, examples.labels.astype(int))


def predict(
    model: keras.Model, examples: Examples, *, batch_size: int = 64, verbose: int = 0
) -> np.ndarray:
    """Probabilities, float64 (examples, classes), from the centre crop of each example.

    Args:
        model: a classifier from RGB pixels in 0..255, with its preprocessing.
    """
    # Keras gives a device without an image an empty batch, which the kernels refuse: the examples
    # are made up to a number that all devices share evenly, and the answers cut back.
    devices = model.distribute_strategy.num_replicas_in_sync
    count = -(-len(examples) // devices) * devices
    batches = evaluation_batches(
        examples.select(np.arange(count) % len(examples)) if count > len(examples) else examples,
        image_size=model.input_shape[1],
        **preprocessing_of(model).geometry,
        batch_size=batch_size,
    )
    probabilities = model.predict(batches.map(lambda images, _: images), verbose=verbose)
    return np.asarray(probabilities, dtype=np.float64)[: len(examples)]
