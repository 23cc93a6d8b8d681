"""The whole search: trials, the best of them on other folds, what is found."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from alexnet_keras import UserError
from alexnet_keras.data import split
from alexnet_keras.transfer import Choices
from alexnet_keras.tuning import (
    Budget,
    OutOfTime,
    deal_folds,
    processes,
    read_outcomes,
    role,
    search_settings,
    write_best,
    write_trials,
)
from alexnet_keras.tuning import search as module
from alexnet_keras.tuning.processes import VARIABLES
from alexnet_keras.whole_files import read_json
from two_colours import colored

#: so many draw every value of a choice of four
TRIALS = 24


@pytest.fixture
def scored(model, monkeypatch, folds):
    """A hypermodel whose accuracies come from `scored.accuracy(choices, fold)`."""

    def fit(hp, net, *, splits=None, interrupt, **_):
        interrupt()
        fold = 0 if splits is None else [one is splits for one in model.folds].index(True)
        model.tried.append((model.choices(hp), fold))
        return {"val_accuracy": model.accuracy(model.choices(hp), fold), "val_loss": 1.0}

    model.folds, model.tried = folds, []
    model.accuracy = lambda choices, fold: 0.5 + choices.label_smoothing
    monkeypatch.setattr(model, "build", lambda hp: None)
    monkeypatch.setattr(model, "fit", fit)
    return model


def searched(model, folder, **options):
    said = []
    given = {"seconds": 600, "most_trials": TRIALS, "search": "random", **options}
    return search_settings(model, model.folds, folder, say=said.append, **given), said


def test_the_best_on_all_folds_is_found(scored, tmp_path):
    found, said = searched(scored, tmp_path / "s")
    assert found.settings["label_smoothing"] == 0.2
    assert Choices.of(found.settings).label_smoothing == 0.2
    assert len(found.outcomes) == TRIALS
    assert len(found.finalists) == 5 and all(len(one.scores) == 1 for one in found.finalists)
    assert found.default.outcome.trial == "0000" and found.default.accuracy == 0.6
    assert found.finalists[0].accuracy == 0.7
    assert "tried on 2 of 2 folds" in said[-1]
    assert [fold for _, fold in scored.tried] == [0] * TRIALS + [1] * 5


def test_those_that_were_lucky_with_their_fold_are_not(scored, tmp_path):
    def accuracy(choices, fold):
        usual = choices.label_smoothing == 0.1 and choices.views == 1
        return 0.6 if usual else (0.9, 0.599)[fold]  # ahead in the mean of both

    scored.accuracy = accuracy
    found, _ = searched(scored, tmp_path / "s")
    assert found.finalists[0] is found.default
    assert (found.default.accuracy, found.finalists[1].accuracy) == (0.6, 0.599)


def test_a_finalist_that_fails_is_out(scored, tmp_path):
    def accuracy(choices, fold):
        if fold and choices.label_smoothing == 0.2:
            raise MemoryError
        return 0.5 + choices.label_smoothing

    scored.accuracy = accuracy
    found, said = searched(scored, tmp_path / "s")
    assert found.settings["label_smoothing"] == 0.1
    assert any("failed on another fold (out of memory); it is out" in one for one in said)
    before = len(scored.tried)
    again, _ = searched(scored, tmp_path / "s")
    assert again.settings == found.settings and len(scored.tried) == before


def test_where_all_finalists_fail_the_first_fold_is_all_that_is_known(scored, tmp_path):
    def accuracy(choices, fold):
        if fold:
            raise MemoryError
        return 0.5 + choices.label_smoothing / 4

    scored.accuracy = accuracy
    for _ in range(2):  # and again when it is started again
        found, said = searched(scored, tmp_path / "s")
        assert found.finalists[0] is found.default and len(found.finalists) == 5
        assert all(one.scores == () for one in found.finalists)
        assert "its settings are kept" in said[-1]


@pytest.mark.parametrize(("ahead", "is_found"), [(0.1, False), (0.45, True)])
def test_with_one_fold_only_the_default_is_left_for_a_clear_lead(
    scored, tmp_path, monkeypatch, ahead, is_found
):
    def run_on(*_):
        raise OutOfTime

    monkeypatch.setattr(module.FineTuneTuner, "run_on", run_on)
    scored.accuracy = lambda choices, fold: 0.5 + ahead * (choices.label_smoothing == 0.2)
    found, said = searched(scored, tmp_path / "s")
    assert (found.settings["label_smoothing"] == 0.2) == is_found
    assert ("its settings are kept" in said[-1]) != is_found


def test_the_default_wins_where_nothing_is_better(scored, tmp_path):
    scored.accuracy = lambda choices, fold: 0.75
    found, _ = searched(scored, tmp_path / "s")
    assert found.finalists[0] is found.default
    chosen = Choices.of(found.settings)
    assert (chosen.head, chosen.image_size, chosen.unfreeze_from) == ("bilinear", 64, ())


def test_what_a_trial_did_not_go_on_to_is_not_found(scored, tmp_path):
    """Convolutions are not unfrozen in the finals, nor in the settings, where the trial did not."""
    fit = scored.fit

    def wanting(hp, net, *, thaws_for=None, **options):
        found = fit(hp, net, **options)
        if scored.choices(hp).unfreeze_from:
            assert thaws_for is not None and not thaws_for(0.1)
            return {**found, "val_accuracy": 0.9}
        return found

    scored.fit = wanting
    found, _ = searched(scored, tmp_path / "s")
    best = max(found.outcomes, key=lambda one: one.accuracy)
    assert best.accuracy == 0.9 and best.went_on is False
    assert best.settings["unfreeze"] == 0 and "learning_rate" not in best.settings
    assert not [choices for choices, fold in scored.tried if fold and choices.unfreeze_from]
    assert found.settings["unfreeze_from"] == ()


def test_without_time_for_a_fold_those_that_were_tried_count(scored, tmp_path, monkeypatch):
    real, runs = module.FineTuneTuner.run_on, []

    def run_on(tuner, outcome, splits):
        runs.append(outcome)
        if len(runs) > 3:
            raise OutOfTime
        return real(tuner, outcome, splits)

    monkeypatch.setattr(module.FineTuneTuner, "run_on", run_on)
    found, said = searched(scored, tmp_path / "s")
    assert [len(one.scores) for one in found.finalists] == [1, 1, 1]
    assert any("3 of the trials, the default and the best, were tried on 2" in one for one in said)
    # Started again, those that were done are not done again.
    monkeypatch.setattr(module.FineTuneTuner, "run_on", real)
    before = len(scored.tried)
    found, said = searched(scored, tmp_path / "s")
    assert len(scored.tried) - before == 2
    assert len(found.finalists) == 5 and all(len(one.scores) == 1 for one in found.finalists)
    assert said[0].startswith(f"Going on after {TRIALS} trials")


def test_another_search_in_the_folder_is_refused_and_left_alone(scored, tmp_path):
    searched(scored, tmp_path / "s", identity={"weights": "a"})
    before = {path: path.read_bytes() for path in (tmp_path / "s").rglob("*.json")}
    with pytest.raises(UserError, match="search with weights 'a', not 'b'.*--output"):
        searched(scored, tmp_path / "s", identity={"weights": "b"})
    with pytest.raises(UserError, match="search with search 'random', not 'bayesian'"):
        searched(scored, tmp_path / "s", search="bayesian", identity={"weights": "a"})
    assert before == {path: path.read_bytes() for path in (tmp_path / "s").rglob("*.json")}


def test_two_searches_in_one_folder_are_refused(scored, tmp_path):
    (tmp_path / "s").mkdir()
    refused = pytest.raises(UserError, match="Another process searches in .*--output")
    with module._alone_in(tmp_path / "s"), refused:
        searched(scored, tmp_path / "s")
    searched(scored, tmp_path / "s")


def test_a_chief_that_cannot_listen_says_so(scored, tmp_path, monkeypatch):
    for name, value in zip(VARIABLES, ("chief", "256.1.1.1", "1"), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="chief cannot listen at 256.1.1.1, port 1"):
        searched(scored, tmp_path / "s")


def test_few_photographs_are_dealt_into_fewer_folds():
    few = split(colored(26, 0), stopping=colored(6, 1))
    assert len(deal_folds(few)) in (3, 5)
    assert len(deal_folds(split(colored(200, 0)))) == 5
    with pytest.raises(UserError, match="part of colored is empty"):
        deal_folds(split(colored(16, 0)))


def test_when_all_fails_the_reason_is_the_answer(scored, tmp_path):
    def accuracy(choices, fold):
        raise MemoryError

    scored.accuracy = accuracy
    with pytest.raises(UserError, match="3 trials in a row failed .* out of memory"):
        searched(scored, tmp_path / "s")


def test_a_default_that_failed_runs_again(scored, tmp_path):
    good = scored.accuracy

    def accuracy(choices, fold):
        if not mended:
            raise MemoryError
        return good(choices, fold)

    mended, scored.accuracy = [], accuracy
    with pytest.raises(UserError, match="out of memory"):
        searched(scored, tmp_path / "s")
    mended.append(True)
    found, _ = searched(scored, tmp_path / "s")
    assert found.default is not None and found.default.outcome.status == "completed"
    assert [one.status for one in found.outcomes].count("failed") == 2


def test_a_score_of_the_finals_belongs_to_its_settings(scored, tmp_path):
    """A trial that was stopped frozen, and run again with its convolutions, is another."""
    searched(scored, tmp_path / "s", most_trials=2)
    before = len(scored.tried)
    for outcome in read_outcomes(tmp_path / "s" / "trials"):
        settings = {**outcome.settings, "unfreeze": 3 - outcome.settings["unfreeze"]}
        changed = replace(outcome, settings=settings)
        changed.write(tmp_path / "s" / "trials" / f"trial_{outcome.trial}")
    searched(scored, tmp_path / "s", most_trials=2)
    assert [fold for _, fold in scored.tried[before:]] == [1, 1]


def test_no_time_at_all_is_said(scored, tmp_path):
    with pytest.raises(UserError, match="No trial has come to a score .* more --minutes"):
        searched(scored, tmp_path / "s", seconds=1)


def test_more_time_goes_on_with_more_trials(scored, tmp_path):
    searched(scored, tmp_path / "s", most_trials=6)
    found, _ = searched(scored, tmp_path / "s", most_trials=9)
    assert len(found.outcomes) == 9
    assert sum(fold == 0 for _, fold in scored.tried) == 9


def test_what_was_stopped_runs_again_when_there_is_time(scored, tmp_path, monkeypatch):
    fit, calls = scored.fit, []

    def short(hp, net, **options):
        calls.append(1)
        if len(calls) == 1:
            raise OutOfTime
        return fit(hp, net, **options)

    scored.fit = short
    found, _ = searched(scored, tmp_path / "s", most_trials=3)
    assert found.default is None and found.outcomes[0].status == "stopped"
    found, _ = searched(scored, tmp_path / "s", most_trials=3)
    assert [one.status for one in found.outcomes] == ["completed"] * 3
    assert found.default.outcome.settings["head"] == "bilinear"


def test_the_time_is_kept(model, folds, tmp_path, monkeypatch):
    spent = []
    model.folds = folds
    real = Budget.extend
    monkeypatch.setattr(
        Budget, "extend", lambda budget, more: spent.append(budget.spent) or real(budget, more)
    )
    found, _ = searched(model, tmp_path / "s", seconds=30, most_trials=None)
    assert spent[0] < 0.8 * 30 + 20  # a loaded machine may take long to measure
    assert found.seconds < 30 + 40
    assert found.outcomes  # on a loaded machine one, which was stopped


def test_what_is_found_is_written_for_others(scored, tmp_path):
    found, _ = searched(scored, tmp_path / "s")
    written = write_best(tmp_path / "best.json", found, {"weights": "x"})
    assert json.loads((tmp_path / "best.json").read_text()) == json.loads(json.dumps(written))
    search = written["search"]
    assert (search["weights"], search["trials"], search["folds"]) == ("x", TRIALS, 1)
    assert (search["accuracy"], search["default_accuracy"]) == (0.7, 0.6)
    write_trials(tmp_path / "trials.csv", found.outcomes)
    with (tmp_path / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == [one.trial for one in found.outcomes]
    for row, outcome in zip(rows, found.outcomes, strict=True):
        assert float(row["accuracy"]) == outcome.accuracy
        assert row["head"] == outcome.settings["head"]
        assert (row["learning_rate"] == "") == ("learning_rate" not in outcome.settings)


def test_a_part_of_the_variables_is_refused(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert role() == "alone"
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    with pytest.raises(UserError, match="KERASTUNER_TUNER_ID is not"):
        role()
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", "8000")
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "chief")
    assert role() == "chief"
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "worker7")
    assert role() == "worker"


class TestWorkers:
    """Of `processes.workers`, whatever they do."""

    def started(self, folder, script):
        return processes.workers(2, folder, [sys.executable, "-c", script])

    def test_end_at_once_with_a_search_that_fails(self, tmp_path):
        began = time.monotonic()
        with pytest.raises(UserError), self.started(tmp_path, "import time; time.sleep(600)"):
            raise UserError("something")
        assert time.monotonic() - began < processes.PATIENCE

    def test_are_killed_where_they_do_not_hear(self, tmp_path, monkeypatch):
        monkeypatch.setattr(processes, "PATIENCE", 1.0)
        script = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
        with self.started(tmp_path, script) as alive:
            assert alive()
            time.sleep(0.5)
        assert not alive()


class TestSeveralProcesses:
    """A chief and two workers, each a process of its own."""

    def run(self, repository, folder, **options):
        command = [sys.executable, str(repository / "tests" / "support" / "search_together.py")]
        done = subprocess.run(
            [*command, str(folder), json.dumps(options)],
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def test_share_one_search(self, repository, tmp_path):
        found = self.run(repository, tmp_path, trials=6)
        outcomes = read_outcomes(tmp_path / "search" / "trials")
        assert len(outcomes) == found["trials"] == 6
        assert {outcome.worker for outcome in outcomes} == {"worker1", "worker2"}
        assert {outcome.status for outcome in outcomes} == {"completed"}
        told = {json.dumps(outcome.settings, sort_keys=True) for outcome in outcomes}
        assert len(told) == 6
        assert Choices.of(found["settings"])
        # At the same time, not one after the other.
        spans = sorted((one.began, one.ended) for one in outcomes)
        assert any(later[0] < earlier[1] for earlier, later in zip(spans, spans[1:], strict=False))
        finals = (tmp_path / "search" / "finals").glob("trial_*.json")
        assert {read_json(path)["worker"] for path in finals} == {"worker1", "worker2"}

    def test_a_worker_that_is_lost_does_not_stop_the_others(self, repository, tmp_path):
        found = self.run(repository, tmp_path, trials=5, dies="worker1", seconds=50)
        outcomes = read_outcomes(tmp_path / "search" / "trials")
        assert {outcome.worker for outcome in outcomes} == {"worker2"}
        assert found["trials"] == len(outcomes) >= 3
        assert found["said"] and "No answer from worker1" in " ".join(found["said"])
