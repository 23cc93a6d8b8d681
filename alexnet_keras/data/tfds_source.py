"""Datasets of TensorFlow Datasets, as the encoded images that they hold."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_keras.data.contents import Names
from alexnet_keras.data.examples import Examples
from alexnet_keras.data.records import RecordContents, RecordIndex, index_shards
from alexnet_keras.errors import UserError
from alexnet_keras.network import unreachable


@dataclass(frozen=True)
class Source:
    """How a TFDS dataset is used here: where it downloads from, and what its splits are for.

    Where TFDS's address is dead, `by_hand` names the archives that it takes from its folder
    `downloads/manual` in place of a download, and `found_at` says where people find them.
    """

    address: str = ""
    train: str = "train"
    stopping: str | None = None
    validation: str | None = None
    by_hand: tuple[str, ...] = ()
    found_at: str = ""


SOURCES: dict[str, Source] = {
    # One split of 3,670 photographs; ours is made by `splits.split`.
    "tf_flowers": Source("http://download.tensorflow.org/example_images/flower_photos.tgz"),
    # The authors' split: 1,020 to train on, 1,020 to choose by, 6,149 to report on.
    "oxford_flowers102": Source(
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        stopping="validation",
        validation="test",
    ),
    # The authors' split: 8,144 to train on, 8,041 to report on. TFDS checks the archives' SHA-256.
    "cars196": Source(
        validation="test",
        by_hand=(
            "car_devkit.tgz",
            "cars_test.tgz",
            "cars_test_annos_withlabels.mat",
            "cars_train.tgz",
        ),
        found_at="copies are named in https://github.com/pytorch/vision/issues/7545",
    ),
}


class Unavailable(UserError):
    """A dataset is not on this machine and cannot be had now; the message says why."""


def read_tfds(
    name: str, say: Callable[[str], None] = print
) -> tuple[Examples, Examples | None, Examples | None]:
    """Training, early-stopping and validation parts of a dataset of TFDS.

    What is prepared as TFRecords, TFDS's default, is read from there, image by image.

    Args:
        name: one of `SOURCES`, which is downloaded if need be; or any other with the features
            `image` and `label` that is prepared on this machine. Of such a one the validation part
            is its split `validation`, or else `test`, and there is no early-stopping part.
        say: is told what takes long.

    Raises:
        Unavailable: it is not prepared on this machine and cannot be downloaded, found out within
            seconds; it lacks features or a split; TFDS does not know it.
    """
    # Imported here: it takes a second, and class folders do not need it.
    import tensorflow_datasets as tfds

    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        builder = tfds.builder(name, try_gcs=False)
    except Exception as error:  # TFDS raises whatever an unknown or broken name leads it to
        raise Unavailable(
            f"TFDS has no dataset {name!r} ({_first_line(error)}); give one of its catalog, or a "
            "folder with --data-dir."
        ) from error
    source = SOURCES.get(name)
    if not builder.is_prepared():
        _prepare(builder, name, source)
    if source is None:
        source = _plain_source(builder, name)
    _check_kind(tfds, builder, name)
    parts = [
        None if split is None else _read_split(tfds, builder, name, split, say)
        for split in (source.train, source.stopping, source.validation)
    ]
    return parts[0], parts[1], parts[2]


def _prepare(builder: Any, name: str, source: Source | None) -> None:
    """Downloads a dataset of `SOURCES`; of another one, says how it is prepared by hand."""
    place = _short(builder.data_dir)
    if source is None:
        run = "Run"
        if by_hand := builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
            manual = _short(builder.data_dir_root / "downloads" / "manual")
            run = f"First fill {manual}: {' '.join(by_hand.split())} Then run"
        raise Unavailable(
            f"{name} is not prepared in {place}. {run} `tfds build {name}` once, or "
            "give a folder with --data-dir."
        )
    if source.by_hand:
        _check_by_hand(builder, name, source)
    # Offline, TFDS itself would retry for minutes.
    elif (reason := unreachable(source.address)) is not None:
        raise Unavailable(
            f"{name} is not in {place} and its host does not answer ({reason}); "
            "connect to the network once, or give a folder with --data-dir."
        )
    try:
        builder.download_and_prepare()
    except Exception as error:  # TFDS raises whatever its downloader, parser or disk raise
        raise Unavailable(
            f"{name} could not be downloaded and prepared in {place} "
            f"({_first_line(error)}); try again, or give a folder with --data-dir."
        ) from error


def _check_by_hand(builder: Any, name: str, source: Source) -> None:
    """Refuses a dataset whose address is dead while an archive is missing: TFDS would ask there."""
    manual = builder.data_dir_root / "downloads" / "manual"
    if missing := [file for file in source.by_hand if not (manual / file).exists()]:
        raise Unavailable(
            f"{name} is not prepared in {_short(builder.data_dir)}, and where TFDS would download "
            f"it from is gone. Put {', '.join(missing)} into {_short(manual)} "
            f"({source.found_at}), or give a folder with one subfolder a class with --data-dir."
        )


def _plain_source(builder: Any, name: str) -> Source:
    """What the splits of a dataset that `SOURCES` does not list are for, by their names."""
    splits = list(builder.info.splits)
    if "train" not in splits:
        raise Unavailable(
            f"{name} has no split 'train' in {_short(builder.data_dir)} (it has "
            f"{', '.join(splits) or 'none'}); give another dataset, or a folder with --data-dir."
        )
    validation = next((split for split in ("validation", "test") if split in splits), None)
    return Source(address="", validation=validation)


def _check_kind(tfds: Any, builder: Any, name: str) -> None:
    """Refuses what is not images with labels, or would be read into memory whatever its size."""
    features = dict(builder.info.features.items())
    kinds = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    if any(not isinstance(features.get(key), kind) for key, kind in kinds.items()):
        raise Unavailable(
            f"{name} is no set of images with one label each (its features are "
            f"{', '.join(features)}; 'image' and 'label' are needed); give another dataset, or a "
            "folder with --data-dir."
        )
    if name not in SOURCES and builder.info.file_format != tfds.core.FileFormat.TFRECORD:
        raise Unavailable(
            f"{name} is prepared as {builder.info.file_format.value}; prepare it as TFRecords "
            f"(`tfds build {name} --file_format=tfrecord --overwrite`)."
        )


def _read_split(
    tfds: Any, builder: Any, name: str, split: str, say: Callable[[str], None]
) -> Examples:
    kept = builder.info.splits.get(split)
    class_names = tuple(builder.info.features["label"].names)
    if kept is None or builder.info.file_format != tfds.core.FileFormat.TFRECORD:
        return _read_into_memory(tfds, builder, name, split, class_names)
    files = list(map(Path, kept.filepaths))
    index = index_shards(files, f"{name} ({split})", say=say)
    if (lacking := kept.num_examples - len(index.places)) > 0:
        say(f"{lacking} records of {name} ({split}) are damaged and are left out.")
    if len(index.labels) and not 0 <= index.labels.min() <= index.labels.max() < len(class_names):
        raise Unavailable(f"The split {split!r} of {name} has no labels; give another dataset.")
    return Examples(
        name=name,
        class_names=class_names,
        keys=Names(_record_keys(split, files, index)),
        labels=index.labels,
        contents=RecordContents(files, index.places),
    )


def _record_keys(split: str, files: list[Path], index: RecordIndex) -> Iterator[str]:
    """Where there are no file names, what TFDS calls `tfds_id`: the shard and a number in it."""
    numbers: Counter[int] = Counter()
    for shard, file_name in zip(index.places["shard"].tolist(), index.keys, strict=True):
        yield f"{split}/{file_name or f'{files[shard].name}__{numbers[shard]}'}"
        numbers[shard] += 1


def _read_into_memory(
    tfds: Any, builder: Any, name: str, split: str, class_names: tuple[str, ...]
) -> Examples:
    encoded, labels, keys = [], [], []
    dataset = builder.as_dataset(
        split=split,
        decoders={"image": tfds.decode.SkipDecoding()},
        # Adds `tfds_id`, a name of each example that does not depend on the order of reading.
        read_config=tfds.ReadConfig(add_tfds_id=True),
        shuffle_files=False,
    )
    for number, example in enumerate(dataset.as_numpy_iterator()):
        encoded.append(example["image"])
        labels.append(example["label"])
        keys.append(_key(example, split, number))
    return Examples(name, class_names, keys, np.array(labels, dtype=np.int32), encoded)


def _key(example: dict[str, Any], split: str, number: int) -> str:
    name = example.get("tfds_id", example.get("file_name"))
    return f"{split}/{number:06d}" if name is None else f"{split}/{name.decode()}"


def _short(folder: str | Path) -> str:
    return str(folder).replace(str(Path.home()), "~", 1)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
