"""A folder of photographs into TFRecord shards with checksums, resumable, as `records.py` reads.

Which example goes into which shard depends on the examples' keys alone, and each shard is made by
itself, from nothing but the photographs. What is there whole is therefore kept, and what an
interrupted conversion leaves in the end is what an uninterrupted one does, byte for byte.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import keras
import numpy as np
import tensorflow as tf

from alexnet_keras.data.decoding import decode_image
from alexnet_keras.data.examples import Examples, key_shares
from alexnet_keras.data.layouts import read_layout
from alexnet_keras.data.records import (
    FORMAT,
    MANIFEST,
    RecordIndex,
    checksum,
    example,
    finished_manifest,
    read_manifest,
    scan_shard,
)
from alexnet_keras.data.screening import Skipped, check_skipped, screen
from alexnet_keras.errors import UserError, is_full_disk
from alexnet_keras.whole_files import written_beside

SKIPPED = "skipped.txt"
#: megabytes (10^6 bytes) of a shard: few files, and little work to do again after a break
SHARD_MEGABYTES = 128
#: of a photograph written at quality 95, roughly; decides the number of shards and nothing else
_BYTES_PER_PIXEL = 0.6

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def convert(
    data_dir: str | Path,
    output: str | Path,
    *,
    shards: int | None = None,
    shard_megabytes: int = SHARD_MEGABYTES,
    resize: int | None = None,
    quality: int = 95,
    verbose: int = 1,
) -> str:
    """Writes the photographs of `data_dir` as TFRecord shards into `output`, or goes on doing so.

    The examples of a part are shuffled by a hash of their keys, so that shards read from front to
    back are mixed already. Unreadable images are left out and listed in `skipped.txt`.

    Args:
        data_dir: as in `layouts.read_layout`.
        output: a new or empty folder, or one that the same conversion has begun.
        shards: how many for the training part; others have shards of about the same size.
        shard_megabytes: about how large a shard is to be; used without `shards`.
        resize: the shorter side, in pixels, that larger photographs are reduced to and stored as
            JPEG; smaller ones stay as they are, and without `resize` all do.
        quality: of those JPEGs, 1..100.
        verbose: 1 shows a progress bar.

    Returns:
        A sentence with what was written.

    Raises:
        UserError: no class folders; another conversion, or other files, in `output`; photographs
            that have changed since this one began; a full disk.
    """
    began = time.monotonic()
    data_dir, output = Path(data_dir), Path(output)
    if output.resolve().is_relative_to(data_dir.resolve()):
        raise UserError(
            f"The output {output} is inside the photographs' folder {data_dir}, where it would be "
            "taken for photographs; give a folder beside it."
        )
    parts = read_layout(data_dir)
    size = shard_megabytes * 10**6 if shards is None else _bytes(parts["train"], resize) / shards
    counts = {name: _shard_count(part, resize, size) for name, part in parts.items()}
    plan = {
        "format": FORMAT,
        "name": parts["train"].name,
        "class_names": list(parts["train"].class_names),
        "options": {"resize": resize, "quality": quality if resize else None, "shards": counts},
        "source": {name: part.fingerprint() for name, part in parts.items()},
    }
    with _failures_told(output), _for_this_process(output):
        _check_same(plan, output, data_dir)
        manifest = _write(parts, plan, output, verbose)
    written = [shard for part in manifest["parts"].values() for shard in part["shards"]]
    skipped = sum(len(shard["skipped"]) for shard in written)
    left_out = f"; {skipped} unreadable left out, listed in {SKIPPED}" if skipped else ""
    files = f"{len(written)} shard{'s' * (len(written) > 1)}"
    return (
        f"{sum(shard['examples'] for shard in written)} images in {files}, "
        f"{sum(shard['bytes'] for shard in written) / 1e6:.1f} MB, are in {output} after "
        f"{time.monotonic() - began:.0f} s{left_out}."
    )


def verify(folder: str | Path, verbose: int = 1) -> str:
    """Compares every file of a finished conversion with its checksum.

    Returns:
        A sentence with what was compared.

    Raises:
        UserError: the folder is unfinished, or files are missing or differ: their names.
    """
    folder = Path(folder)
    parts = finished_manifest(folder)["parts"].values()
    files = [file for part in parts for file in (*part["shards"], part["index"])]
    bar = keras.utils.Progbar(len(files), verbose=verbose, unit_name="file")
    wrong = []
    for file in files:
        if not _is_whole(folder / file["file"], file["sha256"]):
            wrong.append(file["file"])
        bar.add(1)
    if wrong:
        raise UserError(
            f"{len(wrong)} of {len(files)} files in {folder} are missing or differ from their "
            f"checksums: {', '.join(wrong[:8])}{', ...' * (len(wrong) > 8)}; copy them anew, or "
            "start the conversion once more, which writes these alone."
        )
    images = sum(part["examples"] for part in parts)
    return f"All {len(files)} files in {folder}, {images} images, agree with their checksums."


def _write(
    parts: Mapping[str, Examples], plan: Mapping[str, Any], output: Path, verbose: int
) -> dict[str, Any]:
    """Brings every shard, the indices, the list of skipped images and the manifest into being."""
    jobs = {
        name: _shards_of(name, part, plan["options"]["shards"][name])
        for name, part in parts.items()
    }
    done = _known_shards(output)
    manifest = {**plan, "complete": False, "parts": {}}
    shrink = _shrinking(plan["options"]["resize"], plan["options"]["quality"])
    bar = keras.utils.Progbar(sum(map(len, parts.values())), verbose=verbose, unit_name="image")
    if not done:
        _write_json(manifest, output / MANIFEST)
    indices = {}
    for name, part in parts.items():
        scanned = []
        for file, chosen in jobs[name].items():
            path = output / file
            if file in done and _is_whole(path, done[file]["sha256"]):
                bar.add(len(chosen))
                scanned.append(scan_shard(path))
                continue
            skipped = _write_shard(part.select(chosen), path, shrink, lambda: bar.add(1))
            scanned.append(scan_shard(path))
            done[file] = {
                "file": file,
                "examples": len(scanned[-1].places),
                "bytes": path.stat().st_size,
                "sha256": checksum(path),
                "skipped": [[bad.key, bad.reason] for bad in skipped],
            }
            manifest["parts"] = {
                name: {"shards": [done[file] for file in files if file in done]}
                for name, files in jobs.items()
            }
            _write_json(manifest, output / MANIFEST)
        indices[name] = RecordIndex.joined(scanned)

    manifest["parts"] = {
        name: {
            "examples": len(indices[name].places),
            "index": _saved(indices[name], output / f"{name}.index.npz"),
            "shards": [done[file] for file in files],
        }
        for name, files in jobs.items()
    }
    _list_skipped(manifest, sum(map(len, parts.values())), output / SKIPPED)
    manifest["complete"] = True
    _write_json(manifest, output / MANIFEST)
    return manifest


def _saved(index: RecordIndex, path: Path) -> dict[str, str]:
    index.save(path)
    return {"file": path.name, "sha256": checksum(path)}


def _list_skipped(manifest: Mapping[str, Any], total: int, path: Path) -> None:
    """Writes what was left out, by the path below the folder of photographs."""
    parts = manifest["parts"]
    skipped = [
        Skipped(key if len(parts) == 1 else f"{name}/{key}", reason)
        for name, part in parts.items()
        for shard in part["shards"]
        for key, reason in shard["skipped"]
    ]
    check_skipped(total, skipped, manifest["name"], allow_bad=True)
    with written_beside(path, synced=True) as beside:
        lines = (f"{bad.key}\t{bad.reason}\n" for bad in skipped)
        beside.write_text("".join(lines), encoding="utf-8", errors="surrogateescape")


def _shards_of(name: str, part: Examples, count: int) -> dict[str, np.ndarray]:
    """The file of each shard of a part, and which examples belong into it."""
    order = np.argsort(key_shares(part.keys, "order"), kind="stable")
    return {
        f"{name}-{number:05d}-of-{count:05d}.tfrecord": chosen
        for number, chosen in enumerate(np.array_split(order, count))
    }


def _write_shard(
    examples: Examples,
    path: Path,
    shrink: Callable[[bytes], bytes],
    advance: Callable[[], None],
) -> list[Skipped]:
    """Writes the readable examples, in their order, and returns the others."""
    kept, skipped = screen(examples, advance)

    def prepared(index: int) -> bytes:
        return shrink(kept.read(index))

    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        written_beside(path, synced=True) as part,
        tf.io.TFRecordWriter(os.fspath(part)) as writer,
    ):
        images = _in_order(pool, prepared, range(len(kept)))
        for key, label, image in zip(kept.keys.encoded(), kept.labels, images, strict=True):
            writer.write(example(image, int(label), key))
    return skipped


def _in_order(
    pool: Executor, function: Callable[[_Item], _Result], items: Iterable[_Item], ahead: int = 64
) -> Iterator[_Result]:
    """As `pool.map`, with no more than `ahead` results that wait to be taken."""
    waiting: deque = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) == ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _shrinking(resize: int | None, quality: int | None) -> Callable[[bytes], bytes]:
    """A function that reduces an encoded image, or leaves it as it is."""
    if resize is None:
        return lambda encoded: encoded

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
    def shrunk(encoded: tf.Tensor) -> tf.Tensor:
        image = decode_image(encoded)
        shape = tf.shape(image)[:2]
        shorter = tf.reduce_min(shape)

        def smaller() -> tf.Tensor:
            size = tf.cast(tf.round(shape * resize / shorter), tf.int32)
            pixels = tf.image.resize(image, size, antialias=True)
            pixels = tf.saturate_cast(tf.round(pixels), tf.uint8)
            return tf.io.encode_jpeg(pixels, quality=quality)

        return tf.cond(shorter > resize, smaller, lambda: encoded)

    return lambda encoded: shrunk(tf.constant(encoded)).numpy()


def _shard_count(part: Examples, resize: int | None, size: float) -> int:
    return min(max(round(_bytes(part, resize) / size), 1), len(part))


def _bytes(part: Examples, resize: int | None) -> float:
    """About how large the images of a part will be when they are stored."""
    sizes = np.maximum(part.contents.sizes(), 0)
    if resize is not None:
        # Photographs are mostly 4 by 3.
        sizes = np.minimum(sizes, resize * resize * 4 / 3 * _BYTES_PER_PIXEL)
    return float(sizes.sum())


def _known_shards(output: Path) -> dict[str, dict[str, Any]]:
    """What the manifest of an interrupted or finished conversion says of each shard."""
    if not (output / MANIFEST).exists():
        return {}
    parts = read_manifest(output)["parts"].values()
    return {shard["file"]: shard for part in parts for shard in part["shards"]}


def _is_whole(path: Path, sha256: str) -> bool:
    return path.is_file() and checksum(path) == sha256


def _check_same(plan: Mapping[str, Any], output: Path, data_dir: Path) -> None:
    """Refuses to mix two conversions, or to write among other files."""
    if not (output / MANIFEST).exists():
        if others := sorted(path.name for path in output.iterdir() if path.suffix != ".part"):
            raise UserError(
                f"The output folder {output} holds other files ({others[0]!r}); give a new or "
                "empty folder with --output."
            )
        return
    begun = read_manifest(output)
    for what in ("class_names", "source"):
        if begun[what] != plan[what]:
            raise UserError(
                f"The photographs in {data_dir} are not those that the conversion in {output} "
                "began with: some were added, removed, renamed or changed; give another folder "
                "with --output."
            )
    if begun["options"] != plan["options"]:
        differ = ", ".join(
            f"{option} {begun['options'][option]} there, {value} now"
            for option, value in plan["options"].items()
            if begun["options"][option] != value
        )
        raise UserError(
            f"The conversion in {output} was begun with other options ({differ}); give the same, "
            "or another folder with --output."
        )


@contextmanager
def _for_this_process(output: Path) -> Iterator[None]:
    """Makes the folder and keeps other conversions out of it until this one ends, however."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        folder = os.open(output, os.O_RDONLY)
    except OSError as error:
        if is_full_disk(error):
            raise
        raise UserError(
            f"The folder {output} cannot be written to ({error.strerror}); give another one with "
            "--output."
        ) from error
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"Another process is converting into {output}; wait for it, or give another "
                "folder with --output."
            ) from error
        yield
    finally:
        os.close(folder)


@contextmanager
def _failures_told(output: Path) -> Iterator[None]:
    """Makes a sentence of what the disk does in the middle of a conversion."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        if is_full_disk(error):
            raise UserError(
                f"The disk is full: writing to {output} failed. The finished shards stay; make "
                "space and start the same command again, and it goes on."
            ) from error
        if isinstance(error, OSError):
            raise UserError(
                f"{error.filename} cannot be read or written ({error.strerror}). The finished "
                "shards stay; mend that and start the same command again, and it goes on."
            ) from error
        raise


def _write_json(content: Mapping[str, Any], path: Path) -> None:
    with written_beside(path, synced=True) as part:
        part.write_text(json.dumps(content, indent=1) + "\n")
