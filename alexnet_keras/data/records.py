"""TFRecord shards of labelled images, any record of which is read by its number.

A record is a `tf.train.Example` with the features `image` (an encoded image), `label` (int64) and
`file_name`, which is how TFDS keeps imagenet2012; its shards and ours are read alike. On the disk
(`tensorflow/core/lib/io/record_writer.h`) each record is

    uint64 length | uint32 masked crc32c of the length | the example | uint32 masked crc32c of it

An index says where each one begins. A folder of our own shards holds it, besides `manifest.json`:
what `convert.py` writes. For other shards it is built in one pass over them and kept in a cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from alexnet_keras.data.contents import Contents, Names
from alexnet_keras.data.examples import Examples
from alexnet_keras.errors import UserError
from alexnet_keras.whole_files import written_beside

MANIFEST = "manifest.json"
#: what `manifest.json` has under "format"; a change in what the files mean changes it
FORMAT = "alexnet_keras records 1"

#: where a record is: number of its shard, first byte of its header, bytes of its example, checksum
PLACE = np.dtype([("shard", "<u4"), ("offset", "<i8"), ("length", "<u4"), ("crc", "<u4")])

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
FRAME_BYTES = _HEADER.size + _FOOTER.size

#: seconds between two sentences about a long pass over shards
SAY_SECONDS = 30


@dataclass(frozen=True, eq=False)
class RecordIndex:
    """Where the records of some shards begin, and what is needed of them beside the image.

    Attributes:
        places: (records,) of `PLACE`.
        labels: int32 (records,).
        keys: the `file_name` of each record; empty where it has none.
    """

    places: np.ndarray
    labels: np.ndarray
    keys: Names

    @classmethod
    def joined(cls, shards: Sequence[RecordIndex]) -> RecordIndex:
        """One index of several shards, from one of each, in their order."""
        places = [index.places.copy() for index in shards]
        for number, some in enumerate(places):
            some["shard"] = number
        return cls(
            np.concatenate([np.zeros(0, PLACE), *places]),
            np.concatenate([np.zeros(0, np.int32), *(index.labels for index in shards)]),
            Names.joined([index.keys for index in shards]),
        )

    def save(self, path: Path) -> None:
        """Writes an `.npz`, whole or not at all, the same bytes for the same index."""
        with written_beside(path, synced=True) as part, part.open("wb") as file:
            np.savez(
                file,
                places=self.places,
                labels=self.labels,
                keys=np.frombuffer(self.keys.block, np.uint8),
                key_ends=self.keys.ends,
            )

    @classmethod
    def load(cls, path: Path) -> RecordIndex:
        """What `save` wrote. Raises `ValueError` for anything else."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                keys = Names.from_packed(stored["keys"].tobytes(), stored["key_ends"])
                index = cls(stored["places"], stored["labels"], keys)
        except Exception as error:  # zipfile and NumPy raise whatever a torn file makes of them
            raise ValueError(f"{path} is no index of records ({error})") from error
        if index.places.dtype != PLACE or not len(index.places) == len(index.labels) == len(keys):
            raise ValueError(f"{path} is no index of records")
        return index


