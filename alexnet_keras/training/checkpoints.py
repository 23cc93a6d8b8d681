"""Checkpoints of a training run: whole files only, written while training goes on.

A checkpoint is one `.npz` file, so that `numpy.load` shows what is in it: an array a member, stored
as it is, and `checkpoint.json`, which says what belongs to the file and holds the state. The zip
format's CRC-32 of every member finds each damage of up to 32 bits in a row, and others but for one
in 4e9.
"""

from __future__ import annotations

import errno
import io
import json
import os
import platform
import re
import sys
import threading
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any, Self

import ml_dtypes  # noqa: F401  np.dtype("bfloat16") needs it imported
import numpy as np

from alexnet_keras.errors import UserError, is_full_disk

#: what the layout of the files is called; another number is another layout
FORMAT = 1
MANIFEST = "checkpoint.json"
LOCK = ".lock"
#: bytes written or read at once: few enough to be in the cache still when the file gets what the
#: checksum has seen, enough to leave Python to other threads
CHUNK = 1 << 20
_NAME = re.compile(r"step-(\d{10,})\.npz")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What was saved: `arrays` by name, and `state`, both after `step` steps."""

    step: int
    arrays: dict[str, np.ndarray]
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run in a folder of their own, `step-<ten digits>.npz` each.

    A file appears under its name only when it is whole and on the disk, and only then are older
    ones removed, so a run that is killed at any moment leaves the newest `keep` usable (power cuts
    too, if the disk keeps what it said it has). While one is written the disk holds one more; so it
    does for each time that a run is killed right before it removes one, until the next is saved.

    As long as the object is open, no other may use the folder: a lock sees to that, which ends
    with the process however it ends. A run that was killed may leave a part of a file; it is
    removed here.

    Args:
        folder: where they are; made if need be.
        keep: how many of the newest to keep, at least 1.
        say: takes a sentence for the user; called from the writing thread too.

    Raises:
        UserError: another run uses the folder, or it cannot be written to.
    """

    def __init__(self, folder: Path, *, keep: int = 2, say: Callable[[str], None] = print) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}; at least one checkpoint has to be kept")
        self._folder = Path(folder)
        self._keep = keep
        self._say = say
        self._newest: int | None = None  # the step of the newest that is known to be whole
        self._refused: set[int] = set()  # the steps of files that `latest` could not use
        self._copies: dict[str, np.ndarray] = {}
        self._pending: Future[None] | None = None
        self._failure: UserError | None = None  # of the last save
        self._trouble: int | None = None  # the errno that the user knows of
        self._overfull = False  # whether the user knows that older ones cannot be removed
        self._lock: int | None = self._locked()
        self._writer = ThreadPoolExecutor(1, "checkpoints", initializer=_give_way)

    def save(
        self,
        step: int,
        arrays: Mapping[str, np.ndarray],
        state: Mapping[str, Any],
        *,
        wait: bool = False,
    ) -> None:
        """Saves the run as it is after `step` steps, in a thread of its own.

        The arrays are copied before this returns, into memory that is kept for the next time: they
        may be views of variables that change afterwards. (A view costs least; under TensorFlow
        `np.asarray(tensor)` is one, and `.numpy()` a copy more.) If the last save is still being
        written, this waits for it, so that a run loses at most the work between two calls and
        during one write; to skip instead would lose the time between two calls again.

        A failed write does not stop the run: `say` is told once, and again when it works again.

        Args:
            step: how many steps were made; not fewer than at the last call.
            arrays: by name, of numbers or booleans (bfloat16 and its like included), any shape.
            state: what JSON can hold. Floats come back exactly, NaN and infinities too; tuples
                become lists and keys text.
            wait: return only when it is on the disk, and raise if it is not.

        Raises:
            UserError: with `wait`, as `wait` does.
            TypeError, ValueError: an array, a name or a state that cannot be stored.
        """
        self._settle()
        if self._newest is not None and step < self._newest:
            raise ValueError(f"step {step} comes after step {self._newest} was saved or loaded")
        content = _manifest(step, arrays, state)
        self._copies = _copied(arrays, self._copies)
        if wait:
            self._write(step, content, tell=False)
            self.wait()
        else:
            self._pending = self._writer.submit(self._write, step, content, tell=True)

    def latest(self) -> Checkpoint | None:
        """The newest whole checkpoint; None if there are no files at all.

        Files that are torn, damaged, foreign or of another format are passed over, with a sentence
        each, and kept until newer ones take their place.

        Raises:
            UserError: there are files and none of them can be used.
        """
        self._settle()
        refused: dict[int, str] = {}
        for step in sorted(self._steps(), reverse=True):
            try:
                checkpoint = _read(self._path(step), step)
            except _UnusableError as error:
                refused[step] = str(error)
                continue
            for other, reason in refused.items():
                self._say(
                    f"The checkpoint {self._path(other)} cannot be used ({reason}); the older one "
                    f"of step {step:,} is used in its place."
                )
            self._refused, self._newest = set(refused), step
            return checkpoint
        if refused:
            files = "; ".join(f"{self._path(step).name}: {why}" for step, why in refused.items())
            raise UserError(
                f"None of the checkpoints in {self._folder} can be used ({files}); put a whole "
                "copy in their place, or move them away to start anew."
            )
        return None

    def wait(self) -> None:
        """Returns when the last save is on the disk.

        Raises:
            UserError: it is not there, for want of space or another reason; what to do.
        """
        self._settle()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Ends the last write and lets other runs use the folder. Raises nothing; see `wait`."""
        self._writer.shutdown()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self.close()

    def _settle(self) -> None:
        """Waits for the writing thread, and raises what should not have happened in it."""
        pending = self._pending
        if pending is not None:
            # Ctrl-C may end the waiting before the thread has read all of `_copies`.
            wait_for([pending])
            self._pending = None
            pending.result()

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step:010d}.npz"

    def _steps(self) -> list[int]:
        found = (_NAME.fullmatch(path.name) for path in self._folder.iterdir())
        return [int(name[1]) for name in found if name]

    def _write(self, step: int, content: bytes, *, tell: bool) -> None:
        """Writes `_copies`. What the file system refuses is noted, and told if `tell`."""
        try:
            _write(self._path(step), content, self._copies)
        except OSError as error:
            self._failed(step, error, sum(a.nbytes for a in self._copies.values()), tell)
            return
        self._newest, self._failure = step, None
        self._refused.discard(step)
        if self._trouble is not None:
            self._trouble = None
            self._say(
                f"Checkpoints are written to {self._folder} again; the newest is of step {step:,}."
            )
        try:
            self._remove_older(step)
        except OSError as error:
            if not self._overfull:
                self._say(
                    f"Older checkpoints in {self._folder} cannot be removed ({error.strerror}), "
                    "so they fill the disk; training goes on."
                )
            self._overfull = True
        else:
            self._overfull = False

    def _failed(self, step: int, error: OSError, size: int, tell: bool) -> None:
        reason = error.strerror or str(error)
        if is_full_disk(error):
            why = f"{self._folder} has no room for it ({reason}; it takes {size:,} bytes and more)"
            mend = "make space there"
        else:
            why = f"writing to {self._folder} failed ({reason})"
            mend = "mend that"
        what = f"The checkpoint of step {step:,} was not written, since {why}; "
        if self._newest is None:
            kept, redo = "there is none before it", "there is no earlier one to continue from"
        else:
            kept = f"the last good one, of step {self._newest:,}, is kept"
            redo = f"the run then continues from step {self._newest:,}"
        self._failure = UserError(f"{what}{mend} and give the same command again; {redo}.")
        if tell and self._trouble != error.errno:
            self._trouble = error.errno
            self._say(f"{what}{kept}, training goes on, and the next checkpoint tries again.")

    def _remove_older(self, step: int) -> None:
        """Removes all up to `step` but the newest whole ones."""
        # Files of later steps are those that `latest` has refused.
        steps = sorted((other for other in self._steps() if other <= step), reverse=True)
        kept = [other for other in steps if other not in self._refused][: self._keep]
        for other in steps:  # the newest first, so that one that stays hinders no other
            if other not in kept:
                self._path(other).unlink(missing_ok=True)

    def _locked(self) -> int:
        """A descriptor of the lock file; the lock lasts until it is closed."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            self._lock_or_say(lock)
            os.truncate(lock, 0)
            with suppress(OSError):  # a full disk
                os.pwrite(lock, f"process {os.getpid()} on {platform.node()}".encode(), 0)
            for part in self._folder.glob(".step-*.npz.part"):
                part.unlink()
        except OSError as error:
            os.close(lock)
            raise self._unwritable(error) from error
        except UserError:
            os.close(lock)
            raise
        return lock

    def _lock_or_say(self, lock: int) -> None:
        import fcntl  # not on Windows, where all the rest can still be imported

        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(lock, 200, 0).decode(errors="replace") or "another process"
            raise UserError(
                f"Another run ({owner}) writes its checkpoints to {self._folder}; wait for its "
                "end, stop it, or give this run another folder."
            ) from error
        except OSError as error:  # some network file systems have no locks
            self._say(
                f"The folder {self._folder} cannot be locked ({error.strerror}); see to it that "
                "no other run writes its checkpoints there."
            )

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(
            f"The folder {self._folder} cannot be written to ({error.strerror}); make it "
            "writable, or give another one."
        )


