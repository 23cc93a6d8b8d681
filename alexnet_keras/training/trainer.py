"""Training from scratch, counted in steps, resumed exactly where it was interrupted."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import keras
import numpy as np
import tensorflow as tf

from alexnet_keras.data import Examples, TrainingParts, check_skipped
from alexnet_keras.data.decoding import why_unreadable
from alexnet_keras.data.screening import Skipped
from alexnet_keras.data.stream import Share, examples_of_step, steps_in_epoch, training_stream
from alexnet_keras.errors import UserError
from alexnet_keras.training.checkpoints import Checkpoint, Checkpoints
from alexnet_keras.training.history import History
from alexnet_keras.training.measuring import Measurement
from alexnet_keras.training.multiworker import check_same, from_chief, lost_workers
from alexnet_keras.training.plan import Parts, Plan, check_identity
from alexnet_keras.training.step import SUMS, TrainingStep
from alexnet_keras.training.stopping import Stopped, StopRequest

#: columns of `history.csv`; `stop_` stands for the watched photographs, as in fine-tuning
HISTORY_COLUMNS = (
    "phase",
    "epoch",
    "loss",
    "accuracy",
    "top5",
    "stop_loss",
    "stop_accuracy",
    "stop_top5",
    "learning_rate",
    "view_size",
    "seconds",
)


class Display(Protocol):
    """Where a run shows how far it is."""

    def training(self, step: int, of: int, epoch: str, loss: float, top1: float) -> None:
        """`step` of `of` steps are done; mean loss and top-1 (0..1) of the epoch so far."""

    def measuring(self, name: str, done: int, of: int) -> None:
        """So many batches of the measurement `name` are done."""

    def clear(self) -> None:
        """Something else is about to be printed."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """An epoch has ended; its row of the history."""


class Trainer:
    """One run: the state that a checkpoint holds, and what changes it.

    Killed at any moment and made again with the same arguments, a run ends with the same weights,
    bit for bit, on the same machine.

    Args:
        plan: what to do, resolved.
        parts: what `set_up` made of it, in the scope of `strategy`.
        photographs: to train on, to watch and to measure on.
        strategy: where replicas run.
        folder: where checkpoints and `history.csv` are kept; None in a process that writes nothing.
        allow_changes: whether a run may go on with other `plan.CHANGEABLE` than it began with.
        display: where progress is shown.
        say: receives a sentence about what the user should know.

    Attributes:
        step: steps done.
        steps_per_epoch, steps: of an epoch and of the run.
        rows: one an epoch that has ended, with the keys `HISTORY_COLUMNS`.
        skipped: training photographs that could not be read so far, by key, with the reason.
        seconds: spent so far in training and measuring, interruptions left out.
        seconds_saving: of them, those in which all waited for a checkpoint.

    Raises:
        UserError: the plan needs watched photographs and there are none; the checkpoints are of a
            run with other settings or photographs, in use, or none of them can be read; another
            worker was given other photographs or settings.
        WorkerLost: here and everywhere: another worker is gone.
    """

    def __init__(
        self,
        plan: Plan,
        parts: Parts,
        photographs: TrainingParts,
        *,
        strategy: tf.distribute.Strategy,
        folder: Path | None,
        allow_changes: bool = False,
        display: Display,
        say: Callable[[str], None] = print,
    ) -> None:
        if parts.optimization.needs_watching and photographs.watched is None:
            raise UserError(
                "The plateau schedule divides the rate when the loss on watched photographs stops "
                "falling, and none are set aside; give a --watch-share above 0 or another "
                "--schedule."
            )
        self.model, self.average = parts.model, parts.average
        self.steps_per_epoch = steps_in_epoch(len(photographs.train), plan.batch_size)
        self.steps = plan.epochs * self.steps_per_epoch
        self.step = 0
        self.rows: list[dict[str, Any]] = []
        self.skipped: dict[str, str] = {}
        self.seconds = self.seconds_saving = 0.0
        self._plan, self._photographs, self._strategy = plan, photographs, strategy
        self._optimization = parts.optimization
        self._augmentation, self._color_until = parts.augmentation, parts.color_until
        self._identity = {**plan.identity, **photographs.fingerprints()}
        self._display = display

        def say_below(sentence: str) -> None:
            display.clear()
            say(sentence)

        self._say = say_below
        self._sums = dict.fromkeys(SUMS, 0.0)
        self._epoch_seconds = 0.0
        self._batches: Iterator[Any] | None = None
        self._size: int | None = None
        self._watching = (
            None if photographs.watched is None else self._measurement(photographs.watched)
        )
        self._measurements: dict[str, Measurement] = {}
        self._restored: dict[str, tuple[int, dict[str, np.ndarray]]] = {}
        self._stop = StopRequest()
        self._clock = self._saved = time.monotonic()
        self._training_step = TrainingStep(
            self.model,
            parts.optimization.optimizer,
            strategy,
            batch_size=plan.batch_size,
            seed=plan.seed,
            label_smoothing=plan.label_smoothing,
            clip_norm=plan.clip_norm,
            average=self.average,
            decay=plan.ema or 0.0,
            sizes=plan.view_sizes(self.model.input_shape[1]),
        )
        if self.average is not None:
            for variable, value in zip(self.average.weights, self.model.weights, strict=True):
                variable.assign(value)
        self._checkpoints = self._history = None
        if folder is not None:
            self._checkpoints = Checkpoints(folder / "checkpoints", say=say_below)
            self._history = History(HISTORY_COLUMNS, folder / "history.csv", folder / "tensorboard")
        try:
            found = None if self._checkpoints is None else self._checkpoints.latest()
            with lost_workers(strategy):
                check_same(strategy, self._identity)
                checkpoint = from_chief(strategy, found)
            if checkpoint is not None:
                self._resume(checkpoint, allow_changes)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._checkpoints is not None:
            self._checkpoints.close()

    @property
    def result(self) -> keras.Model:
        """The model that is measured and saved: the average, if there is one."""
        return self.average or self.model

    def _resume(self, checkpoint: Checkpoint, allow_changes: bool) -> None:
        state = checkpoint.state
        check_identity(state["identity"], self._identity, allow_changes)
        for name, variable in self._variables().items():
            variable.assign(checkpoint.arrays[name])
        self.step, self._sums = checkpoint.step, dict(state["sums"])
        self.skipped = dict(state["skipped"])
        self.seconds, self.seconds_saving = state["seconds"], state["seconds_saving"]
        self._epoch_seconds, self.rows = state["epoch_seconds"], list(state["rows"])
        self._optimization.load_state(state["optimization"])
        for name, done in state["measured"].items():
            prefix = f"measured/{name}/"
            columns = {
                key.removeprefix(prefix): array
                for key, array in checkpoint.arrays.items()
                if key.startswith(prefix)
            }
            self._restored[name] = (done, columns)
        if self._history is not None:
            self._history.restore(self.rows)
        self._say(f"Going on after step {self.step:,} of {self.steps:,}.")

    def train(self) -> None:
        """Trains to the end.

        Raises:
            Stopped: SIGTERM or Ctrl-C came; everything is saved.
            UserError: the loss became non-finite; too many photographs cannot be read; the
                checkpoint at the end could not be written.
        """
        with self._stoppable():
            while self.step < self.steps or len(self.rows) < self._plan.epochs:
                if self.step % self.steps_per_epoch or self.step == len(self.rows) * (
                    self.steps_per_epoch
                ):
                    self._train_epoch()
                self._end_epoch()
            self._display.clear()
            self._save(wait=True)

    def measure(self, *, ten_crop: bool = False) -> Measurement:
        """Measures `result` on the validation photographs, interruptible as training is.

        Raises:
            Stopped: as `train`.
        """
        measurement = self._measurement(self._photographs.validation, ten_crop)
        name = f"validation photographs, {'ten crops' if ten_crop else 'centre crop'}"
        with self._stoppable():
            self._fill(name, measurement)
        self._display.clear()
        return measurement

    def figures(self) -> dict[str, Any]:
        """How long the run took: for `metrics.json`."""
        return {
            "epochs": self._plan.epochs,
            "steps": self.steps,
            "seed": self._plan.seed,
            "seconds_training": round(self.seconds, 1),
            "seconds_waiting_for_checkpoints": round(self.seconds_saving, 2),
        }

    def _measurement(self, examples: Examples, ten_crop: bool = False) -> Measurement:
        return Measurement(
            self.result,
            examples,
            self._strategy,
            batch_size=self._plan.batch_size,
            ten_crop=ten_crop,
        )

    @contextlib.contextmanager
    def _stoppable(self) -> Iterator[None]:
        with self._stop, lost_workers(self._strategy):
            self._clock = time.monotonic()
            yield

    def _train_epoch(self) -> None:
        """Steps to the end of the epoch that has begun."""
        end = (self.step // self.steps_per_epoch + 1) * self.steps_per_epoch
        size = self._view_size(self.step // self.steps_per_epoch)
        if size != self._size:
            self._batches, self._size = None, size
        if self._batches is None:  # endless, and made once a size: that takes seconds
            self._batches = iter(self._strategy.distribute_datasets_from_function(self._stream))
        for step in range(self.step, end):
            batch = next(self._batches)
            self._optimization.set_rates(step)
            sums = self._training_step(step, batch, stop=self._stop.signal is not None)
            self.step = step + 1
            asked = self._absorb(step, sums)
            self._pass_time()
            if asked:
                self._save_and_stop()
            self._save_if_due()

    def _view_size(self, epoch: int) -> int:
        """Side in pixels of the training views in an epoch, from 0."""
        return self._plan.view_size(epoch, self.model.input_shape[1])

    def _stream(self, context: tf.distribute.InputContext) -> tf.data.Dataset:
        return training_stream(
            self._photographs.train,
            self._augmentation,
            image_size=self._size,
            share=Share.of(context, self._plan.batch_size),
            seed=self._plan.seed,
            first_step=self.step,
            color_until=self._color_until,
            mixing=self._plan.mixing,
        )

    def _absorb(self, step: int, sums: Mapping[str, tf.Tensor]) -> bool:
        """Adds what step `step` gave to the epoch's; whether the run was asked to stop."""
        found = {name: float(value) for name, value in sums.items()}
        if not math.isfinite(found["loss"]):
            raise self._non_finite(f"The loss became {found['loss']} at step {step:,}", step)
        for name in SUMS:
            self._sums[name] += found[name]
        if found["unreadable"]:
            self._list_unreadable(step)
        seen = max(self._sums["examples"], 1.0)
        self._display.training(
            step + 1,
            self.steps,
            f"{step // self.steps_per_epoch + 1}/{self._plan.epochs}",
            self._sums["loss"] / seen,
            self._sums["top1"] / seen,
        )
        return found["stop"] > 0

    def _non_finite(self, what: str, step: int) -> UserError:
        keys = [self._photographs.train.keys[i] for i in self._examples_of(step)]
        shown = ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
        return UserError(
            f"{what}, on the photographs {shown}; the last good checkpoint is kept. Go on from it "
            "with --allow-changes and a smaller --learning-rate, or begin anew in another --output."
        )

    def _examples_of(self, step: int) -> np.ndarray:
        plan = self._plan
        return examples_of_step(len(self._photographs.train), plan.batch_size, plan.seed, step)

    def _list_unreadable(self, step: int) -> None:
        for index in self._examples_of(step):
            key = self._photographs.train.keys[index]
            if key in self.skipped:
                continue
            try:
                reason = why_unreadable(self._photographs.train.read(index))
            except (OSError, UserError) as error:
                reason = f"cannot be read ({getattr(error, 'strerror', None) or error})"
            if reason is not None:
                self.skipped[key] = reason
                self._say(f"{key} cannot be used and is skipped: {reason}.")
        skipped = [Skipped(*pair) for pair in self.skipped.items()]
        name = self._photographs.train.name
        check_skipped(len(self._photographs.train), skipped, name, self._plan.allow_bad)

    def _end_epoch(self) -> None:
        """Measures the watched photographs and writes the epoch down."""
        epoch = self.step // self.steps_per_epoch
        seen = max(self._sums["examples"], 1.0)
        row: dict[str, Any] = dict.fromkeys(HISTORY_COLUMNS, math.nan)
        row |= {
            "phase": "training",
            "epoch": epoch,
            "loss": self._sums["loss"] / seen,
            "accuracy": self._sums["top1"] / seen,
            "top5": self._sums["top5"] / seen,
            "learning_rate": max(self._optimization.rates(self.step - 1).values()),
            "view_size": self._view_size(epoch - 1),
        }
        if self._watching is not None:
            name = f"watched photographs, epoch {epoch}"
            self._watching.restart()
            self._fill(name, self._watching)
            answers = self._watching.answers
            row |= {
                "stop_loss": self._watching.loss,
                "stop_accuracy": answers.top(1),
                "stop_top5": answers.top(5),
            }
            self._optimization.observe(epoch, self._watching.loss)
            self._measurements.pop(name)
        self._pass_time()
        row["seconds"] = round(self._epoch_seconds, 3)
        self._epoch_seconds = 0.0
        self._sums = dict.fromkeys(SUMS, 0.0)
        self.rows.append(row)
        self._write_history(row)
        self._display.epoch(row)

    def _write_history(self, row: Mapping[str, Any]) -> None:
        """A disk that is full now need not be so at the next epoch, and no weights depend on it."""
        if self._history is None:
            return
        try:
            self._history.add(row)
        except (OSError, tf.errors.OpError) as error:
            reason = str(error).splitlines()[0]
            self._say(
                f"Epoch {row['epoch']} could not be added to history.csv and TensorBoard "
                f"({reason}); training goes on, and the next epoch's table has it."
            )

    def _fill(self, name: str, measurement: Measurement) -> None:
        """Measures what is not measured yet, and saves in between."""
        self._measurements[name] = measurement
        if name in self._restored:
            measurement.done, measurement.columns = self._restored.pop(name)
        for done, asked in measurement.run(lambda: self._stop.signal is not None):
            self._pass_time()
            self._display.measuring(name, done, measurement.steps)
            if asked:
                self._save_and_stop()
            self._save_if_due()

    def _save_and_stop(self) -> None:
        self._display.clear()
        self._save(wait=True)
        raise Stopped(128 + (self._stop.signal or 15))

    def _save_if_due(self) -> None:
        if time.monotonic() - self._saved >= self._plan.checkpoint_seconds:
            self._save()

    def _save(self, wait: bool = False) -> None:
        if self._checkpoints is None:
            self._saved = time.monotonic()
            return
        began = time.monotonic()
        arrays = {name: np.asarray(v.value.read_value()) for name, v in self._variables().items()}
        for name, array in arrays.items():
            if name.startswith("model/") and not np.isfinite(array).all():
                raise self._non_finite(
                    f"The weights {name.removeprefix('model/')} are no longer finite after step "
                    f"{self.step - 1:,}",
                    self.step - 1,
                )
        # What was measured before an interruption and is not asked for yet is kept as it is.
        measured = {name: (m.done, m.columns) for name, m in self._measurements.items()}
        measured |= self._restored
        for name, (_, columns) in measured.items():
            arrays |= {f"measured/{name}/{column}": array for column, array in columns.items()}
        state = {**self._state(), "measured": {name: done for name, (done, _) in measured.items()}}
        self._checkpoints.save(self.step, arrays, state, wait=wait)
        self._saved = time.monotonic()
        self.seconds_saving += self._saved - began

    def _state(self) -> dict[str, Any]:
        return {
            "identity": self._identity,
            "sums": self._sums,
            "skipped": self.skipped,
            "seconds": self.seconds,
            "seconds_saving": self.seconds_saving,
            "epoch_seconds": self._epoch_seconds,
            "rows": self.rows,
            "optimization": self._optimization.state(),
        }

    def _variables(self) -> dict[str, keras.Variable]:
        """Everything that training changes, by a name of its own."""
        parts = {
            "model": self.model.weights,
            "average": [] if self.average is None else self.average.weights,
            "optimizer": self._optimization.optimizer.variables,
        }
        return {
            f"{part}/{number:03d}/{variable.path}": variable
            for part, variables in parts.items()
            for number, variable in enumerate(variables)
        }

    def _pass_time(self) -> None:
        now = time.monotonic()
        self.seconds += now - self._clock
        self._epoch_seconds += now - self._clock
        self._clock = now
