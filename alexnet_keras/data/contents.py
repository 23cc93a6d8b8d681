"""Where the encoded images of a set lie: in files, in memory, or in records (`records.py`).

Any one of them is read by its number, on the host or inside a `tf.data` map. What is kept in memory
for a million images are numbers and packed names, no object for each.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import tensorflow as tf

from alexnet_keras.data.threads import in_threads

#: names or files handled at a time, so that what is needed on the way stays small
CHUNK = 8192


class Names(Sequence[str]):
    """Strings packed into one block of bytes: eight bytes each, besides their characters.

    Bytes that are no UTF-8, which file names may hold, are kept as Python keeps them in a `str`.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        block, ends = bytearray(), array("q")
        for name in names:
            block += name.encode("utf-8", "surrogateescape")
            ends.append(len(block))
        self._set(bytes(block), np.array(ends, np.int64))

    @classmethod
    def from_packed(cls, block: bytes, ends: np.ndarray) -> Names:
        """The names of a block of UTF-8, of which number i ends before byte `ends[i]`."""
        names = cls.__new__(cls)
        names._set(block, np.asarray(ends, np.int64))
        return names

    @classmethod
    def joined(cls, several: Sequence[Names]) -> Names:
        """All names of `several`, one after the other."""
        starts = np.cumsum([0, *(len(names.block) for names in several)])
        ends = [names.ends + start for names, start in zip(several, starts, strict=False)]
        return cls.from_packed(
            b"".join(names.block for names in several), np.concatenate([np.zeros(0, int), *ends])
        )

    def _set(self, block: bytes, ends: np.ndarray) -> None:
        self.block = block
        self.ends = ends

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.select(range(len(self))[index])
        index = range(len(self))[index]  # counts from the end, and refuses what is outside
        start = self.ends[index - 1] if index else 0
        return self.block[start : self.ends[index]].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (name.decode("utf-8", "surrogateescape") for name in self.encoded())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None

    def encoded(self) -> Iterator[bytes]:
        """Each name as UTF-8."""
        start = 0
        for first in range(0, len(self), CHUNK):
            for end in self.ends[first : first + CHUNK].tolist():
                yield self.block[start:end]
                start = end

    def select(self, indices: Sequence[int] | np.ndarray) -> Names:
        """The names at `indices`, in that order."""
        indices = np.asarray(indices, dtype=np.int64)
        ends, starts = self.ends[indices], self.starts[indices]
        block = bytearray()
        for first in range(0, len(indices), CHUNK):
            some = slice(first, first + CHUNK)
            pairs = zip(starts[some].tolist(), ends[some].tolist(), strict=True)
            block += b"".join([self.block[start:end] for start, end in pairs])
        return Names.from_packed(bytes(block), np.cumsum(ends - starts))

    @property
    def starts(self) -> np.ndarray:
        """int64 (names,): the byte that each name begins with."""
        return np.concatenate([[0], self.ends[:-1]]) if len(self) else self.ends

    def digest(self) -> bytes:
        """SHA-256 of all names in their order."""
        return hashlib.sha256(self.ends.astype("<i8").tobytes() + self.block).digest()


