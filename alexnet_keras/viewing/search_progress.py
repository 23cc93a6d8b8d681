"""A line on the console for each trial of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alexnet_keras.tuning import Outcome


class TrialProgress:
    """Tells of trials as they end, and which is the best so far.

    Args:
        minutes: the search's time.
        before: trials that ended before this start.
    """

    def __init__(self, minutes: float, before: Sequence[Outcome] = ()) -> None:
        self._minutes = minutes
        self._best: Outcome | None = None
        for outcome in before:
            self._compare(outcome)

    def tell(self, outcome: Outcome) -> None:
        """Prints a line."""
        self._compare(outcome)
        accuracy = "     -" if outcome.accuracy is None else f"{outcome.accuracy:6.1%}"
        best = "" if self._best is None else f", best {self._best.accuracy:.1%}"
        left = max(self._minutes - outcome.ended / 60, 0.0)
        why = "" if outcome.reason is None else f"; {outcome.status}: {outcome.reason}"
        print(
            f"trial {outcome.trial:>4} {accuracy} in {outcome.ended - outcome.began:5.1f} s{best} "
            f"({left:.1f} min left){why}",
            flush=True,
        )

    def _compare(self, outcome: Outcome) -> None:
        if outcome.accuracy is not None and (self._best is None or outcome.rank > self._best.rank):
            self._best = outcome


def tell_found(best: Mapping[str, Any], folder: Path) -> None:
    """Prints what a search came to.

    Args:
        best: the content of `best.json`.
        folder: where that lies.
    """
    search = best["search"]
    default = search["default_accuracy"]
    beside = "" if default is None else f", the default's {default:.1%}"
    place = folder / "best.json"
    where = (
        f"over {search['folds']} fold{'s'[: search['folds'] - 1]} of photographs that trials were "
        f"not measured on, the best there of {1 + len(search['others'])}"
        if search["folds"]
        else "on the photographs that all trials were measured on"
    )
    print(
        f"\nOf {search['trials']} trials the best, number {search['trial']}, has "
        f"{search['accuracy']:.1%}{beside}: {where}.\n"
        f"  settings  {place}\n"
        f"  report    {folder / 'report.html'}\n"
        "Train with them, and measure on photographs that no choice has seen: a fine-tuning "
        f"recipe with --settings {place}"
    )
