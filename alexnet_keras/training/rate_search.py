"""The learning-rate range test: which rate a phase can begin with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from alexnet_keras.training.optimizers import layerwise

LEAST_RATE, MOST_RATE = 1e-5, 1.0
STEPS = 100
#: of the losses' moving average
SMOOTHING = 0.9
#: the test ends where the smoothed loss is so many times its least
DIVERGED = 2.0
#: what is chosen, as a share of the rate with the least loss: there it is about to rise
SHARE = 0.1


@dataclass(frozen=True, eq=False)
class RateSearch:
    """What a range test saw: one batch after the other, each with a larger rate.

    Attributes:
        phase: the phase that the rate is for.
        rates, losses, smoothed: one value a step: the largest rate of any layer, the loss of the
            step's batch, and the moving average of losses.
        chosen: the largest rate that the phase gets; NaN for none.

    Raises:
        ValueError: rates, losses and smoothed losses differ in number.
    """

    phase: str
    rates: Sequence[float]
    losses: Sequence[float]
    smoothed: Sequence[float]
    chosen: float

    def __post_init__(self) -> None:
        lengths = len(self.rates), len(self.losses), len(self.smoothed)
        if len(set(lengths)) > 1:
            raise ValueError(
                "A rate search has a loss and a smoothed loss for each rate; received "
                f"{lengths[0]} rates, {lengths[1]} losses and {lengths[2]} smoothed losses."
            )


def search_rate(
    model: keras.Model,
    batches: tf.data.Dataset,
    *,
    phase: str,
    optimizer: str,
    rates: Mapping[str, float],
    loss: keras.losses.Loss,
    steps: int = STEPS,
) -> RateSearch:
    """Trains for `steps` steps at rates that grow from 1e-5 to 1, and leaves the weights as before.

    The rate with the least smoothed loss is where training begins to fail; a tenth of it is chosen
    (the range test of Smith 2017, arXiv:1506.01186). `model` is left compiled for the test.

    Args:
        batches: endless, of inputs and targets.
        phase: its name, for the result.
        optimizer: a key of `training.optimizers.OPTIMIZERS`.
        rates: rates of the trainable layers, by name; their ratios are kept.
    """
    before = model.get_weights()
    sweep = _Sweep(LEAST_RATE, MOST_RATE, steps)
    most = max(rates.values())
    shares = {name: rate / most for name, rate in rates.items()}
    model.compile(layerwise(optimizer, model, shares), loss)
    model.fit(batches, epochs=1, steps_per_epoch=steps, shuffle=False, callbacks=[sweep], verbose=0)
    model.set_weights(before)
    tried = sweep.rates[: len(sweep.losses)]
    smoothed = smooth(sweep.losses)
    return RateSearch(phase, tried, sweep.losses, smoothed, choose(tried, smoothed))


def smooth(losses: Sequence[float]) -> list[float]:
    """The exponential moving average of losses, without the bias of its beginning."""
    average, smoothed = 0.0, []
    for count, value in enumerate(losses, start=1):
        average = SMOOTHING * average + (1 - SMOOTHING) * value
        smoothed.append(average / (1 - SMOOTHING**count))
    return smoothed


def choose(rates: Sequence[float], smoothed: Sequence[float]) -> float:
    """A tenth of the rate with the least smoothed loss, rounded to two digits."""
    return float(f"{SHARE * rates[int(np.nanargmin(smoothed))]:.1e}")


class _Sweep(keras.callbacks.Callback):
    """Sets the rate of each step, and notes its loss until training fails."""

    def __init__(self, least: float, most: float, steps: int) -> None:
        super().__init__()
        self.rates = np.geomspace(least, most, steps).tolist()
        self.losses: list[float] = []
        self._shares: list[float] = []
        self._sum = 0.0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._parts = getattr(self.model.optimizer, "optimizers", [self.model.optimizer])
        self._shares = [float(np.asarray(part.learning_rate)) for part in self._parts]

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        for part, share in zip(self._parts, self._shares, strict=True):
            part.learning_rate = share * self.rates[batch]

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        # Keras tells the mean of all losses so far.
        total = (logs or {}).get("loss", math.nan) * (batch + 1)
        value, self._sum = total - self._sum, total
        if not math.isfinite(value):
            self.model.stop_training = True
            return
        self.losses.append(value)
        smoothed = smooth(self.losses)
        if smoothed[-1] > DIVERGED * min(smoothed):
            self.model.stop_training = True
