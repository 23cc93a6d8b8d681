"""What is watched while a net trains."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from alexnet_keras.errors import UserError
from alexnet_keras.training.history import History

COLUMNS = (
    "phase",
    "epoch",
    "loss",
    "accuracy",
    "stop_loss",
    "stop_accuracy",
    "learning_rate",
    "seconds",
)


class EpochLog(keras.callbacks.Callback):
    """One row an epoch over all phases of a run: in `rows`, in `history.csv` and in TensorBoard.

    `learning_rate` is the largest of the phase, at the beginning of its epoch. `seconds` of the
    first epoch of a phase hold what came before it too, such as one run of the frozen layers.
    """

    def __init__(self, csv_path: Path, tensorboard_dir: Path) -> None:
        super().__init__()
        self._history = History(COLUMNS, csv_path, tensorboard_dir)
        self._phase = ""
        self._learning_rate = math.nan
        self._began = 0.0

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The epochs so far."""
        return self._history.rows

    def begin_phase(self, name: str) -> None:
        """Names the phase that the next `fit` belongs to."""
        self._phase = name
        self._began = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if epoch > 0:
            self._began = time.monotonic()
        self._learning_rate = _largest_rate(self.model.optimizer)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        self._history.add(
            {
                "phase": self._phase,
                "epoch": len(self.rows) + 1,
                "loss": logs.get("loss", math.nan),
                "accuracy": logs.get("accuracy", math.nan),
                "stop_loss": logs.get("val_loss", math.nan),
                "stop_accuracy": logs.get("val_accuracy", math.nan),
                "learning_rate": self._learning_rate,
                "seconds": round(time.monotonic() - self._began, 3),
            }
        )


class KeepBest(keras.callbacks.Callback):
    """Keeps the weights with the lowest loss on the early-stopping part, over all phases of a run.

    Training of a phase stops when a share `patience` (0..1) of its epochs have brought no new best
    one of the phase in a row: at its largest rates a phase is often worse than the one before, and
    better at its end. `restore` puts the best weights back. Models of several phases share the
    weights of `model`.
    """

    def __init__(self, model: keras.Model, patience: float) -> None:
        super().__init__()
        self.best = math.inf
        self.best_epoch: int | None = None
        self._whole = model
        self._patience = patience
        self._weights: list[np.ndarray] | None = None
        self._waited, self._best_of_phase = 0, math.inf
        self._epochs = 0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._waited, self._best_of_phase = 0, math.inf

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epochs += 1
        loss = (logs or {}).get("val_loss", math.nan)
        if loss < self.best:
            self.best, self.best_epoch = loss, self._epochs
            self._weights = self._whole.get_weights()
        if loss < self._best_of_phase:
            self._waited, self._best_of_phase = 0, loss
            return
        self._waited += 1
        if self._waited >= math.ceil(self._patience * self.params["epochs"]):
            self.model.stop_training = True

    def restore(self) -> None:
        """Puts the best weights seen so far into the model; without any, changes nothing."""
        if self._weights is not None:
            self._whole.set_weights(self._weights)


class NonFiniteLoss(UserError):
    """The loss is no longer a number."""


class StopOnNonFinite(keras.callbacks.Callback):
    """Stops a run whose loss is no longer a number, before it goes on for hours.

    Raises:
        NonFiniteLoss: from `fit`, with the step.
    """

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise NonFiniteLoss(
                f"The loss became {loss} at step {batch + 1} of this epoch; give a smaller "
                "--learning-rate."
            )


def _largest_rate(optimizer: keras.optimizers.Optimizer) -> float:
    parts = getattr(optimizer, "optimizers", [optimizer])
    return max(float(np.asarray(part.learning_rate)) for part in parts)
