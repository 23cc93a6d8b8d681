"""From a budget to the settings that fit some photographs: trials, then the best of them again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import tensorflow as tf

from alexnet_keras.data import Splits
from alexnet_keras.errors import UserError
from alexnet_keras.transfer import Choices
from alexnet_keras.tuning.budget import Budget, OutOfTime
from alexnet_keras.tuning.files import read_json, write_json
from alexnet_keras.tuning.hypermodel import FineTuneHyperModel, Scores
from alexnet_keras.tuning.oracles import make_oracle
from alexnet_keras.tuning.outcomes import Outcome, read_outcomes
from alexnet_keras.tuning.processes import role
from alexnet_keras.tuning.space import REASONS
from alexnet_keras.tuning.tuner import FineTuneTuner

#: folds of the photographs that no figure comes from; trials are measured on the first, and the
#: best of them again on the others
FOLDS = 5
#: the best trials that are tried on the other folds, beside the default
FINALISTS = 4
#: of the budget, for that
FINALS_SHARE = 0.2
#: seconds that a chief waits for workers after the time is over
GRACE = 30.0
#: seconds that a worker waits for its chief to begin
CHIEF_PATIENCE = 300.0
#: the trial that has the default settings
DEFAULT_TRIAL = 0


@dataclass(frozen=True)
class Finalist:
    """A trial that was tried on other folds too.

    Attributes:
        outcome: of the trial.
        scores: one for each fold that all finalists were tried on, the trial's own first.
    """

    outcome: Outcome
    scores: tuple[Scores, ...]

    @property
    def accuracy(self) -> float:
        """The mean over the folds, 0..1."""
        return fmean(one.accuracy for one in self.scores)

    @property
    def rank(self) -> tuple[float, float]:
        """Larger is better."""
        return self.accuracy, -fmean(one.loss for one in self.scores)


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        outcomes: all trials that have ended.
        finalists: the best first; the default is among them unless its trial failed.
        default: the trial with the default settings, if it has a score.
        settings: the best, as `Choices.of` takes them.
        seconds: spent, over all the times that the search was started.
        stopped_because: why it ended before its time.
    """

    outcomes: list[Outcome]
    finalists: list[Finalist]
    default: Finalist | None
    settings: dict[str, Any]
    seconds: float
    stopped_because: str | None


def search_settings(
    hypermodel: FineTuneHyperModel,
    folds: Sequence[Splits],
    folder: Path,
    *,
    search: str = "bayesian",
    seconds: float,
    already: float = 0.0,
    most_trials: int | None = None,
    identity: Mapping[str, Any] | None = None,
    strategy: tf.distribute.Strategy | None = None,
    on_end: Callable[[Outcome], None] = lambda outcome: None,
    say: Callable[[str], None] = print,
) -> Found | None:
    """Searches until the time is over, or goes on with a search that was interrupted.

    The first four fifths of the time go to trials, which are measured on the first fold; in the
    last fifth the best of them and the default are trained and measured on the other folds, one
    fold after the other, so that a trial that was lucky with its fold is not taken for the best.
    Where none is better than the default, the default is what is found.

    Args:
        hypermodel: made for the first of `folds`.
        folds: of `Splits.folds`.
        folder: of the search; everything that it needs to go on is in it.
        search: one of `SEARCHES`.
        seconds: that the whole may take, over all the times that it is started.
        already: seconds that this start has taken before, for photographs say; they count too.
        most_trials: ends it too.
        identity: what must not change between two starts, by name, as JSON can hold it.
        strategy: what every trial trains under.
        on_end: told of each trial that ends; in a worker, of its own.
        say: receives a sentence about what is done.

    Returns:
        What was found; `None` in a worker, whose chief knows.

    Raises:
        UserError: the folder holds another search; no trial has a score.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part = role()
    if part == "worker":
        _wait_for_chief(folder)
    known = {"search": search, "seed": hypermodel.seed, **(identity or {})}
    _check_same(folder / "search.json", known, writes=part != "worker")
    budget = Budget(
        folder / "budget.json",
        None if part == "worker" else (1 - FINALS_SHARE) * seconds,
        already,
    )
    oracle = make_oracle(
        search,
        budget=budget,
        seed=hypermodel.seed + 1,
        epochs=hypermodel.defaults.head_epochs,
        most_trials=most_trials,
    )
    tuner = FineTuneTuner(hypermodel, oracle, folder / "trials", budget, strategy, on_end)
    if part == "worker":
        tuner.search()
        return None
    before = len(read_outcomes(tuner.folder))
    if before:
        say(f"Going on after {before} trials and {budget.spent:.0f} s.")
    try:
        if part == "chief":
            _serve(tuner, oracle, budget, on_end, say)
        else:
            tuner.search()
    finally:
        budget.close()
    if oracle.stopped_because is not None:
        say(oracle.stopped_because)
    outcomes = read_outcomes(tuner.folder)
    chosen = _chosen(outcomes)
    if not chosen:
        raise UserError(
            oracle.stopped_because
            or f"No trial has come to a score within {budget.spent:.0f} s; give more --minutes."
        )
    budget.extend(FINALS_SHARE * seconds)
    finalists = _finals(tuner, hypermodel, folds, chosen, budget, say)
    budget.close()
    best = finalists[0].outcome
    return Found(
        outcomes,
        finalists,
        next((one for one in finalists if int(one.outcome.trial) == DEFAULT_TRIAL), None),
        _settings(hypermodel.choices(tuner.done_in(best))),
        budget.spent,
        oracle.stopped_because,
    )


def _chosen(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Those that become finalists: the default, then the best."""
    scored = [one for one in outcomes if one.accuracy is not None]
    default = [one for one in scored if int(one.trial) == DEFAULT_TRIAL]
    others = [one for one in scored if one not in default]
    return default + sorted(others, key=lambda one: one.rank, reverse=True)[:FINALISTS]


