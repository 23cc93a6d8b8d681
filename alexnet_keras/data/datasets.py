"""Datasets by name or by folder, and the choice that `--dataset auto` makes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from alexnet_keras.data import tiny_imagenet
from alexnet_keras.data.drawn_flowers import SPECIES, drawn_flowers
from alexnet_keras.data.examples import Examples
from alexnet_keras.data.folders import read_folder
from alexnet_keras.data.layouts import read_layout
from alexnet_keras.data.records import is_record_folder, read_records
from alexnet_keras.data.tfds_source import SOURCES, Unavailable, read_tfds
from alexnet_keras.errors import UserError

DATASETS = ("auto", "drawn_flowers", *sorted(SOURCES))

DRAWN_TRAIN_PER_CLASS = 400
DRAWN_VALIDATION_PER_CLASS = 100

#: training part, early-stopping part and validation part; None: to be split off the training part
Parts = tuple[Examples, Examples | None, Examples | None]


def load_examples(
    dataset: str = "auto",
    data_dir: str | Path | None = None,
    val_dir: str | Path | None = None,
    say: Callable[[str], None] = print,
) -> Parts:
    """The examples that a recipe's options ask for.

    Args:
        dataset: a name of `DATASETS`, or any other of TFDS that is prepared (`read_tfds`);
            `"auto"` takes tf_flowers where it is prepared or can be downloaded, and drawn_flowers
            otherwise, which `say` is told with the reason.
        data_dir: takes the place of `dataset`: class folders, parts of class folders or Tiny
            ImageNet (`read_layout`), or TFRecords that `convert` wrote. Of two further parts, `val`
            is the early-stopping part and `test` the validation part.
        val_dir: class folders of the validation part; of `data_dir` only the training part is
            taken then.
        say: receives one sentence about a choice made.

    Raises:
        UserError: a folder that is none of these; a dataset that cannot be had.
    """
    if data_dir is not None:
        return _from_folder(Path(data_dir), val_dir)
    if dataset == "drawn_flowers":
        return _drawn()
    if dataset == tiny_imagenet.NAME:
        raise UserError(
            "Tiny ImageNet is read from its folder and not downloaded; unpack "
            f"{tiny_imagenet.SOURCE} (248 MB) and give --data-dir tiny-imagenet-200."
        )
    if dataset == "auto":
        try:
            return read_tfds("tf_flowers", say)
        except Unavailable as error:
            say(f"{error} Going on with drawn_flowers, drawn by this package.")
            return _drawn()
    return read_tfds(dataset, say)


def _from_folder(data_dir: Path, val_dir: str | Path | None) -> Parts:
    parts = read_records(data_dir) if is_record_folder(data_dir) else read_layout(data_dir)
    training = parts["train"]
    if val_dir is not None:
        return training, None, read_folder(val_dir, training.class_names)
    if len(parts) == 3:
        return training, parts["val"], parts["test"]
    return training, None, parts.get("val", parts.get("test"))


def _drawn() -> Parts:
    parts = []
    for seed, per_class in ((0, DRAWN_TRAIN_PER_CLASS), (1, DRAWN_VALIDATION_PER_CLASS)):
        encoded, labels, keys = drawn_flowers(per_class, seed=seed)
        parts.append(Examples("drawn_flowers", SPECIES, keys, labels, encoded))
    return parts[0], None, parts[1]
