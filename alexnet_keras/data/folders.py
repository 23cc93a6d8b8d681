"""Class folders: one folder a class, its photographs inside, at any depth."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alexnet_keras.data.decoding import IMAGE_SUFFIXES
from alexnet_keras.data.examples import Examples
from alexnet_keras.errors import UserError

# Photographs that cannot be decoded here. They are listed as unreadable, not passed over silently.
FOREIGN_SUFFIXES = (".heic", ".heif", ".avif", ".tif", ".tiff", ".jp2", ".jxl")
SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing"}


def read_folder(folder: str | Path, class_names: tuple[str, ...] | None = None) -> Examples:
    """The photographs below `folder`, labelled by its immediate subfolders.

    Args:
        folder: holds one subfolder a class; hidden files and folders are passed over, and so are
            files that are no images by their suffix.
        class_names: the classes to expect, for a validation folder; all must be known.

    Returns:
        Examples in the order of class and path; keys are paths relative to `folder`.

    Raises:
        UserError: no such folder, no class folder, one class only, a class without an image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {folder}; give a folder that holds one subfolder of photographs "
            "for each class."
        )
    try:
        found = {
            entry.name: _images_below(entry)
            for entry in sorted(folder.iterdir())
            if entry.is_dir() and not _hidden(entry.name)
        }
    except OSError as error:
        raise UserError(
            f"The folder {folder} cannot be read ({error.strerror}); give one that you may read."
        ) from error
    _check_classes(folder, found, class_names)
    class_names = class_names or tuple(found)
    paths = [(path, class_names.index(name)) for name in found for path in found[name]]
    return Examples(
        name=folder.resolve().name,
        class_names=class_names,
        keys=tuple(path.relative_to(folder).as_posix() for path, _ in paths),
        labels=np.array([label for _, label in paths], dtype=np.int32),
        contents=tuple(path for path, _ in paths),
    )


def read_paths(paths: Sequence[str | Path]) -> Examples:
    """Photographs by path, a folder standing for all below it, without labels.

    Returns:
        Examples of the one class "unknown" in the order given; keys are the paths. A file that does
        not exist is among them: `screen` tells what cannot be read.

    Raises:
        UserError: a folder without a photograph, or one that cannot be read.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        try:
            below = _images_below(path) if path.is_dir() else [path]
        except OSError as error:
            raise UserError(
                f"The folder {path} cannot be read ({error.strerror}); give one that you may read."
            ) from error
        if not below:
            raise UserError(f"There are no photographs in {path}; give files or other folders.")
        found += below
    return Examples(
        name="photographs",
        class_names=("unknown",),
        keys=tuple(map(str, found)),
        labels=np.zeros(len(found), np.int32),
        contents=tuple(found),
    )


def _images_below(folder: Path) -> list[Path]:
    images = []
    for parent, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not _hidden(name)]
        images += [
            Path(parent, name)
            for name in files
            if not _hidden(name) and name.lower().endswith((*IMAGE_SUFFIXES, *FOREIGN_SUFFIXES))
        ]
    return sorted(images)


def _raise(error: OSError) -> None:
    raise error


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _check_classes(
    folder: Path, found: dict[str, list[Path]], class_names: tuple[str, ...] | None
) -> None:
    if found and {name.lower() for name in found} <= SPLIT_NAMES:
        raise UserError(
            f"The subfolders of {folder} are splits, not classes ({', '.join(found)}); give the "
            "training folder with --data-dir and the other one with --val-dir."
        )
    if not any(found.values()):
        suffixes = ", ".join(IMAGE_SUFFIXES)
        loose = sum(1 for entry in folder.iterdir() if entry.is_file())
        raise UserError(
            f"No photograph was found in {folder}, which holds {len(found)} subfolders and {loose} "
            f"files; put photographs ({suffixes}) into one subfolder for each class."
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
