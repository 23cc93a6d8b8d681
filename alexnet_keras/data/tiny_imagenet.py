"""Tiny ImageNet as it is distributed: 200 of ImageNet's classes at 64 px.

`tiny-imagenet-200` holds `wnids.txt` (a WordNet id a line), `words.txt` (ids and their names),
`train/<id>/images/` with 500 images a class, `val/images/` with 10,000 whose classes are in
`val/val_annotations.txt`, and `test/images/` without labels. It was made for Stanford's course
CS231n (http://cs231n.stanford.edu/tiny-imagenet-200.zip, 248 MB); nothing here downloads it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from alexnet_keras.data.contents import FileContents, Names
from alexnet_keras.data.examples import Examples
from alexnet_keras.data.folders import read_folder
from alexnet_keras.errors import UserError

NAME = "tiny_imagenet"
ANNOTATIONS = Path("val", "val_annotations.txt")
SOURCE = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"


def is_tiny_imagenet(folder: str | Path) -> bool:
    """Whether a folder is laid out as Tiny ImageNet is distributed."""
    folder = Path(folder)
    return (folder / "wnids.txt").is_file() and (folder / ANNOTATIONS).is_file()


def read_tiny_imagenet(folder: str | Path) -> dict[str, Examples]:
    """The labelled parts of Tiny ImageNet, of all classes or of some.

    Args:
        folder: `tiny-imagenet-200`, unpacked. Classes are the subfolders of its `train`, in the
            order of their WordNet ids, and are called by the first of their names in `words.txt`.

    Returns:
        Examples by part, `train` and `val`; keys are paths relative to the part's folder.

    Raises:
        UserError: a class without images, an image without a class or the reverse; what is wrong
            and where.
    """
    folder = Path(folder)
    training = read_folder(folder / "train", name=NAME)
    ids = training.class_names
    names = _names(folder, ids)
    images, labels = _annotated(folder, ids)
    keys = Names(images)
    validation = Examples(NAME, names, keys, labels, FileContents(folder / "val", keys))
    training = Examples(NAME, names, training.keys, training.labels, training.contents)
    return {"train": training, "val": validation}


def _names(folder: Path, ids: tuple[str, ...]) -> tuple[str, ...]:
    """The first name of each class; with its id, or the id alone, where that tells too little."""
    path = folder / "words.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    pairs = (line.partition("\t") for line in lines)
    first = {key: words.partition(",")[0].strip() for key, _, words in pairs}
    names = [first.get(key) or key for key in ids]
    return tuple(
        f"{name} ({key})" if names.count(name) > 1 else name
        for name, key in zip(names, ids, strict=True)
    )


def _annotated(folder: Path, ids: tuple[str, ...]) -> tuple[list[str], np.ndarray]:
    """Paths below `val` and labels of the validation images, in the order of class and number."""
    numbers = {key: number for number, key in enumerate(ids)}
    known = set((folder / "wnids.txt").read_text(encoding="utf-8").split())
    found: list[tuple[int, int, str]] = []
    lines = (folder / ANNOTATIONS).read_text(encoding="utf-8").splitlines()
    for row, line in enumerate(lines):
        name, _, rest = line.partition("\t")
        key = rest.partition("\t")[0]
        if not name or key not in known:
            raise UserError(
                f"Line {row + 1} of {folder / ANNOTATIONS} is {line[:80]!r} and names no class of "
                f"wnids.txt; unpack {SOURCE} anew."
            )
        if key in numbers:
            found.append((numbers[key], row, f"images/{name}"))
    found.sort()
    present = {path.name for path in (folder / "val" / "images").glob("*")}
    if missing := [path for *_, path in found if path.removeprefix("images/") not in present]:
        raise UserError(
            f"{len(missing)} of the {len(found)} images that {folder / ANNOTATIONS} names are not "
            f"there, the first is val/{missing[0]}; unpack {SOURCE} anew."
        )
    return [path for *_, path in found], np.array([label for label, *_ in found], np.int32)
