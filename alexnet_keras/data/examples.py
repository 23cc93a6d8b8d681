"""The one type that every source of photographs becomes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from alexnet_keras.data.contents import Contents, Names, as_contents


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Examples:
    """Labelled images, encoded as they lie in files, in memory or in records.

    Attributes:
        name: the dataset's name, for messages and reports.
        class_names: what the labels mean, in order.
        keys: a name for each example that stays the same between runs, such as `daisy/12.jpg`.
        labels: int32 (examples,), indices into `class_names`.
        contents: what holds the encoded images.
    """

    name: str
    class_names: tuple[str, ...]
    keys: Names
    labels: np.ndarray
    contents: Contents

    def __init__(
        self,
        name: str,
        class_names: Sequence[str],
        keys: Sequence[str],
        labels: np.ndarray,
        contents: Contents | Sequence[bytes] | Sequence[Path],
    ) -> None:
        """As the attributes; `contents` may also be the encoded images, or a path for each.

        Raises:
            ValueError: keys, labels and contents differ in length.
        """
        if not len(keys) == len(labels) == len(contents):
            raise ValueError(
                f"Examples differ in length: {len(keys)} keys, {len(labels)} labels, "
                f"{len(contents)} contents."
            )
        given = {
            "name": name,
            "class_names": tuple(class_names),
            "keys": keys if isinstance(keys, Names) else Names(keys),
            "labels": np.asarray(labels, np.int32),
            "contents": as_contents(contents),
        }
        for attribute, value in given.items():
            object.__setattr__(self, attribute, value)  # how a frozen dataclass sets its own

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"<{len(self)} examples of {len(self.class_names)} classes of {self.name}>"

    @property
    def counts(self) -> np.ndarray:
        """Examples of each class, int64 (classes,)."""
        return np.bincount(self.labels, minlength=len(self.class_names))

    def select(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """The examples at `indices`, in that order."""
        indices = np.asarray(indices, dtype=np.int64)
        return Examples(
            self.name,
            self.class_names,
            self.keys.select(indices),
            self.labels[indices],
            self.contents.select(indices),
        )

    def read(self, index: int) -> bytes:
        """The encoded bytes of one example. Raises `OSError` where they cannot be read."""
        return self.contents.read(index)

    def loader(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """A function of graphs from an example's number to its encoded bytes: `Contents.loader`."""
        return self.contents.loader()

    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of keys, labels, classes and contents, in their order.

        It says whether a run that is taken up again sees the data it began with. Contents enter by
        their bytes in memory, by each file's size, or by the checksum that a record carries; where
        they lie and what the set is called does not matter. No image is read.
        """
        parts = (
            hashlib.sha256(json.dumps(self.class_names).encode()).digest(),
            self.keys.digest(),
            hashlib.sha256(self.labels.astype("<i4").tobytes()).digest(),
            self.contents.digest(),
        )
        return hashlib.sha256(b"".join(parts)).hexdigest()


def key_shares(keys: Names, salt: str) -> np.ndarray:
    """float64 (keys,) in 0..1: where a hash of each key alone puts it, evenly spread.

    Adding or removing a file therefore moves no other, on any machine. Different salts give
    independent places.
    """
    start = hashlib.sha256(f"{salt}:".encode())

    def place(key: bytes) -> bytes:
        found = start.copy()
        found.update(key)
        return found.digest()[:8]

    return np.frombuffer(b"".join(map(place, keys.encoded())), ">u8") / 2**64


def in_fraction(key: str, fraction: float, salt: str = "validation") -> bool:
    """Whether `key` belongs to a fixed `fraction` (0..1) of all keys, by `key_shares`."""
    return bool(key_shares(Names([key]), salt)[0] < fraction)
