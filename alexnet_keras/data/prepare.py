"""From a recipe's options to the parts that it trains and measures on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras

from alexnet_keras.data.datasets import load_examples
from alexnet_keras.data.examples import Examples
from alexnet_keras.data.near_duplicate_list import (
    about_near_duplicates,
    list_near_duplicates,
    write_near_duplicates,
)
from alexnet_keras.data.near_duplicates import find_groups
from alexnet_keras.data.screening import Skipped, check_skipped, screen
from alexnet_keras.data.splits import VALIDATION_FRACTION, Splits, hold_out, part, split
from alexnet_keras.errors import UserError


def prepare_splits(
    dataset: str,
    data_dir: Path | None = None,
    val_dir: Path | None = None,
    *,
    allow_bad: bool = False,
    say: Callable[[str], None] = print,
    skipped_path: Path | None = None,
    near_duplicates_path: Path | None = None,
    verbose: int = 1,
) -> tuple[Splits, list[Skipped]]:
    """Loads a dataset, leaves out unreadable images, and splits what is left.

    Near-duplicates stay together where the split is made here; see `near_duplicates.py`.

    Args:
        dataset, data_dir, val_dir: as in `load_examples`.
        allow_bad: go on even if more than 5% of the images are unreadable.
        say: receives a sentence about each choice made.
        skipped_path: where to list the skipped images, written before anything is refused.
        near_duplicates_path: where to list the groups of near-duplicates, a line for each
            photograph: group, part, class and key, with tabs between.
        verbose: 1 shows progress bars, of reading the images and of comparing them.

    Raises:
        UserError: the dataset cannot be had, too many of its images are unreadable, or a part or a
            class comes out empty.
    """
    loaded = load_examples(dataset, data_dir, val_dir, say)
    given = [examples for examples in loaded if examples is not None]
    total = sum(map(len, given))
    bar = keras.utils.Progbar(total, verbose=verbose, unit_name="image")
    skipped: list[Skipped] = []
    screened: list[Examples | None] = []
    for examples in loaded:
        if examples is None:
            screened.append(None)
            continue
        kept, bad = screen(examples, advance=lambda: bar.add(1))
        screened.append(kept)
        skipped += bad
    if skipped_path is not None:
        lines = (f"{bad.key}\t{bad.reason}\n" for bad in skipped)
        skipped_path.write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
    check_skipped(total, skipped, given[0].name, allow_bad)
    if skipped:
        say(
            f"{len(skipped)} of {total} images cannot be read and are left out; "
            f"the first is {skipped[0].key} ({skipped[0].reason})."
        )
    return _split_by_groups(screened, say, near_duplicates_path, verbose), skipped


def _split_by_groups(
    parts: Sequence[Examples | None],
    say: Callable[[str], None],
    listed: Path | None,
    verbose: int,
) -> Splits:
    """Splits the training part of `parts`, near-duplicates together, and tells of them."""
    given = [examples for examples in parts if examples is not None]
    total = sum(map(len, given))
    bar = keras.utils.Progbar(total, verbose=verbose, unit_name="thumbnail")
    groups = find_groups(given, advance=lambda: bar.add(1))
    training, stopping, validation = parts
    splits = split(training, stopping, validation, groups[0])
    found = list_near_duplicates(splits, given, groups)
    if listed is not None:
        write_near_duplicates(found, listed)
    for sentence in about_near_duplicates(
        found, splits, total, is_split=stopping is None or validation is None
    ):
        say(sentence)
    return splits


@dataclass(frozen=True, eq=False)
class TrainingParts:
    """The parts of a dataset that a net is trained on from scratch; no example is in two of them.

    Attributes:
        train: what the net learns from.
        watched: measured after each epoch, to divide rates by or to look at; None for nothing.
        validation: no choice sees it; the reported figures come from it.
    """

    train: Examples
    watched: Examples | None
    validation: Examples

    def fingerprints(self) -> dict[str, str | None]:
        """What each part is known by; see `Examples.fingerprint`."""
        return {
            "training photographs": self.train.fingerprint(),
            "watched photographs": None if self.watched is None else self.watched.fingerprint(),
            "validation photographs": self.validation.fingerprint(),
        }


def prepare_training(
    dataset: str,
    data_dir: Path | None = None,
    val_dir: Path | None = None,
    *,
    watch_share: float = 0.02,
    say: Callable[[str], None] = print,
) -> TrainingParts:
    """Loads a dataset to train on from scratch. No image is read: that takes hours for ImageNet.

    Args:
        dataset, data_dir, val_dir: as in `load_examples`.
        watch_share: share (0..1) of the training photographs to be watched only, where the dataset
            has no part for it.
        say: receives a sentence about each choice made.

    Raises:
        UserError: the dataset cannot be had, or a part or a class comes out empty.
    """
    training, watched, validation = load_examples(dataset, data_dir, val_dir, say)
    if validation is None:
        training, validation = part(training, VALIDATION_FRACTION, "validation")
        say(
            f"{training.name} has no validation part: a fifth of the photographs "
            f"({len(validation):,}), chosen by a hash of their names, is kept for the figures."
        )
    if watched is None or watch_share == 0:
        training, watched = hold_out(training, watch_share)
    if not len(training) or not len(validation):
        raise UserError(
            f"{training.name} has {len(training)} photographs to train on and {len(validation)} to "
            "measure on; give a dataset with some of both."
        )
    return TrainingParts(training, watched, validation)