class Contents(ABC):
    """The encoded images of some examples, by number. Iterating reads them one after the other."""

    #: the states that `digests` were of, and these
    _digested: tuple[np.ndarray, np.ndarray] | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def select(self, indices: np.ndarray) -> Contents:
        """The images at `indices` (int64), in that order; nothing is read."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """One encoded image. Raises `OSError` where it cannot be read."""

    @abstractmethod
    def loader(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """A function of graphs: a scalar int64 number to a scalar string, the encoded image.

        It may be called from a `tf.data` map, in any order; it raises a `tf.errors.OpError` where
        the image cannot be read, and no other image suffers.
        """

    @abstractmethod
    def sizes(self) -> np.ndarray:
        """int64 (images,): bytes of each; -1 for a file that is not there. Nothing is read."""

    @abstractmethod
    def digest(self) -> bytes:
        """32 bytes that change when the images do, whatever files or folders are called."""

    def digests(self) -> np.ndarray:
        """uint8 (images, 32): SHA-256 of each image's bytes.

        Reads all, the first time; then those that may have changed. Raises as `read`.
        """

        def of_one(index: int) -> bytes:
            return hashlib.sha256(self.read(index)).digest()

        states = self._states()
        if self._digested is None:
            known, read = np.empty((len(self), 32), np.uint8), np.arange(len(self))
        else:
            before, known = self._digested
            read = np.flatnonzero((states != before).any(axis=1))
        if len(read):
            found = b"".join(in_threads(lambda number: of_one(read[number]), len(read), threads=8))
            known = known.copy()
            known[read] = np.frombuffer(found, np.uint8).reshape(-1, 32)
            self._digested = states, known
        return known

    def _states(self) -> np.ndarray:
        """int64 (images, any): what is another if an image has changed; nothing is read."""
        return np.zeros((len(self), 1), np.int64)

    def __iter__(self) -> Iterator[bytes]:
        return (self.read(index) for index in range(len(self)))


class MemoryContents(Contents):
    """Encoded images held in memory."""

    def __init__(self, images: Sequence[bytes]) -> None:
        self._images = tuple(images)

    def __len__(self) -> int:
        return len(self._images)

    def select(self, indices: np.ndarray) -> MemoryContents:
        return MemoryContents([self._images[index] for index in indices])

    def read(self, index: int) -> bytes:
        return self._images[index]

    def loader(self) -> Callable[[tf.Tensor], tf.Tensor]:
        images = tf.constant(self._images, dtype=tf.string, shape=(len(self),))
        return lambda index: tf.gather(images, index)

    def sizes(self) -> np.ndarray:
        return np.array([len(image) for image in self._images], np.int64)

    def digest(self) -> bytes:
        found = hashlib.sha256()
        for image in self._images:
            found.update(len(image).to_bytes(8, "little") + image)
        return found.digest()


class FileContents(Contents):
    """One file an image; only their packed names are held in memory."""

    def __init__(self, root: str | Path, names: Names) -> None:
        """
        Args:
            root: the folder that the names begin at; empty for names that are whole paths.
            names: paths of the files, below `root`.
        """
        self._root = os.path.join(root, "")  # ends in a separator, or stays empty
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    def select(self, indices: np.ndarray) -> FileContents:
        return FileContents(self._root, self._names.select(indices))

    def read(self, index: int) -> bytes:
        return Path(self._root + self._names[index]).read_bytes()

    def loader(self) -> Callable[[tf.Tensor], tf.Tensor]:
        root, names = os.fsencode(self._root), self._names
        # Strings are on the CPU anyway; numbers would otherwise go to a GPU and back.
        with tf.device("CPU"):
            block = tf.constant(names.block)
            starts, lengths = tf.constant(names.starts), tf.constant(names.ends - names.starts)

        def load(index: tf.Tensor) -> tf.Tensor:
            name = tf.strings.substr(block, tf.gather(starts, index), tf.gather(lengths, index))
            return tf.io.read_file(tf.strings.join([root, name]))

        return load

    def sizes(self) -> np.ndarray:
        def of_some(some: tuple[int, int]) -> np.ndarray:
            names = self._names[slice(*some)]
            return np.array([_size(self._root + name) for name in names], np.int64)

        bounds = [*range(0, len(self), CHUNK), len(self)]
        with ThreadPoolExecutor(8) as pool:  # on a network each look-up is mostly waiting
            parts = list(pool.map(of_some, pairwise(bounds)))
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def _states(self) -> np.ndarray:
        """Which file each is, when it was last written and its size."""

        def of_one(index: int) -> tuple[int, int, int]:
            try:
                found = os.stat(self._root + self._names[index])
            except OSError:
                return -1, -1, -1
            return found.st_ino, found.st_mtime_ns, found.st_size

        states = np.empty((len(self), 3), np.int64)
        for index in range(len(self)):
            states[index] = of_one(index)
        return states

    def digest(self) -> bytes:
        """By the files' sizes: every file is looked up, none is read."""
        return hashlib.sha256(self.sizes().astype("<i8").tobytes()).digest()


def as_contents(given: Contents | Sequence[bytes] | Sequence[Path]) -> Contents:
    """What holds the images `given`: encoded bytes, or a path for each."""
    if isinstance(given, Contents):
        return given
    if given and isinstance(given[0], bytes):
        return MemoryContents(given)
    return FileContents("", Names(map(os.fspath, given)))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
