"""From a budget to the settings that fit some photographs: trials, then the best of them again."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from alexnet_keras.data import Splits
from alexnet_keras.errors import UserError
from alexnet_keras.training.stopping import StopRequest
from alexnet_keras.tuning.budget import Budget
from alexnet_keras.tuning.finals import Finalist, Finals, choose_finalists
from alexnet_keras.tuning.hypermodel import FineTuneHyperModel
from alexnet_keras.tuning.oracles import make_oracle
from alexnet_keras.tuning.outcomes import Outcome, count_processes, read_outcomes
from alexnet_keras.tuning.processes import claimed, role
from alexnet_keras.tuning.tuner import FineTuneTuner
from alexnet_keras.whole_files import read_json, write_json

#: folds of the photographs that no figure comes from; trials are measured on the first, and the
#: best of them again on the others
FOLDS = 5
#: of the budget, for that
FINALS_SHARE = 1 / 6
#: seconds that a chief waits for workers after the time is over
GRACE = 30.0
#: seconds that a worker waits for its chief to begin
CHIEF_PATIENCE = 300.0
_IDENTITY, _LOCK = "search.json", ".lock"


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        outcomes: all trials that have ended.
        finalists: first the one whose settings are found, then the others by rank; the default is
            among them unless its trial failed.
        default: the trial with the default settings, if it has a score.
        seconds: spent, over all the times that the search was started.
        stopped_because: why it ended before its time.
    """

    outcomes: list[Outcome]
    finalists: list[Finalist]
    default: Finalist | None
    seconds: float
    stopped_because: str | None

    @property
    def settings(self) -> dict[str, Any]:
        """The best, as `Choices.of` takes them."""
        return self.finalists[0].settings


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
    alive: Callable[[], bool] = lambda: True,
    strategy: tf.distribute.Strategy | None = None,
    on_end: Callable[[Outcome], None] = lambda outcome: None,
    say: Callable[[str], None] = print,
) -> Found | None:
    """Searches until the time is over, or goes on with a search that was interrupted.

    Five sixths of the time go to trials, which are measured on the first fold; in the last sixth
    the best of them and the default are trained and measured on the other folds, and
    only these decide: the best of many trials was lucky with the fold that it is the best of. Where
    none is better than the default, the default is what is found; it is too where there was no time
    for another fold and the best is ahead by no more than chance.

    Args:
        hypermodel: made for the first of `folds`.
        folds: of `Splits.folds`.
        folder: of the search; everything that it needs to go on is in it.
        search: one of `SEARCHES`.
        seconds: that the whole may take, over all the times that it is started.
        already: seconds that this start has taken before, for photographs say; they count too.
        most_trials: ends it too.
        identity: what must not change between two starts, by name, as JSON can hold it.
        alive: whether there still are workers, for a chief.
        strategy: what every trial trains under.
        on_end: told of each trial that ends; in a worker, of its own.
        say: receives a sentence about what is done.

    Returns:
        What was found; `None` in a worker, whose chief knows.

    Raises:
        UserError: the folder holds another search, or another process searches in it; no trial has
            a score; a chief cannot listen where it should.
        KeyboardInterrupt: the process was asked to stop, by Ctrl-C or SIGTERM; all is kept.
    """
    identity = {"search": search, "seed": hypermodel.seed, **(identity or {})}
    part = role()
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if part == "worker":
            _wait_for_chief(folder)
        else:
            stack.enter_context(_alone_in(folder))
        check_same_search(folder, identity)
        if part != "worker":
            write_json(folder / _IDENTITY, identity)
        whole = None if part == "worker" else (1 - FINALS_SHARE) * seconds
        budget = Budget(folder / "budget.json", whole, already)
        stack.callback(budget.close)
        oracle = make_oracle(
            search,
            budget=budget,
            seed=hypermodel.seed + 1,
            epochs=hypermodel.defaults.head_epochs,
            most_trials=most_trials,
        )
        stop = StopRequest()
        if threading.current_thread() is threading.main_thread():
            stack.enter_context(stop)
        tuner = FineTuneTuner(hypermodel, oracle, folder / "trials", budget, strategy, on_end, stop)
        finals = Finals(tuner, folds, folder / "finals")
        if part == "worker":
            tuner.search()
            finals.help(lambda: _is_searched_in(folder))
            return None
        finals.forget()
        if before := len(read_outcomes(tuner.folder)):
            say(f"Going on after {before} trials and {budget.spent:.0f} s.")
        if not budget.over:
            tuner.run_stopped_again()
        if part == "chief":
            _serve(tuner, oracle, alive, on_end, say)
        else:
            tuner.search()
        if oracle.stopped_because is not None:
            say(oracle.stopped_because)
        outcomes = read_outcomes(tuner.folder)
        processes = count_processes(outcomes[before:])
        if not (chosen := choose_finalists(outcomes, processes * FINALS_SHARE * seconds)):
            raise UserError(
                oracle.stopped_because
                or f"No trial has come to a score within {budget.spent:.0f} s; give more --minutes."
            )
        budget.extend(FINALS_SHARE * seconds)
        finalists = finals.play(chosen, say, helped=part == "chief")
        return Found(
            outcomes,
            finalists,
            next((one for one in finalists if one.is_default), None),
            budget.spent,
            oracle.stopped_because,
        )


