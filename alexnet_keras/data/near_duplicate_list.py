"""What is said and written of near-duplicates once it is known in which part each stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import numpy as np

from alexnet_keras.data.examples import Examples
from alexnet_keras.data.splits import Splits

PARTS = ("train", "stopping", "validation")  # as `Splits` calls them


@dataclass(frozen=True)
class NearDuplicate:
    """A photograph that is not the only one of its picture.

    Attributes:
        group: number of its group, from 1.
        part: the one of `PARTS` that it stands in.
        class_name: what it is labelled.
        key: its name in its part.
    """

    group: int
    part: str
    class_name: str
    key: str


def list_near_duplicates(
    splits: Splits, given: Sequence[Examples], groups: Sequence[np.ndarray]
) -> list[NearDuplicate]:
    """The members of groups with more than one, group by group, in the order of `PARTS`, by key.

    Args:
        splits: what was made of `given`.
        given: the training part as it was before it was split, and the other parts, if any.
        groups: for each part of `given` int64 (examples,), the number of each one's group.
    """
    numbers, counts = np.unique(np.concatenate(groups), return_counts=True)
    several = numbers[counts > 1]
    if not len(several):
        return []
    members = [_members(*part, several) for part in zip(given, groups, strict=True)]
    found = []
    for name in PARTS:
        examples = getattr(splits, name)
        # A part that was given is still the same object; any other comes from the training part.
        source = next((i for i, part in enumerate(given) if part is examples), 0)
        for index, key in enumerate(examples.keys):
            if (group := members[source].get(key)) is not None:
                class_name = examples.class_names[examples.labels[index]]
                found.append(NearDuplicate(group, name, class_name, key))
    return sorted(found, key=lambda one: (one.group, PARTS.index(one.part), one.key))


def write_near_duplicates(found: Sequence[NearDuplicate], path: Path) -> None:
    """Writes a line for each: group, part, class and key, with tabs between."""
    lines = (f"{one.group}\t{one.part}\t{one.class_name}\t{one.key}\n" for one in found)
    path.write_text("".join(lines), encoding="utf-8", errors="surrogateescape")


def about_near_duplicates(
    found: Sequence[NearDuplicate], splits: Splits, total: int, is_split: bool
) -> Iterator[str]:
    """Sentences for the user; none where there is nothing to say.

    Args:
        found: as `list_near_duplicates` gives them.
        total: photographs of all parts.
        is_split: whether a part was split off here, so that groups could be kept together.
    """
    groups = [list(members) for _, members in groupby(found, attrgetter("group"))]
    if not groups:
        return
    across = [group for group in groups if len({one.part for one in group}) > 1]
    kept = ""
    if is_split:
        # Photographs of a part that was given stay where they are.
        what = "what was split of each group" if across else "each group"
        kept = f"; {what} is kept on one side"
    yield (
        f"{len(found):,} of {total:,} photographs are near-duplicates of others, in "
        f"{_count(groups)}{kept}."
    )
    if across:
        known = sum(one.part == "validation" for group in across for one in group)
        share = f"{known:,} of {len(splits.validation):,} validation photographs"
        yield (
            f"{_count(across)} of near-duplicates stand{'s' * (len(across) == 1)} in more than one "
            f"of the parts as they were given; {share} have their like in another part"
            f"{', so the figures look better than they are' * (known > 0)}."
        )
    at_odds = [group for group in groups if len({one.class_name for one in group}) > 1]
    if at_odds:
        one = at_odds[0][0]
        other = next(its for its in at_odds[0] if its.class_name != one.class_name)
        yield (
            f"{_count(at_odds)} of near-duplicates hold{'s' * (len(at_odds) == 1)} photographs of "
            f"different classes, so that labels contradict each other; the first has {one.key} "
            f"({one.class_name}) and {other.key} ({other.class_name})."
        )


def _count(groups: Sequence) -> str:
    return f"{len(groups):,} group{'s' * (len(groups) != 1)}"


def _members(examples: Examples, groups: np.ndarray, several: np.ndarray) -> dict[str, int]:
    """The group, counted from 1, of each key in one of the groups numbered `several`."""
    inside = np.flatnonzero(np.isin(groups, several))
    counted = np.searchsorted(several, groups[inside]) + 1
    return dict(zip(examples.keys.select(inside), counted.tolist(), strict=True))
