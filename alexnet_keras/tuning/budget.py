"""The time that a search may take, over all the times that it is started."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from alexnet_keras.whole_files import read_json, write_json

#: seconds between two looks at, or entries in, the file that all processes of a search share
INTERVAL = 2.0
#: seconds in which a trial that is stopped is measured and written down
RESERVE = 5.0


class OutOfTime(Exception):
    """The time is over."""


class Budget:
    """Seconds that may be spent, and those that have been, kept in a file.

    The process that owns the search writes the file; others, on the same machine or with clocks
    that agree, read it. What the owner adds to it is theirs only if they follow.

    Args:
        path: of the file.
        seconds: the whole budget of the search; `None` for a process that does not own it.
        already: of them, those that this start has taken before.
    """

    def __init__(self, path: Path, seconds: float | None, already: float = 0.0) -> None:
        self._path, self._owner = path, seconds is not None
        self._follows = False
        self._before = already
        if self._owner:
            self._before += float(read_json(path).get("spent", 0.0))
        self._looking = threading.Lock()  # a chief's server looks at it too
        self._began = self._written = time.monotonic()
        self._until = self._first_until = 0.0
        if seconds is not None:
            self._until = self._first_until = time.time() + seconds - self._before
            self._write()
        else:
            self._read()

    @property
    def spent(self) -> float:
        """Seconds since the search began, less those in which no process ran it."""
        return self._before + time.monotonic() - self._began

    def left(self) -> float:
        """Seconds until the time is over; negative from then on."""
        with self._looking:
            if time.monotonic() - self._written > INTERVAL:
                self._written = time.monotonic()
                if self._owner:
                    self._write()
                else:
                    self._read()
            return self._until - time.time()

    @property
    def over(self) -> bool:
        """Whether no more is left than `RESERVE`."""
        return self.left() <= RESERVE

    def check(self) -> None:
        """
        Raises:
            OutOfTime: the time is over.
        """
        if self.over:
            raise OutOfTime

    def extend(self, seconds: float) -> None:
        """Gives more time to the process that owns the search, and to those that follow it."""
        with self._looking:
            self._until += seconds
            self._write()

    def follow(self) -> None:
        """From now on, what the owner adds is given to this process too."""
        with self._looking:
            self._follows = True
            self._read()

    def close(self) -> None:
        """Writes down what has been spent."""
        if self._owner:
            with self._looking:
                self._write()

    def _write(self) -> None:
        until = {"until": self._first_until, "extended_until": self._until}
        write_json(self._path, {"spent": round(self.spent, 3), **until})

    def _read(self) -> None:
        found = read_json(self._path)
        name = "extended_until" if self._follows else "until"
        self._until = float(found.get(name, self._until))
        self._before = float(found.get("spent", 0.0))
        self._began = time.monotonic()
