"""How far a training run is, on the console."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from alexnet_keras.viewing.report import format_percent, format_seconds

#: seconds between two reports: on a terminal, where a line is written over, and in a log
ON_TERMINAL, IN_LOG = 0.5, 30.0
#: share of the newest figure in the shown speed
FRESH = 0.2


class Progress:
    """Prints steps, images a second, time left, loss and top-1, as a run goes on.

    Args:
        batch_size: images a step.
        stream: where to print; standard output by default.
    """

    def __init__(self, batch_size: int, stream: TextIO | None = None) -> None:
        self._batch_size = batch_size
        self._stream = stream or sys.stdout
        self._terminal = self._stream.isatty()
        self._told = 0.0
        self._last: tuple[int, float] | None = None
        self._speed: float | None = None  # images a second

    def training(self, step: int, of: int, epoch: str, loss: float, top1: float) -> None:
        """Tells that `step` of `of` steps are done, with mean loss and top-1 of the epoch so far.

        Args:
            epoch: which one, such as "3/90".
        """
        now = time.monotonic()
        if self._last is not None:
            steps, seconds = step - self._last[0], now - self._last[1]
            speed = steps * self._batch_size / max(seconds, 1e-9)
            former = speed if self._speed is None else self._speed
            self._speed = FRESH * speed + (1 - FRESH) * former
        self._last = step, now
        parts = [f"epoch {epoch}", f"step {step:,}/{of:,}"]
        if self._speed:
            left = (of - step) * self._batch_size / self._speed
            parts += [f"{self._speed:,.0f} images/s", f"{format_seconds(left)} left"]
        self._tell([*parts, f"loss {loss:.4g}", f"top-1 {format_percent(top1)}"])

    def measuring(self, name: str, done: int, of: int) -> None:
        """Tells that `done` of `of` batches of a measurement are done."""
        self._last = None  # the time between is no time of training
        self._tell([name, f"{done:,}/{of:,} batches"])

    def clear(self) -> None:
        """Makes room for something else to be printed, on a terminal: the line is wiped."""
        if self._terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Prints what an epoch brought, a row of the history, on a line that stays."""
        self._last = None
        line = (
            f"epoch {row['epoch']}: loss {row['loss']:.4f}, top-1 {format_percent(row['accuracy'])}"
        )
        if row["stop_loss"] == row["stop_loss"]:
            line += (
                f"; watched: loss {row['stop_loss']:.4f}, top-1 "
                f"{format_percent(row['stop_accuracy'])}"
            )
        line += f"; rate {row['learning_rate']:.3g}; {format_seconds(row['seconds'])}"
        self._write(line, stays=True)

    def _tell(self, parts: list[str]) -> None:
        now = time.monotonic()
        if now - self._told >= (ON_TERMINAL if self._terminal else IN_LOG):
            self._told = now
            self._write("  ".join(parts), stays=False)

    def _write(self, line: str, *, stays: bool) -> None:
        if self._terminal:
            # Over what stands there; \x1b[K takes away what is left of a longer line.
            self._stream.write(f"\r{line}\x1b[K" + ("\n" if stays else ""))
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()


class Silent:
    """Shows nothing: for the other processes of several."""

    def training(self, step: int, of: int, epoch: str, loss: float, top1: float) -> None: ...

    def measuring(self, name: str, done: int, of: int) -> None: ...

    def clear(self) -> None: ...

    def epoch(self, row: Mapping[str, Any]) -> None: ...


def final_line(metrics: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """One line that says what a run from scratch came to: to be pasted elsewhere."""
    figures = [
        f"top-1 {format_percent(metrics[f'val_top1{crops}'])}"
        + (f", top-5 {format_percent(top5)}" if (top5 := metrics.get(f"val_top5{crops}")) else "")
        + f" ({name})"
        for crops, name in (("", "centre crop"), ("_ten_crop", "ten crops"))
        if f"val_top1{crops}" in metrics
    ]
    plan, packages = config["options"]["plan"], config["packages"]
    return (
        f"AlexNet {plan['variant']} on {metrics['dataset']}: {'; '.join(figures)} of "
        f"{metrics['val_images']:,} photographs after {metrics['epochs']} epochs of "
        f"{metrics['train_images'] - metrics['early_stopping_images']:,} from random weights, "
        f"preset {plan['preset']}, seed {metrics['seed']}, "
        f"{format_seconds(metrics['seconds_training'])} on {config['options']['devices']} "
        f"device(s) of {config['machine']}; alexnet-keras {packages['alexnet-keras']}, TensorFlow "
        f"{packages['tensorflow']}, Keras {packages['keras']}."
    )
