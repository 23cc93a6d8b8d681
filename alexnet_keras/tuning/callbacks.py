"""What watches the epochs and steps of a trial."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras

#: steps after which it is reckoned how long all of them will take
PACED = 4


class TooSlow(Exception):
    """Convolutions would take longer than they may."""


class Pace(keras.callbacks.Callback):
    """Looks how long training takes, and whether that will do, until half of it is done.

    Args:
        allowed: seconds.
        steps: that there will be.
        interrupt: called at each look.
    """

    def __init__(self, allowed: float, steps: int, interrupt: Callable[[], None]) -> None:
        super().__init__()
        self._allowed, self._steps, self._interrupt = allowed, steps, interrupt
        self._began = time.monotonic()
        self._ends: list[float] = []

    def check(self) -> None:
        """
        Raises:
            TooSlow: it has taken too long.
        """
        self._interrupt()
        self._check(time.monotonic() - self._began)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """
        Raises:
            TooSlow: it will take too long.
        """
        now, first = time.monotonic(), PACED // 2  # the first steps wait for graphs
        self._ends.append(now)
        if len(self._ends) > PACED:
            of_each = (now - self._ends[first]) / (len(self._ends) - 1 - first)
            self._check(now - self._began + of_each * (self._steps - len(self._ends)))

    def _check(self, seconds: float) -> None:
        if seconds > self._allowed and len(self._ends) < self._steps / 2:
            raise TooSlow


class OfWhole(keras.callbacks.Callback):
    """Tells a callback of epochs, counted over all phases, as if the classifier were trained."""

    def __init__(self, callback: keras.callbacks.Callback, model: keras.Model) -> None:
        super().__init__()
        self._callback, self._epochs = callback, 0
        callback.set_model(model)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._callback.on_epoch_begin(self._epochs, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._callback.on_epoch_end(self._epochs, logs)
        self._epochs += 1
