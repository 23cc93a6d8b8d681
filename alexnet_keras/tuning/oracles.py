"""keras-tuner's searches, with a time to end at, the default first, and the same after a kill."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.engine import trial as trial_module
from keras_tuner.oracles import BayesianOptimizationOracle, HyperbandOracle, RandomSearchOracle
from sklearn.exceptions import ConvergenceWarning

from alexnet_keras.tuning.budget import Budget
from alexnet_keras.tuning.hypermodel import OBJECTIVE
from alexnet_keras.tuning.outcomes import FAILED, read_outcome, read_outcomes
from alexnet_keras.tuning.space import SEEN, THAWED, WHERE, net_of, sees_no_more
from alexnet_keras.whole_files import write_json

#: so many trials that fail one after the other, for the same reason, end a search
MOST_FAILURES = 3
#: random trials before the first that the Gaussian process proposes
RANDOM_FIRST = 15
#: what a score's noise adds to its variance among trials, as a share: with some hundred photographs
#: to choose by, much of what trials differ by is chance
NOISE = 0.3

#: of the time of all trials, what frozen layers may take: while it is more, further trials make do
#: with what they were run on before
STORING_SHARE = 0.25
#: of the whole time, what is to be left when they are run on something new, or few trials would use
#: that
LEFT_SHARE = 1 / 3
#: draws of settings until one can make do with that
REDRAWN = 100

#: of a Bayesian search's trials, so many are random: one in
RANDOM_EVERY = 3
#: settings that it looks at for a proposal; half of them change this share of the choices of the
#: default, or of one of so many of the best trials
CANDIDATES, CHANGED_SHARE, PARENTS = 300, 0.25, 5
#: of the fit of its process
RESTARTS = 4

SEARCHES = ("bayesian", "random", "hyperband")


class _Timed:
    """What all searches here have in common; goes before an oracle of keras-tuner.

    Attributes:
        stopped_because: why the search ended before its time; `None` while it has not.
    """

    budget: Budget
    most_trials: int | None = None
    stopped_because: str | None = None
    #: whether there is nothing more to do, as a process has been told
    ended = False
    #: held while a trial is proposed
    proposing: threading.Lock
    #: the seconds spent when a trial was given to a process
    begun: dict[str, float]
    #: settings, one of which the next trial is to see no more than; `None` if it may see anything
    affordable: Sequence[dict[str, Any]] | None = None

    def create_trial(self, tuner_id: str) -> trial_module.Trial:
        with self.proposing:
            if not self._has_ended():
                self.affordable = self._affordable()
                trial = super().create_trial(tuner_id)
                self.begun[trial.trial_id] = self.budget.spent
                if trial.status == "IDLE":
                    time.sleep(0.1)  # keras-tuner's loop asks again at once
                if trial.status != "STOPPED":
                    return trial
            self.ended = True
        self.tuner_ids.discard(tuner_id)
        return trial_module.Trial(self.get_space(), trial_id="none", status="STOPPED")

    def finish(self) -> bool:
        """Proposes nothing from now on; says whether no trial runs any more."""
        with self.proposing:
            self.ended = True
            return not self.ongoing_trials

    def _has_ended(self) -> bool:
        enough = self.most_trials is not None and len(self.trials) >= self.most_trials
        return (
            self.stopped_because is not None
            or self.ended
            or (enough and not self._retry_queue)
            or self.budget.over
        )

    def run_again(self, trial_id: str) -> None:
        """Lets a trial that has ended be the next to run, as if it had not."""
        trial = self.trials[trial_id]
        trial.status, trial.message, trial.score = "RUNNING", None, None
        trial.metrics = type(trial.metrics)()
        self.end_order = [name for name in self.end_order if name != trial_id]
        self._run_times.pop(trial_id, None)
        self._retry_queue.append(trial_id)
        self._save_trial(trial)
        self.save()

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        if not self.trials:
            return _running(self._default_values())
        return super().populate_space(trial_id)

    def _affordable(self) -> list[dict[str, Any]] | None:
        """What frozen layers were run for, each once, where there is no time for more of that."""
        outcomes = [
            one for one in read_outcomes(Path(self._project_dir)) if one.accuracy is not None
        ]
        seen = {}
        for one in sorted(outcomes, key=lambda one: one.trial):
            key = one.settings["head"] == "fc", *(one.settings.get(name) for name in SEEN)
            seen.setdefault(key, one.settings)
        stored = list(seen.values())
        storing = sum(one.storing for one in outcomes)
        total = sum(one.ended - one.began for one in outcomes)
        for trial in self.ongoing_trials.values():
            running = self.budget.spent - self.begun.get(trial.trial_id, self.budget.spent)
            total += running
            if not _is_in(trial.hyperparameters.values, stored):
                storing += running
        left, spent = self.budget.left(), self.budget.spent
        enough = storing > STORING_SHARE * total or left < LEFT_SHARE * (spent + left)
        return stored if stored and enough else None

    def _is_affordable(self, values: Mapping[str, Any]) -> bool:
        return self.affordable is None or _is_in(values, self.affordable)

    def _random_values(self) -> dict[str, Any] | None:
        for _ in range(REDRAWN):
            values = super()._random_values()
            if values is None or self._is_affordable(values):
                return values
            alike = [
                one for one in self.affordable if (one["head"] == "fc") == (values["head"] == "fc")
            ]
            if alike:
                self._seed_state += 1
                number = np.random.RandomState(self._seed_state).randint(len(alike))
                return self._seeing(values, alike[number])
        return values

    def _seeing(self, values: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
        """`values`, with frozen layers run on what they were for `other`."""

        def choose(one: Any) -> Any:
            first, then = (other, values) if one.name in SEEN else (values, other)
            return first.get(one.name, then.get(one.name, one.default))

        return self._values(choose)

    def _default_values(self) -> dict[str, Any]:
        return self._values(lambda one: one.default)

    def _values(self, choose: Callable[[Any], Any]) -> dict[str, Any]:
        """Of all choices that are active with what was chosen before them."""
        chosen = keras_tuner.HyperParameters()
        for one in self.hyperparameters.space:
            chosen.merge([one])
            if chosen.is_active(one):
                chosen.values[one.name] = choose(one)
        return chosen.values

    def _check_consecutive_failures(self) -> None:
        """In place of keras-tuner's, which counts failures for different reasons together, and
        raises: a chief's server would never answer again.
        """
        last = [self._reason(trial) for trial in self.end_order[-MOST_FAILURES:]]
        if len(last) == MOST_FAILURES and None not in last and len(set(last)) == 1:
            self.stopped_because = (
                f"{MOST_FAILURES} trials in a row failed for the same reason: {last[0]}"
            )

    def _reason(self, trial_id: str) -> str | None:
        outcome = read_outcome(Path(self._get_trial_dir(trial_id)))
        return outcome.reason if outcome is not None and outcome.status == FAILED else None

    def save(self) -> None:
        write_json(Path(self._get_oracle_fname()), self.get_state())

    def _save_trial(self, trial: trial_module.Trial) -> None:
        folder = Path(self._get_trial_dir(trial.trial_id))
        write_json(folder / "trial.json", trial.get_state())

    def reload(self) -> None:
        super().reload()
        # Killed between two files: what runs is to run again, what has ended is not.
        ended = {name for name, trial in self.trials.items() if trial.status != "RUNNING"}
        queued = [name for name in self._retry_queue if name not in ended]
        lost = [name for name in sorted(self.trials) if name not in ended | set(queued)]
        self._retry_queue = [*queued, *lost]
        self.end_order += [name for name in sorted(ended) if name not in self.end_order]
        self.start_order += [name for name in sorted(self.trials) if name not in self.start_order]


class RandomSearch(_Timed, RandomSearchOracle):
    """Settings drawn evenly from their ranges."""


class BayesianSearch(_Timed, BayesianOptimizationOracle):
    """Settings that a Gaussian process of the trials so far expects most of, or knows least of.

    keras-tuner's own looks for the best place along slopes, from 50 starts: in some twenty choices
    that takes 5 to 15 s a proposal, and what it finds may break conditions. This asks its process
    about settings drawn at random and about such as change some of the best trials' choices, or of
    the default's, all at once. One trial in `RANDOM_EVERY` is random, and so are the first. Every
    other one of these changes some of the default's choices: as a whole they are good, whatever the
    photographs, and few settings are that are drawn from everywhere.
    """

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        completed = [one for one in self.trials.values() if one.status == "COMPLETED"]
        random_turn = len(self.trials) % RANDOM_EVERY == 0
        if not self.trials:
            return super().populate_space(trial_id)
        # keras-tuner's own is not kept over a kill, after which other settings would be proposed.
        self._random_state = np.random.RandomState(self._seed_state)
        if len(completed) < self.num_initial_points or random_turn:
            near = self._near_default() if len(self.trials) % 2 else None
            return self._random_populate_space() if near is None else _running(near)
        with warnings.catch_warnings():
            # Of a length scale at the end of its range, where scores are little but noise.
            warnings.simplefilter("ignore", ConvergenceWarning)
            if not hasattr(self.gpr, "X_train_"):
                # It is asked about trials that still run, of which it would know nothing.
                vectors = [self._vector(one.hyperparameters.values) for one in completed]
                self.gpr.fit(np.array(vectors), np.array([-one.score for one in completed]))
            self.gpr.fit(*self._vectorize_trials())
        candidates = self._candidates(completed)
        if not candidates:
            return self._random_populate_space()
        mean, deviation = self.gpr.predict(
            np.array([self._vector(one) for one in candidates]), return_std=True
        )
        best = int(np.argmin(mean - self.beta * deviation))  # scores are negated there
        return _running(candidates[best])

    def _make_gpr(self) -> Any:
        return super()._make_gpr().set_params(n_restarts_optimizer=RESTARTS)

    def _candidates(self, completed: Sequence[trial_module.Trial]) -> list[dict[str, Any]]:
        """Settings that may be tried next, none of which has been, to the digit.

        Nor has a frozen net whose convolutions were then not worth training.
        """
        tried = self._tried()
        ranked = sorted(completed, key=lambda one: one.score, reverse=True)
        good, others = _of_other_nets(ranked)[:PARENTS], ranked[PARENTS:]
        parents = [*(one.hyperparameters.values for one in good), self._default_values()]
        in_vain = {
            _frozen(one.hyperparameters.values)
            for one in completed
            if (went_on := self._went_on(one)) is False or (went_on is None and one in others)
        }
        found = []
        for number in range(CANDIDATES):
            values = self._random_values()
            if values is None:
                break
            if number % 2:
                parent = parents[self._random_state.randint(len(parents))]
                values = self._changed(parent, values)
            if not self._is_affordable(values):
                continue
            if _rounded(values) not in tried and _frozen(values) not in in_vain:
                found.append(values)
        return found

    def _went_on(self, trial: trial_module.Trial) -> bool | None:
        outcome = read_outcome(Path(self._get_trial_dir(trial.trial_id)))
        return None if outcome is None else outcome.went_on

    def _near_default(self) -> dict[str, Any] | None:
        """The default with some choices changed; `None` if all such were tried, or nearly all."""
        tried = self._tried()
        for _ in range(REDRAWN):
            if (drawn := self._random_values()) is None:
                break
            values = self._changed(self._default_values(), drawn)
            if self._is_affordable(values) and _rounded(values) not in tried:
                return values
        return None

    def _tried(self) -> set[frozenset[tuple[str, Any]]]:
        return {_rounded(one.hyperparameters.values) for one in self.trials.values()}

    def _changed(self, values: dict[str, Any], drawn: dict[str, Any]) -> dict[str, Any]:
        """`values` with some choices in the place of which others were drawn.

        Where that would be more to see than there is time for, it sees what `values` did.
        """

        def choose(one: Any) -> Any:
            stays = one.name in values and self._random_state.uniform() > CHANGED_SHARE
            source = values if stays else drawn
            # What neither had, since its condition was not met, is drawn now.
            value = source[one.name] if one.name in source else values.get(one.name)
            if value is None:
                self._seed_state += 1
                value = one.random_sample(self._seed_state)
            return value

        changed = self._values(choose)
        return changed if self._is_affordable(changed) else self._seeing(changed, values)

    def _vector(self, values: dict[str, Any]) -> list[float]:
        """As `_vectorize_trials` has a trial: 0..1 for each choice, its default if not active."""
        return [
            one.value_to_prob(values.get(one.name, one.default)) for one in self._nonfixed_space()
        ]


class HyperbandSearch(_Timed, HyperbandOracle):
    """Many settings for few epochs, the best of them for more."""


def make_oracle(
    search: str, *, budget: Budget, seed: int, epochs: int, most_trials: int | None = None
) -> keras_tuner.Oracle:
    """The oracle of a search.

    Args:
        search: one of `SEARCHES`.
        budget: it proposes nothing once that is over.
        epochs: of a whole trial, which Hyperband gives a share of.
        most_trials: ends the search too.

    Raises:
        ValueError: there is no such search.
    """
    common = {
        "objective": OBJECTIVE,
        "seed": seed or 1,  # 0 would be taken for none
    }
    makers: dict[str, Callable[[], keras_tuner.Oracle]] = {
        "random": lambda: RandomSearch(max_trials=None, **common),
        "bayesian": lambda: BayesianSearch(
            max_trials=None, num_initial_points=RANDOM_FIRST, alpha=NOISE, **common
        ),
        "hyperband": lambda: HyperbandSearch(
            max_epochs=epochs, hyperband_iterations=None, **common
        ),
    }
    if search not in makers:
        raise ValueError(f"search={search!r} is not one of {', '.join(map(repr, SEARCHES))}.")
    oracle = makers[search]()
    oracle.budget, oracle.most_trials = budget, most_trials
    oracle.proposing, oracle.begun = threading.Lock(), {}
    oracle.verbose = 0
    return oracle


def _running(values: dict[str, Any]) -> dict[str, Any]:
    """A proposal, as keras-tuner has it."""
    return {"status": "RUNNING", "values": values}


def _of_other_nets(ranked: Sequence[trial_module.Trial]) -> list[trial_module.Trial]:
    """The best of each net: what surrounds the best of all is lucky with the same photographs."""
    first: dict[tuple[Any, ...], trial_module.Trial] = {}
    for one in ranked:
        first.setdefault(net_of(one.hyperparameters.values), one)
    return list(first.values())


def _is_in(values: Mapping[str, Any], stored: Sequence[Mapping[str, Any]]) -> bool:
    """Whether frozen layers have been run on all that `values` asks for."""
    return any(sees_no_more(values, one) for one in stored)


def _frozen(values: dict[str, Any]) -> frozenset[tuple[str, Any]]:
    """`_rounded`, without what is chosen of the training of convolutions."""
    return frozenset(one for one in _rounded(values) if one[0].split(WHERE)[0] not in THAWED)


def _rounded(values: dict[str, Any]) -> frozenset[tuple[str, Any]]:
    """Choices with rates and decays to one digit."""
    return frozenset(
        (name, float(f"{value:.0e}") if isinstance(value, float) else value)
        for name, value in values.items()
    )
