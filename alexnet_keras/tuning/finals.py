"""The best trials once more, on photographs that trials were not measured on."""

from __future__ import annotations

import contextlib
import json
import math
import time
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
from alexnet_keras.tuning.outcomes import DEFAULT_TRIAL, Outcome, read_outcome
from alexnet_keras.tuning.processes import claimed
from alexnet_keras.tuning.space import net_of
from alexnet_keras.tuning.tuner import FineTuneTuner, why_failed
from alexnet_keras.whole_files import read_json, write_json

#: the best trials that are tried on the other folds, beside the default: so many at most, and as
#: many as there should be time for on so many folds
FINALISTS, FOLDS_AT_LEAST = 4, 2
#: choices in which they differ from the default
APART = 2
#: standard errors that the best trial of many must be ahead by, where no other fold was tried
CERTAIN = 2.0
#: seconds that a chief leaves the finals to its workers while none of them is at it
PATIENCE = 10.0
#: between two looks at what others do
PAUSE = 0.2
_PLAN = "plan.json"


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
    """The default, then the best trials that have a score, each of another net.

    Settings that are nearly the same are lucky with the same photographs: on others they would all
    fall behind together. One of the default's net is among them if it is trained otherwise. Trials
    of all their epochs come before those that Hyperband gave a few.

    Args:
        seconds: for the finals, of all processes together; one trial is tried beside the default
            however long that takes.
    """
    scored = [one for one in outcomes if one.accuracy is not None]
    default = [one for one in scored if int(one.trial) == DEFAULT_TRIAL]
    ranked = sorted(scored, key=lambda one: (one.epochs == 1, *one.rank), reverse=True)
    found: list[Outcome] = []
    for one in ranked:
        if len(found) == FINALISTS:
            break
        takes = FOLDS_AT_LEAST * sum(each.ended - each.began for each in (*default, *found, one))
        in_time = not found or takes <= seconds
        apart = all(_apart(one, each) >= APART for each in default)
        nets = {net_of(each.settings) for each in found}
        if in_time and apart and net_of(one.settings) not in nets:
            found.append(one)
    return [*default, *found]


