"""What searches propose."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from alexnet_keras.tuning import SEARCHES, Outcome, read_outcomes
from alexnet_keras.tuning.oracles import PARENTS, RANDOM_FIRST, _frozen, _rounded
from alexnet_keras.tuning.space import net_of, sees_no_more
from small_search import tuner


@pytest.mark.parametrize("search", SEARCHES)
def test_every_search_begins_with_the_default_and_repeats_nothing(quick, tmp_path, search):
    seen = []

    def does(choices):
        seen.append(choices)
        return {"val_accuracy": 0.5 + choices.label_smoothing, "val_loss": choices.head_rate}

    quick.does = does
    if search == "hyperband":
        quick.defaults = replace(quick.defaults, head_epochs=9)
    made, _, ended = tuner(quick, tmp_path / "s", search=search, trials=30)
    made.search()
    assert len(ended) == 30
    assert seen[0].head == "bilinear" and seen[0].image_size == 64 and seen[0].views == 1
    assert seen[0].head_rate == 0.0005 and seen[0].unfreeze_from == ()
    if search == "hyperband":
        assert {round(9 * outcome.epochs) for outcome in ended} == {1, 3, 9}
        ended = [outcome for outcome in ended if outcome.epochs == 1.0]
    told = [json.dumps(outcome.settings, sort_keys=True) for outcome in ended]
    assert len(set(told)) == len(told)
    assert read_outcomes(made.folder)[0].trial == "0000"


def test_bayesian_search_finds_the_better_half(quick, tmp_path):
    quick.does = lambda choices: {
        "val_accuracy": 0.9 if choices.head == "pooled" else 0.3,
        "val_loss": 1.0,
    }
    made, _, ended = tuner(quick, tmp_path / "s", search="bayesian", trials=40)
    made.search()
    number = [int(outcome.trial) for outcome in ended]
    proposed = [
        outcome.settings["head"] == "pooled"
        for outcome, place in zip(ended, number, strict=True)
        if place > 20 and place % 3
    ]
    assert sum(proposed) > 0.8 * len(proposed)


def test_bayesian_search_begins_about_the_default_and_elsewhere(quick, tmp_path):
    """Settings drawn from everywhere differ from it in all; few of them are any good."""
    made, _, ended = tuner(quick, tmp_path / "s", search="bayesian", trials=RANDOM_FIRST)
    made.search()
    default, *later = (one.settings for one in ended)
    changed = [
        sum(one[name] != value for name, value in default.items() if name in one) for one in later
    ]
    about, elsewhere = changed[0::2], changed[1::2]
    assert max(about) <= 7 < np.mean(elsewhere) and np.mean(about) < 5
    assert len({json.dumps(one, sort_keys=True) for one in later}) == len(later)


def test_bayesian_search_does_not_stay_in_one_place(quick, tmp_path):
    made, oracle, _ = tuner(quick, tmp_path / "s", search="bayesian", trials=25)
    made.search()
    tried = {_rounded(trial.hyperparameters.values) for trial in oracle.trials.values()}
    assert len(tried) == 25
    for _ in range(20):
        assert _rounded(oracle.populate_space("0025")["values"]) not in tried


def test_bayesian_search_changes_the_best_of_several_nets(quick, tmp_path, monkeypatch):
    """Not five trials of the one that is lucky with the photographs."""
    quick.does = lambda choices: {
        "val_accuracy": 0.5 + (choices.cut == "conv3") / 4 + choices.label_smoothing / 2,
        "val_loss": 1.0,
    }
    made, oracle, _ = tuner(quick, tmp_path / "s", search="bayesian", trials=40)
    made.search()
    parents = []
    changed = type(oracle)._changed
    monkeypatch.setattr(
        type(oracle), "_changed", lambda self, *of: parents.append(of[0]) or changed(self, *of)
    )
    monkeypatch.setattr(type(oracle), "_went_on", lambda self, trial: None)
    for _ in range(5):
        oracle._candidates(list(oracle.trials.values()))
    default = oracle._default_values()
    assert default in parents
    parents = [values for values in parents if values != default]
    nets = {net_of(values) for values in parents}
    assert len(nets) == len({json.dumps(values, sort_keys=True) for values in parents}) == PARENTS
    scores = {net: [] for net in nets}
    for trial in oracle.trials.values():
        scores.setdefault(net_of(trial.hyperparameters.values), []).append(trial.score)
    of_parents = [max(scores.pop(net)) for net in nets]
    assert min(of_parents) >= max(map(max, scores.values()))


def test_bayesian_search_tries_no_frozen_net_again_to_train_it(quick, tmp_path):
    """A fifth and less of the trials go on to convolutions; the others would come to the same."""
    quick.does = lambda choices: {"val_accuracy": 0.5 + choices.label_smoothing, "val_loss": 1.0}
    made, oracle, ended = tuner(quick, tmp_path / "s", search="bayesian", trials=25)
    made.search()
    for outcome in ended:  # as if none had gone on
        replace(outcome, went_on=False).write(made.folder / f"trial_{outcome.trial}")
    tried = {_frozen(trial.hyperparameters.values) for trial in oracle.trials.values()}
    for _ in range(20):
        assert _frozen(oracle.populate_space("0025")["values"]) not in tried


def test_bayesian_search_knows_others_trials_by_what_has_ended(quick, tmp_path, monkeypatch):
    """Asked about a trial that still runs before it was ever fitted, a process answers 0 +- 1."""
    quick.does = lambda choices: {"val_accuracy": 0.9 + choices.label_smoothing / 9, "val_loss": 1}
    made, _, _ = tuner(quick, tmp_path / "s", search="bayesian", trials=20)
    made.search()
    made, oracle, _ = tuner(quick, tmp_path / "s", search="bayesian", trials=30)
    fitted = []
    fit = type(oracle.gpr).fit
    monkeypatch.setattr(
        type(oracle.gpr), "fit", lambda gpr, x, y: fitted.append(y) or fit(gpr, x, y)
    )
    for worker in ("worker1", "worker2", "worker3"):  # the second trial is a random one
        oracle.create_trial(worker)
    assert len(fitted[-1]) == 22  # with those of two others
    assert all(np.ptp(scores) < 0.2 for scores in fitted)


def stored(trial):
    """The outcome of a trial that has learned something."""
    settings = {**trial.hyperparameters.values}
    return Outcome(trial=trial.trial_id, settings=settings, status="completed", accuracy=0.5)


def seen(outcome):
    return tuple(outcome.settings[name] for name in ("image_size", "views"))


@pytest.mark.parametrize("search", SEARCHES)
def test_trials_make_do_with_what_is_stored_while_that_took_its_share(quick, tmp_path, search):
    """Of both kinds of head, with all their choices but what they see."""
    first = []

    def does(choices):
        first.append(choices)
        scores = {"val_accuracy": 0.5 + choices.label_smoothing, "val_loss": 1.0}
        return {**scores, "storing_seconds": 1e6 if len(first) == 2 else 0.0}

    quick.does = does
    quick.defaults = replace(quick.defaults, views=4)
    made, _, ended = tuner(quick, tmp_path / "s", search=search, trials=30)
    made.search()
    default, other, *later = (one.settings for one in ended)
    assert len(later) == 28
    for settings in later:
        assert sees_no_more(settings, default) or sees_no_more(settings, other)
    assert {settings["head"] for settings in later} == {"bilinear", "pooled"}
    told = {json.dumps(settings, sort_keys=True) for settings in later}
    assert len(told) > 20  # Hyperband tries its best again


def test_they_see_other_things_again_once_that_is_less(quick, tmp_path):
    made, oracle, ended = tuner(quick, tmp_path / "s", trials=1)
    made.search()
    (outcome,) = ended
    whole = replace(outcome, began=0.0, ended=100.0)
    for storing, settings in ((25.0, None), (26.0, [outcome.settings])):
        replace(whole, storing=storing).write(made.folder / "trial_0000")
        assert oracle._affordable() == settings


def test_nothing_new_is_stored_that_few_trials_would_use(quick, tmp_path):
    made, oracle, ended = tuner(quick, tmp_path / "s", trials=1)
    made.search()
    for left, settings in ((34.0, None), (33.0, [ended[0].settings])):
        oracle.budget = SimpleNamespace(left=lambda left=left: left, spent=100 - left)
        assert oracle._affordable() == settings


def test_what_a_trial_stores_counts_while_it_runs(quick, tmp_path):
    made, oracle, ended = tuner(quick, tmp_path / "s", trials=9)
    first = oracle.create_trial("worker1")
    assert oracle._affordable() is None  # nothing is stored yet
    replace(stored(first), began=0.0, ended=100.0).write(made.folder / "trial_0000")
    oracle.ongoing_trials.pop("worker1")
    other = oracle.create_trial("worker1")
    values = other.hyperparameters.values
    for begun, views, settings in ((33, 99, None), (34, 99, [stored(first).settings])):
        values["views"] = views  # more than are stored
        oracle.begun[other.trial_id] = oracle.budget.spent - begun
        assert oracle._affordable() == settings
    values.update(stored(first).settings)
    assert oracle._affordable() is None


def test_all_that_was_stored_is_made_use_of(quick, tmp_path):
    made, oracle, _ = tuner(quick, tmp_path / "s", trials=8)
    made.search()
    outcomes = read_outcomes(made.folder)
    for outcome in outcomes:
        replace(outcome, storing=1e6).write(made.folder / f"trial_{outcome.trial}")
    oracle.affordable = oracle._affordable()
    assert {seen(one) for one in outcomes} == {
        (values["image_size"], values["views"])
        for values in (oracle._random_values() for _ in range(200))
        if values["views"] in {views for _, views in map(seen, outcomes)}
    }