def check_same_search(folder: Path, identity: Mapping[str, Any]) -> None:
    """
    Raises:
        UserError: the folder holds a search of something else.
    """
    before = read_json(folder / _IDENTITY)
    for name, value in identity.items():
        if before and before.get(name) != value:
            raise UserError(
                f"{folder} holds a search with {name} {before.get(name)!r}, not {value!r}; give "
                "the same again to go on with it, or another folder with --output."
            )


def deal_folds(splits: Splits) -> list[Splits]:
    """`FOLDS` of them, or fewer where there are too few photographs.

    Raises:
        UserError: there are too few for two.
    """
    for count in (FOLDS, 3):
        with contextlib.suppress(UserError):
            return splits.folds(count)
    return splits.folds(2)


def _serve(
    tuner: FineTuneTuner,
    oracle: Any,
    alive: Callable[[], bool],
    on_end: Callable[[Outcome], None],
    say: Callable[[str], None],
) -> None:
    """Answers workers until none of them runs a trial any more, or they are lost.

    Raises:
        UserError: nobody can be answered.
    """
    failures: list[BaseException] = []

    def answer() -> None:
        try:
            tuner.search()
        except BaseException as error:
            failures.append(error)

    # keras-tuner's own waits for all workers that have ever asked, in steps of 20 s.
    threading.Thread(target=answer, daemon=True).start()
    told = {(outcome.trial, outcome.ended) for outcome in read_outcomes(tuner.folder)}

    def tell() -> None:
        for outcome in read_outcomes(tuner.folder):
            if (outcome.trial, outcome.ended) not in told:
                told.add((outcome.trial, outcome.ended))
                on_end(outcome)

    try:
        while tuner.budget.left() > -GRACE:
            time.sleep(0.5)
            tuner.check_stop()
            tell()
            if failures:
                if not isinstance(failures[0], RuntimeError):
                    raise failures[0]
                raise UserError(
                    f"The chief cannot listen at {os.environ['KERASTUNER_ORACLE_IP']}, port "
                    f"{os.environ['KERASTUNER_ORACLE_PORT']} ({failures[0]}); give another one."
                )
            if (oracle.ended or tuner.budget.over) and oracle.finish():
                return
            if not alive():
                say("All workers are gone; their logs say why.")
                return
    finally:
        oracle.ended = True  # also when there is time again, for something else
        tell()
    lost = ", ".join(sorted(oracle.ongoing_trials))
    say(f"No answer from {lost} within {GRACE:.0f} s after the time was over; going on without.")


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """
    Raises:
        UserError: another process searches in this folder.
    """
    # A worker that looks has it for a moment.
    with claimed(folder / _LOCK, patience=0.5) as alone:
        if not alone:
            raise UserError(
                f"Another process searches in {folder}; wait for it, or give another folder with "
                "--output."
            )
        yield


def _is_searched_in(folder: Path) -> bool:
    """Whether a process that is no worker is at work there."""
    with claimed(folder / _LOCK) as free:
        return not free


def _wait_for_chief(folder: Path) -> None:
    """Until the chief of this search, which may be started later, has given it time.

    Raises:
        UserError: it does not come.
    """
    for _ in range(round(CHIEF_PATIENCE / 0.5)):
        if (folder / _IDENTITY).exists() and not Budget(folder / "budget.json", None).over:
            return
        time.sleep(0.5)
    raise UserError(
        f"No chief has begun a search in {folder}, or gone on with one, within "
        f"{CHIEF_PATIENCE / 60:.0f} minutes; start it on the same --output folder."
    )