class Finals:
    """Trials on the folds after the first, by all processes of a search.

    Fold after fold, so that all trials are compared on the same ones. Who has nothing to do claims
    the next, by a lock on a file, which is free again if its process is gone; a score is a file
    too, and is not worked out twice, whatever is killed and started again.

    Args:
        tuner: of this process.
        folds: of `Splits.folds`, the same in all processes.
        folder: that they share.
    """

    def __init__(self, tuner: FineTuneTuner, folds: Sequence[Splits], folder: Path) -> None:
        self._tuner, self._folds, self._folder = tuner, folds, folder
        folder.mkdir(exist_ok=True)

    def play(
        self, chosen: Sequence[Outcome], say: Callable[[str], None], *, helped: bool = False
    ) -> list[Finalist]:
        """Has these trials tried on as many folds as there is time for. One that fails is out.

        Args:
            helped: whether there are workers; it then does only what none of them does.

        Returns:
            First the one whose settings are found, then the others by rank.

        Raises:
            KeyboardInterrupt: the process was asked to stop.
        """
        write_json(self._folder / _PLAN, {"trials": [one.trial for one in chosen]})
        try:
            with contextlib.suppress(OutOfTime):
                self._work(chosen, patience=PATIENCE if helped else 0.0)
        finally:
            self.forget()
        return self._ranked(chosen, say)

    def help(self, awaited: Callable[[], bool]) -> None:
        """Does what the chief's finals need, in a worker, until they are over.

        Args:
            awaited: whether there still is a chief that may have some.

        Raises:
            KeyboardInterrupt: the process was asked to stop.
        """
        with contextlib.suppress(OutOfTime):
            while not self._planned() and awaited():
                self._tuner.check_stop()
                time.sleep(PAUSE)
            self._tuner.budget.follow()
            while (chosen := self._planned()) and awaited():
                self._tuner.check()
                if not self._one_more(chosen):
                    time.sleep(PAUSE)

    def forget(self) -> None:
        """No worker begins with what an earlier start of this search had planned."""
        (self._folder / _PLAN).unlink(missing_ok=True)

    def _planned(self) -> list[Outcome]:
        trials = read_json(self._folder / _PLAN).get("trials", ())
        found = (read_outcome(Path(self._tuner.get_trial_dir(trial))) for trial in trials)
        return [one for one in found if one is not None]

    def _work(self, chosen: Sequence[Outcome], patience: float) -> None:
        """Until all is done.

        Raises:
            OutOfTime: before that.
        """
        idle_since = time.monotonic()
        while due := self._due(chosen):
            self._tuner.check()
            if any(self._is_claimed(*one) for one in due):
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since >= patience:
                self._one_more(chosen)
                continue
            time.sleep(PAUSE)

    def _due(self, chosen: Sequence[Outcome]) -> list[tuple[Outcome, int]]:
        """What is to be tried yet, and on which fold."""
        in_it = [one for one in chosen if self._reason(one) is None]
        numbers = range(1, len(self._folds))
        return [(one, number) for number in numbers for one in in_it if not self._of(one, number)]

    def _one_more(self, chosen: Sequence[Outcome]) -> bool:
        """Tries the first that nobody does; whether there was one.

        Raises:
            OutOfTime: the time was over.
        """
        for outcome, number in self._due(chosen):
            with self._claim(outcome, number) as mine:
                if mine and not self._of(outcome, number):
                    found = self._tried(outcome, self._folds[number])
                    worker = {"worker": self._tuner.tuner_id}
                    write_json(self._path(outcome, number, ".json"), {**found, **worker})
                    return True
        return False

    def _tried(self, outcome: Outcome, splits: Splits) -> dict[str, Any]:
        try:
            return asdict(self._tuner.run_on(outcome, splits))
        except OutOfTime:
            raise
        except Exception as error:
            if is_full_disk(error):
                raise
            return {"failed": why_failed(error)}

    def _claim(self, outcome: Outcome, number: int) -> contextlib.AbstractContextManager[bool]:
        """Inside, no other process tries this; yields whether none did."""
        return claimed(self._path(outcome, number, ".claim"))

    def _is_claimed(self, outcome: Outcome, number: int) -> bool:
        with self._claim(outcome, number) as free:
            return not free

    def _of(self, outcome: Outcome, number: int) -> dict[str, Any]:
        """What is known of a trial on a fold; empty if nothing."""
        return read_json(self._path(outcome, number, ".json"))

    def _reason(self, outcome: Outcome) -> str | None:
        """Why a trial failed on another fold; `None` if it did not."""
        known = (self._of(outcome, number) for number in range(1, len(self._folds)))
        return next((one["failed"] for one in known if "failed" in one), None)

    def _path(self, outcome: Outcome, number: int, suffix: str) -> Path:
        # A trial that was stopped may come to other settings, run again.
        settings = sha256(json.dumps(outcome.settings, sort_keys=True).encode()).hexdigest()[:12]
        return self._folder / f"trial_{outcome.trial}_fold_{number}_{settings}{suffix}"

    def _ranked(self, chosen: Sequence[Outcome], say: Callable[[str], None]) -> list[Finalist]:
        left = []
        for one in chosen:
            if (reason := self._reason(one)) is None:
                left.append(one)
            else:
                say(f"Trial {one.trial} failed on another fold ({reason}); it is out.")
        left = left or list(chosen)
        tried = [one for one in left if "accuracy" in self._of(one, 1)]
        if len(tried) > 1:  # all of them, or there was no time for the others
            left = tried
        numbers = [
            number
            for number in range(1, len(self._folds))
            if all("accuracy" in self._of(one, number) for one in left)
        ]
        say(
            f"{len(left)} of the trials, the default and the best, were tried on "
            f"{1 + len(numbers)} of {len(self._folds)} folds."
        )
        finalists = [
            Finalist(one, self._tuner.settings_of(one), self._scores(one, numbers)) for one in left
        ]
        # Stable, and the default stands first: it wins where another is only as good.
        ranked = sorted(finalists, key=lambda one: one.rank, reverse=True)
        default = next((one for one in finalists if one.is_default), None)
        if default is None or numbers or _clearly(ranked[0], default, self._folds[0]):
            return ranked
        say("There was no time to tell the best trials from the default: its settings are kept.")
        return [default, *(one for one in ranked if one is not default)]

    def _scores(self, outcome: Outcome, numbers: Sequence[int]) -> tuple[Scores, ...]:
        known = [self._of(outcome, number) for number in numbers]
        return tuple(Scores(one["accuracy"], one["loss"]) for one in known)


def _clearly(best: Finalist, default: Finalist, fold: Splits) -> bool:
    """Whether the best of many trials on one fold is ahead by more than chance."""
    errors = (one.accuracy * (1 - one.accuracy) / len(fold.validation) for one in (best, default))
    return best.accuracy - default.accuracy > CERTAIN * math.sqrt(sum(errors))


def _apart(one: Outcome, other: Outcome) -> int:
    """Choices in which two trials differ, an active one from one that is not among them."""
    names = one.settings.keys() | other.settings.keys()
    return sum(one.settings.get(name) != other.settings.get(name) for name in names)