class RecordContents(Contents):
    """Images in TFRecord shards; held in memory is only where each one begins."""

    def __init__(self, files: Sequence[str | Path], places: np.ndarray) -> None:
        """
        Args:
            files: the shards.
            places: (records,) of `PLACE`, whose `shard` is an index into `files`.
        """
        self._files = tuple(map(os.fspath, files))
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def select(self, indices: np.ndarray) -> RecordContents:
        return RecordContents(self._files, self._places[indices])

    def read(self, index: int) -> bytes:
        place = self._places[[index]].copy()
        shard = self._files[place["shard"][0]]
        place["shard"] = 0
        try:
            return RecordContents([shard], place).loader()(tf.constant(0, tf.int64)).numpy()
        except tf.errors.OpError as error:
            raise OSError(f"a record of {shard} is damaged or missing") from error

    def sizes(self) -> np.ndarray:
        """int64 (records,): bytes of each record's example."""
        return self._places["length"].astype(np.int64)

    def loader(self) -> Callable[[tf.Tensor], tf.Tensor]:
        # Strings are on the CPU anyway; numbers would otherwise go to a GPU and back.
        with tf.device("CPU"):
            files = tf.constant(self._files, tf.string, [len(self._files)])
            shards = tf.constant(self._places["shard"].astype(np.int32))
            offsets = tf.constant(self._places["offset"].astype(np.int64))
            lengths = tf.constant(self._places["length"].astype(np.int64))

        def load(index: tf.Tensor) -> tf.Tensor:
            # The reader checks both checksums. The buffer is as long as the record: one read, of
            # nothing else.
            records = tf.raw_ops.TFRecordDatasetV2(
                filenames=tf.gather(files, tf.gather(shards, index))[None],
                compression_type="",
                buffer_size=tf.gather(lengths, index) + FRAME_BYTES,
                byte_offsets=tf.gather(offsets, index)[None],
            )
            kind = {"output_types": [tf.string], "output_shapes": [[]]}
            first = tf.raw_ops.TakeDataset(
                input_dataset=records, count=tf.constant(1, tf.int64), **kind
            )
            (record,) = tf.raw_ops.DatasetToSingleElement(dataset=first, **kind)
            features = {"image": tf.io.FixedLenFeature([], tf.string)}
            return tf.io.parse_single_example(record, features)["image"]

        return load

    def digest(self) -> bytes:
        """By the length and the checksum of each record, as they stand in its shard."""
        found = hashlib.sha256(self._places["length"].tobytes())
        found.update(self._places["crc"].tobytes())
        return found.digest()


