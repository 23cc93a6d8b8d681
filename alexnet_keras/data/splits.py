"""Who is trained on, who decides when to stop, and who is only seen once at the end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alexnet_keras.data.contents import Names
from alexnet_keras.data.examples import Examples, key_shares
from alexnet_keras.errors import UserError

VALIDATION_FRACTION = 0.2
STOPPING_FRACTION = 0.1


@dataclass(frozen=True, eq=False)
class Splits:
    """The parts of a dataset; no example is in two of them.

    Attributes:
        train: what the net learns from.
        stopping: watched while training, to keep the best weights and, where asked, to stop early.
        validation: no choice sees it; the reported figures come from it.
        dealt: what `folds` deals anew, where `split` made these parts.
    """

    train: Examples
    stopping: Examples
    validation: Examples
    dealt: Dealt | None = None

    def folds(self, count: int) -> list[Splits]:
        """Splits to choose settings by, none of which holds an example of `validation`.

        The others are dealt into `count` folds by a hash of their keys, groups of near-duplicates
        together. Each fold is the validation part of one of the splits returned; a tenth of what
        remains there is for stopping, or the part that was given for it.

        Raises:
            UserError: a part comes out empty, or a class has no example to train on.
            ValueError: `count` is less than 2, or these parts were not made by `split`.
        """
        if self.dealt is None or count < 2:
            raise ValueError(f"Parts made by split() are dealt into 2 folds or more, not {count}.")
        examples, groups, stopping = self.dealt.examples, self.dealt.groups, self.dealt.stopping
        keys = examples.keys if groups is None else _leading_keys(examples.keys, groups)
        places = (key_shares(keys, "folds") * count).astype(int)
        found = []
        for number in range(count):
            rest = np.flatnonzero(places != number)
            found.append(
                split(
                    examples.select(rest),
                    stopping,
                    examples.select(np.flatnonzero(places == number)),
                    None if groups is None else groups[rest],
                )
            )
        return found


@dataclass(frozen=True, eq=False)
class Dealt:
    """What training and early stopping share.

    Attributes:
        examples: all that is not validation, in the order that it came in, less a part that was
            given for stopping.
        groups: as in `split`, of these examples.
        stopping: the part that was given.
    """

    examples: Examples
    groups: np.ndarray | None
    stopping: Examples | None


def split(
    training: Examples,
    stopping: Examples | None = None,
    validation: Examples | None = None,
    groups: np.ndarray | None = None,
) -> Splits:
    """Takes a fifth as validation part and a tenth of the rest for stopping, where not given.

    Which example goes where depends on its key alone; of a group, on the alphabetically first key
    in it, where all others follow.

    Args:
        groups: int64 (examples,), a number for each training example; those with the same number
            stay together. None for no groups.

    Raises:
        UserError: a part comes out empty, or a class has no example to train on.
    """
    keys = training.keys if groups is None else _leading_keys(training.keys, groups)
    given, rest = stopping, np.ones(len(training), bool)
    if validation is None:
        inside = _inside(keys, VALIDATION_FRACTION, "validation")
        validation = training.select(np.flatnonzero(inside))
        rest &= ~inside
    learned = np.flatnonzero(rest)
    dealt = Dealt(training.select(learned), None if groups is None else groups[learned], given)
    if stopping is None:
        inside = rest & _inside(keys, STOPPING_FRACTION, "stopping")
        stopping = training.select(np.flatnonzero(inside))
        rest &= ~inside
    training = training.select(np.flatnonzero(rest))
    for name, examples in (
        ("training", training),
        ("early-stopping", stopping),
        ("validation", validation),
    ):
        if not len(examples):
            raise UserError(
                f"The {name} part of {training.name} is empty ({len(training)} photographs are "
                "left to train on); add photographs, at least some ten for each class."
            )
    _check_classes(training)
    return Splits(training, stopping, validation, dealt)


def hold_out(training: Examples, share: float) -> tuple[Examples, Examples | None]:
    """What is trained on, and the fixed `share` (0..1) of it that is only watched; None for 0.

    Raises:
        UserError: nothing comes out to be watched, or a class has no example to train on.
    """
    if share == 0:
        return training, None
    rest, watched = part(training, share, "watched")
    if not len(watched):
        raise UserError(
            f"A share of {share:g} of the {len(training)} photographs of {training.name} is none; "
            "give a larger one, or 0."
        )
    _check_classes(rest)
    return rest, watched


def part(examples: Examples, fraction: float, salt: str) -> tuple[Examples, Examples]:
    """The examples outside and inside a fixed `fraction` of all keys."""
    inside = _inside(examples.keys, fraction, salt)
    return examples.select(np.flatnonzero(~inside)), examples.select(np.flatnonzero(inside))


def _inside(keys: Names, fraction: float, salt: str) -> np.ndarray:
    """bool (keys,): whether each belongs to a fixed `fraction` of all keys."""
    return key_shares(keys, salt) < fraction


def _leading_keys(keys: Names, groups: np.ndarray) -> Names:
    """For each key the alphabetically first one of its group."""
    _, which, counts = np.unique(groups, return_inverse=True, return_counts=True)
    several = np.flatnonzero(counts[which] > 1).tolist()
    first: dict[int, int] = {}
    for index in sorted(several, key=keys.__getitem__):
        first.setdefault(which[index], index)
    leading = np.arange(len(keys))
    leading[several] = [first[which[index]] for index in several]
    return keys.select(leading)


def _check_classes(training: Examples) -> None:
    if (missing := np.flatnonzero(training.counts == 0)).size:
        raise UserError(
            f"The class {training.class_names[missing[0]]!r} of {training.name} has no photograph "
            "left to train on after the split; add photographs of it, at least some ten, or remove "
            "the class."
        )
