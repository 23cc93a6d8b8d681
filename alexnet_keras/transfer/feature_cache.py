"""Outputs of frozen layers, kept on disk between runs under a hash of all that they depend on.

One SQLite file a set of outputs: killed writers, several processes and full disks are SQLite's
business. A set belongs to one trunk with its preprocessing; a key in it to one view of one image's
bytes. A set is never changed, only added to or dropped as a whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import random
import shutil
import sqlite3
import threading
import time
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from alexnet_keras.errors import UserError
from alexnet_keras.transfer.claims import Claims

#: the most bytes that all sets take together
MOST_BYTES = 8 * 2**30
#: share of the free disk space that may be filled
DISK_SHARE = 0.5
#: seconds to wait for another process that writes
PATIENCE = 60.0

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS outputs "
    "(row INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, value BLOB NOT NULL)",
)
_PAGE_SIZES = tuple(2**power for power in range(12, 17))
#: what an output takes besides its values: its key and SQLite's notes, and the same in the index
_BESIDE, _INDEXED = 28, 36


@dataclass(frozen=True)
class StoredSet:
    """A set as the cache's listing tells it.

    Attributes:
        description: what the outputs are of, for people.
        outputs: how many are stored; -1 where the file cannot be read.
        size: bytes on disk.
        used: when it was last opened, in seconds since 1970.
    """

    fingerprint: str
    description: str
    outputs: int
    size: int
    used: float


class FeatureCache:
    """A folder of sets, the least recently used of which go first when it grows too large.

    Several processes may use one folder. A set that any of them has open is not dropped.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        most_bytes: int = MOST_BYTES,
        memory_bytes: int = 0,
    ) -> None:
        """
        Args:
            folder: where sets are kept; `features` in Keras's home (`KERAS_HOME`, or `~/.keras`) if
                `None`. Made when it is needed.
            most_bytes: what all sets may take together.
            memory_bytes: of outputs that were read, kept in memory as well for who reads them again
                and again, over all sets that this object opens.
        """
        self._memory = _Memory(memory_bytes)
        if folder is None:
            folder = Path(os.environ.get("KERAS_HOME") or "~/.keras", "features")
        self.folder = Path(folder).expanduser()
        self.most_bytes = most_bytes

    def open(self, fingerprint: str, shape: Sequence[int], description: str) -> FeatureSet:
        """The set of this fingerprint, empty if it is new. To be closed, or used in a `with`.

        Args:
            fingerprint: a hash of everything but image and view that an output depends on, in
                characters that may stand in a file's name.
            shape: of one output.
            description: for the listing; kept from when the set was begun.

        Raises:
            UserError: the folder cannot be written to.
        """
        path = self._path(fingerprint)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                return FeatureSet(path, tuple(shape), description, self._memory)
            except sqlite3.DatabaseError as error:
                if not _is_damaged(error) or not self._drop(path):
                    raise
            return FeatureSet(path, tuple(shape), description, self._memory)
        except (OSError, sqlite3.DatabaseError) as error:
            raise UserError(
                f"Outputs of frozen layers cannot be kept in {self.folder} ({error}); give another "
                "folder, or set KERAS_HOME."
            ) from error

    def room(self, size: int, keep: Collection[str] = ()) -> int:
        """Makes room for `size` more bytes where it can, and says how many bytes there is room for.

        Sets that nobody has open are dropped, the least recently used first, until there is room.

        Args:
            keep: fingerprints of sets that are not dropped.
        """
        while (free := self._free()) < size:
            sets = (entry for entry in self.sets() if entry.fingerprint not in keep)
            if not any(
                self._drop(self._path(entry.fingerprint))
                for entry in sorted(sets, key=lambda entry: entry.used)
            ):
                break
        return max(free, 0)

    def sets(self) -> list[StoredSet]:
        """All sets, the most recently used first."""
        found = []
        for path in self.folder.glob("*.sqlite"):
            with contextlib.suppress(FileNotFoundError):  # dropped by another process meanwhile
                found.append(_listed(path))
        return sorted(found, key=lambda entry: -entry.used)

    def clear(self) -> tuple[int, int]:
        """Drops every set that nobody has open. Returns the bytes freed and the sets left."""
        before = self.sets()
        gone = [entry for entry in before if self._drop(self._path(entry.fingerprint))]
        return sum(entry.size for entry in gone), len(before) - len(gone)

    def _path(self, fingerprint: str) -> Path:
        return self.folder / f"{fingerprint}.sqlite"

    def _free(self) -> int:
        """Bytes that may still be filled."""
        taken = sum(entry.size for entry in self.sets())
        folder = self.folder
        while not folder.exists():
            folder = folder.parent
        return int(min(self.most_bytes - taken, shutil.disk_usage(folder).free * DISK_SHARE))

    def _drop(self, path: Path) -> bool:
        """Deletes a set unless it is open anywhere; says whether it did."""
        try:
            lock = _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        with lock:
            for name in (f"{path}-wal", f"{path}-shm", path, _claims_path(path), _lock_path(path)):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name)
        return True