def _finals(
    tuner: FineTuneTuner,
    hypermodel: FineTuneHyperModel,
    folds: Sequence[Splits],
    chosen: Sequence[Outcome],
    budget: Budget,
    say: Callable[[str], None],
) -> list[Finalist]:
    """The chosen trials on the folds that there is time for; the best first."""
    path = tuner.folder.parent / "finals.json"
    known = read_json(path)
    done = 1
    try:
        for number in range(1, len(folds)):
            for outcome in chosen:
                key = f"{outcome.trial}/{number}"
                if key not in known:
                    scores = tuner.run_on(outcome, folds[number])
                    known[key] = asdict(scores)
                    write_json(path, known)
            done = number + 1
    except OutOfTime:
        pass
    say(
        f"The default and the best {len(chosen) - 1} of the trials were tried on {done} of "
        f"{len(folds)} folds."
    )
    finalists = []
    for outcome in chosen:
        own = Scores(outcome.accuracy or 0.0, outcome.loss or 0.0)
        others = [Scores(**known[f"{outcome.trial}/{number}"]) for number in range(1, done)]
        finalists.append(Finalist(outcome, (own, *others)))
    # Stable, and the default stands first: it wins where another is only as good.
    return sorted(finalists, key=lambda one: one.rank, reverse=True)


def _settings(choices: Choices) -> dict[str, Any]:
    """What was open, as `Choices.of` takes it."""
    names = [name for name in asdict(choices) if name in REASONS] + ["unfreeze_from"]
    return {name: getattr(choices, name) for name in names}


def _serve(
    tuner: FineTuneTuner,
    oracle: Any,
    budget: Budget,
    on_end: Callable[[Outcome], None],
    say: Callable[[str], None],
) -> None:
    """Answers workers until none of them runs a trial any more, or they are lost."""
    # keras-tuner's own waits for all workers that have ever asked, in steps of 20 s.
    threading.Thread(target=tuner.search, daemon=True).start()
    told = {outcome.trial for outcome in read_outcomes(tuner.folder)}
    try:
        while budget.left() > -GRACE:
            time.sleep(0.5)
            for outcome in read_outcomes(tuner.folder):
                if outcome.trial not in told:
                    told.add(outcome.trial)
                    on_end(outcome)
            if (oracle.ended or budget.over) and not oracle.ongoing_trials:
                return
    finally:
        oracle.ended = True  # also when there is time again, for something else
    lost = ", ".join(sorted(oracle.ongoing_trials))
    say(f"No answer from {lost} within {GRACE:.0f} s after the time was over; going on without.")


def _wait_for_chief(folder: Path) -> None:
    """Until the chief of this search, which may be started later, has given it time.

    Raises:
        UserError: it does not come.
    """
    for _ in range(round(CHIEF_PATIENCE / 0.5)):
        if (folder / "search.json").exists() and not Budget(folder / "budget.json", None).over:
            return
        time.sleep(0.5)
    raise UserError(
        f"No chief has begun a search in {folder}, or gone on with one, within "
        f"{CHIEF_PATIENCE / 60:.0f} minutes; start it on the same --output folder."
    )


def _check_same(path: Path, known: Mapping[str, Any], writes: bool) -> None:
    """
    Raises:
        UserError: the folder holds a search of something else.
    """
    before = read_json(path)
    for name, value in known.items():
        if before and before.get(name) != value:
            raise UserError(
                f"{path.parent} holds a search with {name} {before.get(name)!r}, not {value!r}; "
                "give the same again to go on with it, or another folder with --output."
            )
    if writes and not before:
        write_json(path, dict(known))
