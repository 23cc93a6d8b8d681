"""Class folders: one folder a class, its photographs inside, at any depth."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alexnet_keras.data.contents import FileContents, Names
from alexnet_keras.data.decoding import IMAGE_SUFFIXES
from alexnet_keras.data.examples import Examples
from alexnet_keras.errors import UserError

# Photographs that cannot be decoded here. They are listed as unreadable, not passed over silently.
FOREIGN_SUFFIXES = (".heic", ".heif", ".avif", ".tif", ".tiff", ".jp2", ".jxl")
#: what the parts of a set are called here, and the names that their folders may have
PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


def read_tree(folder: str | Path) -> dict[str, Examples]:
    """Photographs in class folders, or in folders of parts that hold class folders.

    Args:
        folder: holds one subfolder a class; or subfolders `train` and perhaps `val` and `test`
            (`PARTS` has the other names), each with one subfolder a class. A `train` is a class
            where other subfolders are and neither of the others. A `test` without subfolders has
            no labels, and is passed over.

    Returns:
        Examples by part, `train` first; all with the classes of `train`.

    Raises:
        UserError: as `read_folder`; two folders for one part; parts without `train`.
    """
    folder = Path(folder)
    parts = _part_folders(folder)
    if not parts:
        return {"train": read_folder(folder)}
    training = read_folder(parts.pop("train"), name=folder.resolve().name)
    others = {
        part: read_folder(below, training.class_names, training.name)
        for part, below in parts.items()
    }
    return {"train": training, **others}


def read_folder(
    folder: str | Path, class_names: tuple[str, ...] | None = None, name: str | None = None
) -> Examples:
    """The photographs below `folder`, labelled by its immediate subfolders.

    Args:
        folder: holds one subfolder a class; hidden files and folders are passed over, and so are
            files that are no images by their suffix.
        class_names: the classes to expect, for a validation folder; all must be known.
        name: what to call the examples; by default as the folder.

    Returns:
        Examples in the order of class and path; keys are paths relative to `folder`.

    Raises:
        UserError: no such folder, no class folder, one class only, a class without an image.
    """
    folder = Path(folder)
    found = {below: Names(_images_below(folder, below)) for below in _subfolders(folder)}
    _check_classes(folder, found, class_names)
    class_names = class_names or tuple(found)
    labels = {name: label for label, name in enumerate(class_names)}
    names = Names.joined(list(found.values()))
    return Examples(
        name=name or folder.resolve().name,
        class_names=class_names,
        keys=names,
        labels=np.repeat(
            np.array([labels[name] for name in found], np.int32), [len(n) for n in found.values()]
        ),
        contents=FileContents(folder, names),
    )


def read_paths(paths: Sequence[str | Path]) -> Examples:
    """Photographs by path, a folder standing for all below it, without labels.

    Returns:
        Examples of the one class "unknown" in the order given; keys are the paths. A file that does
        not exist is among them: `screen` tells what cannot be read.

    Raises:
        UserError: a folder without a photograph, or one that cannot be read.
    """
    found: list[str] = []
    for path in map(Path, paths):
        below = [str(path / name) for name in _images_below(path)] if path.is_dir() else [str(path)]
        if not below:
            raise UserError(f"There are no photographs in {path}; give files or other folders.")
        found += below
    names = Names(found)
    return Examples(
        name="photographs",
        class_names=("unknown",),
        keys=names,
        labels=np.zeros(len(names), np.int32),
        contents=FileContents("", names),
    )


def _part_folders(folder: Path) -> dict[str, Path]:
    """The folder of each part that `folder` has; empty if its subfolders are classes."""
    part_of = {name: part for part, names in PARTS.items() for name in names}
    found = _subfolders(folder)
    named = [name for name in found if name.lower() in part_of]
    known = {part_of[name.lower()] for name in named}
    if not known or (named != found and not ("train" in known and len(known) > 1)):
        return {}
    parts: dict[str, Path] = {}
    for name in named:
        part = part_of[name.lower()]
        if part in parts:
            raise UserError(
                f"The subfolders {parts[part].name!r} and {name!r} of {folder} are the same part "
                "of a set; keep one of them."
            )
        parts[part] = folder / name
    if "test" in parts and not _subfolders(parts["test"]):
        del parts["test"]
    if "train" not in parts:
        raise UserError(
            f"The subfolders of {folder} are parts of a set ({_some(named)}), and none to train on "
            "is among them; put the training photographs into one named 'train'."
        )
    return {part: parts[part] for part in PARTS if part in parts}


def _subfolders(folder: Path) -> list[str]:
    """The names of the subfolders, sorted, without hidden ones."""
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {folder}; give a folder that holds one subfolder of photographs "
            "for each class."
        )
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.is_dir() and not _hidden(e.name))
    except OSError as error:
        raise _cannot_be_read(folder, error) from error


def _images_below(folder: Path, below: str = "") -> list[str]:
    """The images below a subfolder, as paths relative to `folder`, sorted part by part."""
    images = []
    try:
        for parent, folders, files in os.walk(folder / below, onerror=_raise):
            folders[:] = [name for name in folders if not _hidden(name)]
            relative = os.path.relpath(parent, folder)
            images += [
                name if relative == os.curdir else f"{relative}/{name}"
                for name in files
                if not _hidden(name) and name.lower().endswith((*IMAGE_SUFFIXES, *FOREIGN_SUFFIXES))
            ]
    except OSError as error:
        raise _cannot_be_read(folder / below, error) from error
    return sorted(images, key=lambda path: path.split("/"))


def _cannot_be_read(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"The folder {folder} cannot be read ({error.strerror}); give one that you may read."
    )


def _raise(error: OSError) -> None:
    raise error


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _check_classes(
    folder: Path, found: dict[str, Names], class_names: tuple[str, ...] | None
) -> None:
    if not any(found.values()):
        suffixes = ", ".join(IMAGE_SUFFIXES)
        loose = [entry.name for entry in folder.iterdir() if entry.is_file()]
        if any(name.startswith("ILSVRC2012_val_") for name in loose):
            raise UserError(
                f"The folder {folder} holds ImageNet's validation images as they are unpacked "
                f"({len(loose)} files, no subfolders); sort them into one subfolder for each "
                "class, named as those of the training images."
            )
        raise UserError(
            f"No photograph was found in {folder}, which holds {len(found)} subfolders and "
            f"{len(loose)} files; put photographs ({suffixes}) into one subfolder for each class."
        )
    if empty := [name for name, images in found.items() if not images]:
        raise UserError(
            f"The class folders {_some(empty)} in {folder} hold no photograph; add some or remove "
            "the folders."
        )
    if class_names is not None:
        if unknown := sorted(set(found) - set(class_names)):
            raise UserError(
                f"The classes {_some(unknown)} of {folder} are not among the training classes "
                f"({_some(class_names)}); name the subfolders alike."
            )
    elif len(found) < 2:
        raise UserError(
            f"There is only one class in {folder} ({_some(list(found))}); a classifier needs at "
            "least two subfolders of photographs."
        )


def _some(names: list[str] | tuple[str, ...], most: int = 8) -> str:
    shown = ", ".join(map(repr, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