class _Memory:
    """Outputs that were read, by set and row; all are let go when they come to be too many."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self._bytes = most_bytes, 0
        self._outputs: dict[tuple[str, int], np.ndarray] = {}
        self._changing = threading.Lock()

    def get(self, identity: str, row: int) -> np.ndarray | None:
        return self._outputs.get((identity, row))

    def add(self, identity: str, row: int, output: np.ndarray) -> None:
        if output.nbytes > self._most_bytes:
            return
        with self._changing:
            if self._bytes + output.nbytes > self._most_bytes:
                self._outputs, self._bytes = {}, 0
            self._outputs[identity, row] = output
            self._bytes += output.nbytes


class FeatureSet:
    """Outputs of one trunk in float16, each under a key of its own."""

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        description: str,
        memory: _Memory | None = None,
    ) -> None:
        self.shape = shape
        self._memory = memory or _Memory(0)
        self._lock = _lock(path, fcntl.LOCK_SH)
        self._using = threading.Lock()  # training reads ahead while validation reads
        try:
            self._claims = Claims(_claims_path(path))
            self._database, self._identity = _connected(path, shape, description)
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> FeatureSet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the set, which may be dropped from now on."""
        # A dataset that training has left behind may still read ahead, in a thread of its own:
        # it is answered to its end, or finds the set closed, which is an error and no crash.
        with self._using:
            self._database.close()
        self._claims.close()
        self._lock.close()

    def rows(self, keys: Sequence[bytes]) -> np.ndarray:
        """Where the outputs of `keys` are, int64 (keys,); -1 for those that are not stored."""
        find = "SELECT row FROM outputs WHERE key = ?"
        found = (self._database.execute(find, (key,)).fetchone() for key in keys)
        rows = (-1 if row is None else row[0] for row in found)
        with self._using:
            return np.fromiter(rows, np.int64, len(keys))

    def claim(self, keys: Sequence[bytes]) -> np.ndarray:
        """Which of `keys` this process is to store, bool (keys,); the others another one is at.

        What is claimed is to be released, once it is stored; closing the set does it too.
        """
        return self._claims.take(keys)

    def release(self, keys: Sequence[bytes] | None = None) -> None:
        """Gives up claims, or all."""
        self._claims.release(keys)

    def add(self, keys: Sequence[bytes], outputs: np.ndarray) -> None:
        """Stores outputs (keys, *shape) as float16, all or none. A key that is there stays.

        Raises:
            OSError: the disk is full, or the file cannot be written.
        """
        outputs = np.ascontiguousarray(outputs, np.float16)
        if outputs.shape != (len(keys), *self.shape):
            raise ValueError(f"{len(keys)} outputs of {self.shape} expected, not {outputs.shape}.")
        try:
            with self._using, self._database:
                self._database.executemany(
                    "INSERT OR IGNORE INTO outputs (key, value) VALUES (?, ?)",
                    ((key, output.tobytes()) for key, output in zip(keys, outputs, strict=True)),
                )
        except sqlite3.OperationalError as error:
            raise OSError(f"outputs cannot be stored ({error})") from error

    def read(self, rows: np.ndarray, part: slice = slice(None)) -> np.ndarray:
        """The outputs in `rows`, float16 (rows, *shape), or a part of their last axis."""
        shape = *self.shape[:-1], len(range(*part.indices(self.shape[-1])))
        outputs = np.empty((len(rows), *shape), np.float16)
        find = "SELECT value FROM outputs WHERE row = ?"
        with self._using:
            for output, row in zip(outputs, rows.tolist(), strict=True):
                known = self._memory.get(self._identity, row)
                if known is None:
                    (value,) = self._database.execute(find, (row,)).fetchone()
                    known = np.frombuffer(value, np.float16).reshape(self.shape)
                    self._memory.add(self._identity, row, known)
                output[...] = known[..., part]
        return outputs


