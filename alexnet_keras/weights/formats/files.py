"""A file as bytes in memory that the system reads when they are looked at."""

from __future__ import annotations

import mmap
from pathlib import Path

from alexnet_keras.weights.formats.unreadable import Unreadable


def map_file(path: Path) -> memoryview:
    """The file's bytes, read-only; the mapping lives as long as a view of it does.

    Raises:
        Unreadable: the file is empty.
        OSError: the file cannot be opened or mapped.
    """
    with path.open("rb") as file:
        if not file.seek(0, 2):
            raise Unreadable("it is empty")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
