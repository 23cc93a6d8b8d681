"""The best trials once more, on photographs that trials were not measured on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from statistics import fmean
from typing import Any

from alexnet_keras.data import Splits
from alexnet_keras.errors import is_full_disk
from alexnet_keras.tuning.budget import OutOfTime
from alexnet_keras.tuning.hypermodel import Scores
from alexnet_keras.tuning.outcomes import DEFAULT_TRIAL, Outcome
from alexnet_keras.tuning.tuner import FineTuneTuner, why_failed
from alexnet_keras.whole_files import read_json, write_json

#: the best trials that are tried on the other folds, beside the default: so many at most, and as
#: many as there should be time for on so many folds
FINALISTS, FOLDS_AT_LEAST = 4, 2
#: choices in which two of them differ
APART = 2
#: standard errors that the best trial of many must be ahead by, where no other fold was tried
CERTAIN = 2.0


@dataclass(frozen=True)
class Finalist:
    """A trial that was tried on other folds too.

    Attributes:
        outcome: of the trial, on the fold that it was chosen by.
        settings: as `Choices.of` takes them.
        scores: one for each further fold that all finalists were tried on.
    """

    outcome: Outcome
    settings: dict[str, Any]
    scores: tuple[Scores, ...]

    @property
    def is_default(self) -> bool:
        return int(self.outcome.trial) == DEFAULT_TRIAL

    @property
    def accuracy(self) -> float:
        """The mean over the further folds, 0..1; that of the trial if there are none."""
        return fmean(one.accuracy for one in self._counting)

    @property
    def rank(self) -> tuple[float, float]:
        """Larger is better."""
        return self.accuracy, -fmean(one.loss for one in self._counting)

    @property
    def _counting(self) -> tuple[Scores, ...]:
        # The best of many trials on a fold was lucky with it, by more than settings differ.
        own = Scores(self.outcome.accuracy or 0.0, self.outcome.loss or 0.0)
        return self.scores or (own,)


def choose_finalists(outcomes: Sequence[Outcome], seconds: float = math.inf) -> list[Outcome]:
    """The default, then the best trials that have a score, no two with nearly the same settings.

    Trials of all their epochs come before those that Hyperband gave a few.

    Args:
        seconds: for the finals; one trial is tried beside the default however long that takes.
    """
    scored = [one for one in outcomes if one.accuracy is not None]
    default = [one for one in scored if int(one.trial) == DEFAULT_TRIAL]
    ranked = sorted(scored, key=lambda one: (one.epochs == 1, *one.rank), reverse=True)
    found = list(default)
    for one in ranked:
        chosen = len(found) - len(default)
        if chosen == FINALISTS:
            break
        takes = FOLDS_AT_LEAST * sum(each.ended - each.began for each in (*found, one))
        in_time = not chosen or takes <= seconds
        if in_time and all(_apart(one, each) >= APART for each in found):
            found.append(one)
    return found


def play_finals(
    tuner: FineTuneTuner,
    folds: Sequence[Splits],
    chosen: Sequence[Outcome],
    path: Path,
    say: Callable[[str], None],
) -> list[Finalist]:
    """Tries the chosen trials on the folds after the first that there is time for.

    Fold after fold, so that all are compared on the same ones. One that fails is out.

    Args:
        path: of the file that keeps what was done, for the next start.

    Returns:
        First the one whose settings are found, then the others by rank.
    """
    known = read_json(path)
    done, left = 1, list(chosen)
    try:
        for number in range(1, len(folds)):
            for outcome in list(left):
                key = _key(outcome, number)
                if key not in known:
                    known[key] = _tried(tuner, outcome, folds[number])
                    write_json(path, known)
                if (reason := known[key].get("failed")) is not None:
                    say(f"Trial {outcome.trial} failed on another fold ({reason}); it is out.")
                    left.remove(outcome)
            if not left:
                break
            done = number + 1
    except OutOfTime:
        pass
    if not left:  # what the first fold says is all that is known
        left, done = list(chosen), 1
    tried = [one for one in left if "accuracy" in known.get(_key(one, 1), {})]
    if done == 1 and len(tried) > 1:  # no time for all of them: those that were tried count
        left, done = tried, 2
    say(
        f"{len(left)} of the trials, the default and the best, were tried on {done} of "
        f"{len(folds)} folds."
    )
    finalists = [
        Finalist(
            one,
            tuner.settings_of(one),
            tuple(Scores(**known[_key(one, number)]) for number in range(1, done)),
        )
        for one in left
    ]
    # Stable, and the default stands first: it wins where another is only as good.
    ranked = sorted(finalists, key=lambda one: one.rank, reverse=True)
    default = next((one for one in finalists if one.is_default), None)
    if done == 1 and default is not None and not _clearly(ranked[0], default, folds[0]):
        ranked = [default, *(one for one in ranked if one is not default)]
        say("There was no time to tell the best trials from the default: its settings are kept.")
    return ranked


def _tried(tuner: FineTuneTuner, outcome: Outcome, splits: Splits) -> dict[str, float | str]:
    try:
        return asdict(tuner.run_on(outcome, splits))
    except OutOfTime:
        raise
    except Exception as error:
        if is_full_disk(error):
            raise
        return {"failed": why_failed(error)}


def _key(outcome: Outcome, fold: int) -> str:
    """Of a score in the file: a trial that was stopped may come to other settings, run again."""
    return f"{outcome.trial}/{fold}/{sha256(_told(outcome).encode()).hexdigest()[:12]}"


def _clearly(best: Finalist, default: Finalist, fold: Splits) -> bool:
    """Whether the best of many trials on one fold is ahead by more than chance."""
    errors = (one.accuracy * (1 - one.accuracy) / len(fold.validation) for one in (best, default))
    return best.accuracy - default.accuracy > CERTAIN * math.sqrt(sum(errors))


def _apart(one: Outcome, other: Outcome) -> int:
    """Choices in which two trials differ, an active one from one that is not among them."""
    names = one.settings.keys() | other.settings.keys()
    return sum(one.settings.get(name) != other.settings.get(name) for name in names)


def _told(outcome: Outcome) -> str:
    return json.dumps(outcome.settings, sort_keys=True)