def _give_way() -> None:
    """Lets training go first: where it uses every core, it loses half as much time that way."""
    if sys.platform == "linux":  # where a thread has a priority of its own
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


class _UnusableError(Exception):
    """Why a file is no checkpoint that can be used, as a clause."""


def _manifest(step: int, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> bytes:
    """What belongs to a checkpoint, as JSON.

    Raises:
        TypeError, ValueError: an array, a name or a state that cannot be stored.
    """
    for name, array in arrays.items():
        if array.dtype.kind not in "biufcV" or array.dtype.names:
            raise TypeError(f"{name} holds {array.dtype}, neither numbers nor booleans")
        # The zip format ends names at a NUL and gives their length 16 bits.
        if "\0" in name or len(name.encode()) > 60_000:
            raise ValueError(f"{name[:80]!r} cannot be the name of a member")
    described = {
        name: {"dtype": str(array.dtype), "shape": array.shape} for name, array in arrays.items()
    }
    content = {"format": FORMAT, "step": step, "arrays": described, "state": dict(state)}
    return json.dumps(content).encode()


def _copied(
    arrays: Mapping[str, np.ndarray], copies: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """`arrays` copied, contiguous; into `copies` where they fit, since new memory costs more."""
    result = {}
    for name, array in arrays.items():
        copy = copies.get(name)
        if copy is None or copy.shape != array.shape or copy.dtype != array.dtype:
            copy = np.empty(array.shape, array.dtype)
        np.copyto(copy, array)
        result[name] = copy
    return result


def _write(path: Path, manifest: bytes, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a checkpoint beside `path` and renames it. The arrays are contiguous."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr(zipfile.ZipInfo(MANIFEST), manifest)
                for name, array in arrays.items():
                    _write_member(archive, f"{name}.npy", array)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync_folder(path.parent)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _write_member(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header,
        {
            "descr": np.lib.format.dtype_to_descr(array.dtype),
            "fortran_order": False,
            "shape": array.shape,
        },
    )
    data = array.reshape(-1).view(np.uint8)
    member = zipfile.ZipInfo(name)
    member.file_size = header.tell() + data.nbytes
    with archive.open(member, "w") as stream:
        stream.write(header.getvalue())
        for start in range(0, data.nbytes, CHUNK):
            stream.write(data[start : start + CHUNK])


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot
            raise
    finally:
        os.close(descriptor)


def _read(path: Path, step: int) -> Checkpoint:
    """A checkpoint, one array after the other; each is checked before the next is read.

    Raises:
        _UnusableError: the file is not whole, not of this format, or not of this step.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            return _read_members(archive, step)
    except (_UnusableError, MemoryError):
        raise
    except OSError as error:
        raise _UnusableError(f"reading it failed: {error.strerror or error}") from error
    # Damaged bytes make zipfile, zlib, json and NumPy raise nearly every kind there is.
    except Exception as error:
        what = shorten(str(error), 200) or type(error).__name__
        raise _UnusableError(f"it is torn or damaged: {what}") from error


def _read_members(archive: zipfile.ZipFile, step: int) -> Checkpoint:
    names = archive.namelist()
    if MANIFEST not in names:
        raise _UnusableError(f"it has no {MANIFEST}, so it is no checkpoint")
    manifest = json.loads(archive.read(MANIFEST))
    if manifest["format"] != FORMAT:
        raise _UnusableError(
            f"it has format {manifest['format']}, and this version of alexnet-keras reads {FORMAT}"
        )
    if manifest["step"] != step:
        raise _UnusableError(f"by its content it is of step {manifest['step']}")
    described = manifest["arrays"]
    if sorted(names) != sorted([MANIFEST, *(f"{name}.npy" for name in described)]):
        raise _UnusableError("it has members too many or too few")
    arrays = {
        name: _read_member(archive, f"{name}.npy", np.dtype(one["dtype"]), tuple(one["shape"]))
        for name, one in described.items()
    }
    return Checkpoint(step, arrays, manifest["state"])


def _read_member(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype, shape: tuple[int, ...]
) -> np.ndarray:
    with archive.open(name) as stream:
        np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0(stream)
        # bfloat16 and its like are bytes to NumPy's format, hence `dtype.str`.
        if header != (shape, False, np.dtype(dtype.str)):
            raise _UnusableError(f"{name} is not what {MANIFEST} says")
        array = np.empty(shape, dtype)
        data = array.reshape(-1).view(np.uint8)
        for start in range(0, data.nbytes, CHUNK):
            piece = data[start : start + CHUNK]
            if stream.readinto(piece) != piece.nbytes:
                raise _UnusableError(f"{name} is too short")
        # zipfile compares the checksum where the member ends.
        if stream.read():
            raise _UnusableError(f"{name} is too long")
    return array