def example(image: bytes, label: int, file_name: bytes) -> bytes:
    """The `tf.train.Example` of one image, the same bytes each time."""

    def of_bytes(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    features = {
        "image": of_bytes(image),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        "file_name": of_bytes(file_name),
    }
    message = tf.train.Example(features=tf.train.Features(feature=features))
    return message.SerializeToString(deterministic=True)


def scan_shard(path: Path) -> RecordIndex:
    """The index of one shard, in one pass over it.

    Records whose example makes no sense are left out. An image that is damaged without that is
    found by its checksum when it is read.

    Raises:
        UserError: a length makes no sense, so that what follows cannot be found.
        OSError: the file cannot be read.
    """
    places, labels, keys = [], [], []
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        offset = 0
        while offset < size:
            header = file.read(_HEADER.size)
            length = _HEADER.unpack(header)[0] if len(header) == _HEADER.size else size
            if offset + FRAME_BYTES + length > size:
                raise UserError(
                    f"The TFRecord file {path} is damaged at byte {offset} of {size}; put a whole "
                    "copy in its place, or prepare the data set again."
                )
            body = file.read(length)
            (crc,) = _FOOTER.unpack(file.read(_FOOTER.size))
            if (known := _label_and_name(body)) is not None:
                places.append((0, offset, length, crc))
                labels.append(known[0])
                keys.append(known[1])
            offset += FRAME_BYTES + length
    return RecordIndex(np.array(places, PLACE), np.array(labels, np.int32), Names(keys))


def _label_and_name(body: bytes) -> tuple[int, str] | None:
    try:
        features = tf.train.Example.FromString(body).features.feature
        (label,) = features["label"].int64_list.value
        names = features["file_name"].bytes_list.value
    except (DecodeError, ValueError):
        return None
    return label, names[0].decode("utf-8", "surrogateescape") if names else ""


def index_shards(
    files: Sequence[Path],
    name: str,
    *,
    say: Callable[[str], None] = print,
    cache_dir: Path | None = None,
) -> RecordIndex:
    """The index of shards that come without one, from the cache or in one pass over them.

    Args:
        files: the shards, in order.
        name: what they hold, for messages.
        say: is told of a pass over the shards, and how far it is.
        cache_dir: where indices are kept; by default `record_indices` in Keras's home
            (`KERAS_HOME`, or `~/.keras`). What is there is taken for shards of the same names and
            sizes.

    Raises:
        UserError: a shard is damaged or cannot be read.
    """
    if cache_dir is None:
        cache_dir = Path(os.environ.get("KERAS_HOME") or "~/.keras", "record_indices").expanduser()
    try:
        sizes = [path.stat().st_size for path in files]
    except OSError as error:
        raise UserError(
            f"{name} lacks a part: {error.filename} cannot be read ({error.strerror}); prepare the "
            "data set again."
        ) from error
    identity = [FORMAT, *([path.name, size] for path, size in zip(files, sizes, strict=True))]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    kept = cache_dir / f"{digest[:32]}.npz"
    if kept.exists():
        try:
            return RecordIndex.load(kept)
        except ValueError as error:
            say(f"{error}: it is built anew.")
    say(
        f"Looking once through the {len(files)} TFRecord files of {name}, "
        f"{sum(sizes) / 1e9:.1f} GB, for where each image begins; {kept} will keep it."
    )
    index = RecordIndex.joined(list(_scanned(files, say)))
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        index.save(kept)
    except OSError as error:
        say(f"{kept} could not be written ({error.strerror}): next time it is built anew.")
    return index


def _scanned(files: Sequence[Path], say: Callable[[str], None]) -> Iterator[RecordIndex]:
    told = time.monotonic()
    with ThreadPoolExecutor(4) as pool:  # reading and parsing take turns
        for done, index in enumerate(pool.map(scan_shard, files), start=1):
            if time.monotonic() - told > SAY_SECONDS:
                told = time.monotonic()
                say(f"{done} of {len(files)} files are looked through.")
            yield index


def is_record_folder(folder: Path) -> bool:
    """Whether `folder` holds shards that `convert.py` wrote, finished or not."""
    return (folder / MANIFEST).is_file() and any(folder.glob("*.tfrecord"))


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `manifest.json` says. Raises `UserError` where it is none of ours."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        if manifest["format"] == FORMAT:
            return manifest
        reason = f"its format is {manifest['format']!r}, not {FORMAT!r}"
    except OSError as error:
        reason = error.strerror
    except (ValueError, KeyError, TypeError):
        reason = "it is damaged, or was written by another program"
    raise UserError(
        f"{path} cannot be used ({reason}); give a folder that recipes/make_tfrecords.py wrote."
    )


def finished_manifest(folder: Path) -> dict[str, Any]:
    """As `read_manifest`; raises `UserError` also where the conversion is unfinished."""
    manifest = read_manifest(folder)
    if not manifest["complete"]:
        raise UserError(
            f"The TFRecords in {folder} are unfinished; start the recipes/make_tfrecords.py "
            "command that began them once more, and it goes on."
        )
    return manifest


def read_records(folder: str | Path) -> dict[str, Examples]:
    """The parts of a folder of our own shards, `train` and perhaps `val` and `test`.

    Sizes of all shards and the checksums of the indices are compared with `manifest.json`; the
    images' own checksums are when they are read.

    Raises:
        UserError: the folder is unfinished, or a file is missing or differs.
    """
    folder = Path(folder)
    manifest = finished_manifest(folder)
    return {
        name: _read_part(folder, manifest, name, part) for name, part in manifest["parts"].items()
    }


def _read_part(
    folder: Path, manifest: Mapping[str, Any], name: str, part: Mapping[str, Any]
) -> Examples:
    for shard in part["shards"]:
        path = folder / shard["file"]
        if not path.is_file() or path.stat().st_size != shard["bytes"]:
            raise UserError(
                f"{path} is not there with its {shard['bytes']} bytes; copy the folder anew, or "
                "start the recipes/make_tfrecords.py command that made it once more."
            )
    path = folder / part["index"]["file"]
    try:
        if checksum(path) != part["index"]["sha256"]:
            raise ValueError("its checksum is not that of manifest.json")
        index = RecordIndex.load(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"The index {path} cannot be used ({reason}); copy the folder anew, or start the "
            "recipes/make_tfrecords.py command that made it once more."
        ) from error
    return Examples(
        name=manifest["name"],
        class_names=manifest["class_names"],
        keys=index.keys,
        labels=index.labels,
        contents=RecordContents([folder / shard["file"] for shard in part["shards"]], index.places),
    )


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal. Raises `OSError` where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
