"""Which of several processes computes what, where each could compute all."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

#: where in the file the bytes of keys may lie: as far as every file system counts
_PLACES = 2**31


class Claims:
    """Keys that processes have taken upon themselves, until they release them or end.

    Each key is a byte of a file, which is locked (fcntl(2)) and need not be there. The system lets
    go of the locks of a process that is killed. Two keys of the same byte, and all threads of one
    process, are taken for the same; where a process has the file open twice, closing it once lets
    go of all its keys. What is lost or confused so is computed twice, or a little later.

    Args:
        path: of a file that is there for this alone; it is made.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")
        self._closing = threading.Lock()

    def close(self) -> None:
        """Releases all."""
        with self._closing:
            self._file.close()

    def take(self, keys: Sequence[bytes]) -> np.ndarray:
        """Which of `keys`, hashes, are ours now, bool (keys,): those that no other process has."""
        with self._closing:
            return np.array([self._take(key) for key in keys], bool)

    def release(self, keys: Sequence[bytes] | None = None) -> None:
        """Lets others have `keys`, or all."""
        with self._closing:
            if keys is None:
                fcntl.lockf(self._file, fcntl.LOCK_UN)
            for key in keys or ():
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _place(key))

    def _take(self, key: bytes) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _place(key))
        except (BlockingIOError, PermissionError):  # the two that POSIX has for it
            return False
        except OSError:
            return True  # a file system without locks: all are computed by everyone
        return True


def _place(key: bytes) -> int:
    return int.from_bytes(key[:8]) % _PLACES
