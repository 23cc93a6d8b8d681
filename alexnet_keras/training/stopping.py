"""Asking a run to stop, so that it can save before it does."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Self

#: what asks: the end of a job's time or a node being drained, and Ctrl-C
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
    """A run was stopped and its progress is saved.

    Attributes:
        exit_code: 128 and the number of the signal, as shells have it: 143 after SIGTERM.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"stopped, exit code {exit_code}")
        self.exit_code = exit_code


class StopRequest:
    """Notes SIGTERM and Ctrl-C while it is entered, in the main thread.

    A second Ctrl-C interrupts at once, as without this.

    Attributes:
        signal: the number of the signal that came, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._former: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
