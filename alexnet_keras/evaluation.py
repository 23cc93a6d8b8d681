"""How good a classifier is: probabilities, top-k accuracy, confusion, mistakes."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np

from alexnet_keras.data import Examples, evaluation_batches
from alexnet_keras.weights import preprocessing_of


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Probabilities (examples, classes) that a classifier gave, and the true labels (examples,)."""

    probabilities: np.ndarray
    labels: np.ndarray

    @property
    def predictions(self) -> np.ndarray:
        """The most probable class of each example."""
        return self.probabilities.argmax(axis=1)

    def top(self, k: int) -> float:
        """The share (0..1) of examples whose true class is among the `k` most probable.

        A true class as probable as another counts as behind it, so that a net that answers the same
        for all classes gets no credit for it.
        """
        true = np.take_along_axis(self.probabilities, self.labels[:, None], axis=1)
        rank = (self.probabilities >= true).sum(axis=1)
        return float((rank <= k).mean())

    def confusion(self) -> np.ndarray:
        """Counts, int64 (classes, classes): rows are true classes, columns predicted ones."""
        classes = self.probabilities.shape[1]
        pairs = self.labels * classes + self.predictions
        return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    def mistakes(self, most: int) -> np.ndarray:
        """Indices of wrongly classified examples, the most confident first."""
        wrong = np.flatnonzero(self.predictions != self.labels)
        confidence = self.probabilities.max(axis=1)[wrong]
        return wrong[np.argsort(-confidence, kind="stable")][:most]


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
