"""What a search leaves for others to read: `best.json` and `trials.csv`."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alexnet_keras.tuning.outcomes import Outcome
from alexnet_keras.tuning.search import Found
from alexnet_keras.tuning.space import REASONS
from alexnet_keras.whole_files import write_json, written_beside

_COLUMNS = (
    "trial",
    "status",
    "accuracy",
    "loss",
    "frozen_accuracy",
    "went_on",
    "epochs",
    "began",
    "ended",
    "storing",
    "worker",
    "reason",
)


def write_best(path: Path, found: Found, about: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the settings that a search found, whole or not at all, and returns the content.

    Args:
        about: what they were found for: photographs, weights and the like.

    Returns:
        `settings`; and in `search`, beside `about`, the accuracies of the best and of the default
        over `folds` folds that trials were not measured on (0: on the one that they were): the best
        is the best there of itself and the `others`, which the accuracy flatters it by. These
        follow, the best first; a recipe's `--settings` takes them too, in a file of their own.
    """
    best, default = found.finalists[0], found.default
    content = {
        "settings": found.settings,
        "search": {
            **about,
            "accuracy": best.accuracy,
            "default_accuracy": None if default is None else default.accuracy,
            "folds": len(best.scores),
            "trial": best.outcome.trial,
            "trials": len(found.outcomes),
            "seconds": round(found.seconds, 1),
            "others": [
                {"trial": one.outcome.trial, "accuracy": one.accuracy, "settings": one.settings}
                for one in found.finalists[1:]
            ],
        },
    }
    write_json(path, content)
    return content


def write_trials(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Writes a row for each trial: what became of it, then its choices, empty where not active."""
    with (
        written_beside(path) as part,
        part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow((*_COLUMNS, *REASONS))
        for one in outcomes:
            chosen = [one.settings.get(name, "") for name in REASONS]
            told = ["" if (value := getattr(one, name)) is None else value for name in _COLUMNS]
            writer.writerow((*told, *chosen))