def stored_size(shape: Sequence[int]) -> int:
    """Bytes on disk that one output of this shape takes, with its key."""
    return _taken(_row_size(shape), _page_size(shape)) + _INDEXED


def _row_size(shape: Sequence[int]) -> int:
    return 2 * math.prod(shape) + _BESIDE


def _page_size(shape: Sequence[int]) -> int:
    """Of the sizes up to the first that holds three outputs, the largest that wastes little."""
    row = _row_size(shape)
    first = next((size for size in _PAGE_SIZES if size >= 3 * row), _PAGE_SIZES[-1])
    taken = {size: _taken(row, size) for size in _PAGE_SIZES if size <= first}
    return max(size for size in taken if taken[size] <= 1.05 * min(taken.values()))


def _taken(row: int, page: int) -> int:
    """Bytes that a row takes with pages of this size (SQLite's file format, section 1.6).

    What does not fit a page goes on in pages of its own; so much stays that they are filled, if
    that much fits.
    """
    most, least = page - 35, (page - 12) * 32 // 255 - 23
    if row <= most:
        return page // (page // row)
    stays = least + (row - least) % (page - 4)
    if stays > most:
        stays = least
    return page // (page // stays) + math.ceil((row - stays) / (page - 4)) * page


def _connected(
    path: Path, shape: tuple[int, ...], description: str
) -> tuple[sqlite3.Connection, str]:
    """A set, and what tells it from another under the same name that it may take the place of."""
    # Data pipelines read from threads of their own, one at a time.
    database = sqlite3.connect(path, timeout=PATIENCE, check_same_thread=False)
    try:
        database.execute(f"PRAGMA page_size = {_page_size(shape)}")  # heeded by a new file only
        # Killed processes do no harm. What a power cut can lose are the last outputs.
        _log_ahead(database)
        database.execute("PRAGMA synchronous = NORMAL")
        with database:
            for statement in _SCHEMA:
                database.execute(statement)
            about = [
                ("description", description),
                ("shape", repr(shape)),
                ("identity", uuid.uuid4().hex),
            ]
            database.executemany("INSERT OR IGNORE INTO about VALUES (?, ?)", about)
        (stored,) = database.execute("SELECT value FROM about WHERE name = 'shape'").fetchone()
        if stored != repr(shape):
            raise ValueError(f"{path} holds outputs of shape {stored}, not {shape}.")
        find = "SELECT value FROM about WHERE name = 'identity'"
        (identity,) = database.execute(find).fetchone()
        os.utime(path)
    except BaseException:
        database.close()
        raise
    return database, identity


def _log_ahead(database: sqlite3.Connection) -> None:
    # Two who begin a set at once wait for each other to stop reading: SQLite refuses one of them
    # without heeding the connection's timeout.
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > deadline:
                raise
        time.sleep(random.uniform(0.001, 0.02))


def _listed(path: Path) -> StoredSet:
    size = sum(part.stat().st_size for part in (path, Path(f"{path}-wal")) if part.exists())
    used = path.stat().st_mtime
    description, outputs = "cannot be read", -1
    with contextlib.suppress(sqlite3.Error):
        uri = f"{path.resolve().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=PATIENCE)) as database:
            about = dict(database.execute("SELECT name, value FROM about"))
            (count,) = database.execute("SELECT COUNT(*) FROM outputs").fetchone()
        description, outputs = about["description"], count
    return StoredSet(path.stem, description, outputs, size, used)


def _is_damaged(error: sqlite3.DatabaseError) -> bool:
    return error.sqlite_errorname in ("SQLITE_CORRUPT", "SQLITE_NOTADB")


def _lock_path(path: Path) -> Path:
    # Not the set's own file: closing any handle of that would lose SQLite's locks on it.
    return path.with_suffix(".lock")


def _claims_path(path: Path) -> Path:
    return path.with_suffix(".claims")


def _lock(path: Path, kind: int) -> BinaryIO:
    """A lock of this kind on a set, held until the file is closed or the process ends."""
    while True:
        file = _lock_path(path).open("ab")
        try:
            fcntl.flock(file, kind)
            # Whoever dropped the set has unlinked the lock that we waited for.
            if os.fstat(file.fileno()).st_ino == _lock_path(path).stat().st_ino:
                return file
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()
