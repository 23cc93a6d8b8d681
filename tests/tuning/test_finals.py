"""The finals among several processes; what they decide is tested with the search."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from alexnet_keras.tuning import Outcome, OutOfTime
from alexnet_keras.tuning import finals as module
from alexnet_keras.tuning.finals import Finals, choose_finalists
from alexnet_keras.tuning.hypermodel import Scores

TRIALS = ("0000", "0003", "0007")
FOLDS = ("first", "second", "third")


class Tuner:
    """In the place of a `FineTuneTuner`: its trials sleep."""

    def __init__(self, folder, name):
        self.folder, self.tuner_id = folder, name
        self.tried, self.followed, self.over = [], 0, False
        self.budget = SimpleNamespace(follow=self.follow)

    def follow(self):
        self.followed += 1

    def check_stop(self):
        pass

    def check(self):
        if self.over:
            raise OutOfTime

    def get_trial_dir(self, trial):
        return str(self.folder / f"trial_{trial}")

    def settings_of(self, outcome):
        return outcome.settings

    def run_on(self, outcome, splits):
        self.check()
        self.tried.append((outcome.trial, splits))
        time.sleep(0.05)
        return Scores(int(outcome.trial) / 10, 1.0)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0.01)


@pytest.fixture
def chosen(tmp_path):
    outcomes = [
        Outcome(trial=trial, settings={"views": n}, status="completed", accuracy=0.5, loss=1.0)
        for n, trial in enumerate(TRIALS)
    ]
    for one in outcomes:
        one.write(tmp_path / f"trial_{one.trial}")
    return outcomes


@pytest.fixture
def process(tmp_path):
    """Makes the finals of one process, and its tuner."""

    def make(name):
        tuner = Tuner(tmp_path, name)
        return Finals(tuner, FOLDS, tmp_path / "finals"), tuner

    return make


def helping(finals, awaited=lambda: True):
    thread = threading.Thread(target=finals.help, args=(awaited,), daemon=True)
    thread.start()
    return thread


def written_by(tmp_path):
    paths = (tmp_path / "finals").glob("trial_*.json")
    return sorted(json.loads(path.read_text())["worker"] for path in paths)


def test_workers_do_all_of_it_and_nothing_twice(process, chosen, tmp_path):
    finals, chief = process("chief")
    workers = [process(f"worker{n}") for n in (1, 2)]
    threads = [helping(one) for one, _ in workers]
    said = []
    found = finals.play(chosen, said.append, helped=True)
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    tried = [each for _, tuner in workers for each in tuner.tried]
    assert sorted(tried) == sorted((trial, fold) for trial in TRIALS for fold in FOLDS[1:])
    assert chief.tried == []
    assert set(written_by(tmp_path)) == {"worker1", "worker2"}
    assert [tuner.followed for _, tuner in workers] == [1, 1]
    assert [(one.outcome.trial, len(one.scores)) for one in found] == [
        ("0007", 2),
        ("0003", 2),
        ("0000", 2),
    ]
    assert said == ["3 of the trials, the default and the best, were tried on 3 of 3 folds."]


def test_a_chief_whose_workers_are_gone_does_it_itself(process, chosen, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    finals, chief = process("chief")
    began = time.monotonic()
    finals.play(chosen, lambda said: None, helped=True)
    assert time.monotonic() - began >= 0.3
    assert len(chief.tried) == 6


def test_what_a_worker_is_killed_in_is_done_by_another(process, chosen, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    finals, chief = process("chief")
    path = finals._path(chosen[0], 1, ".claim")
    script = "import fcntl, sys, time; f = open(sys.argv[1], 'ab'); fcntl.flock(f, 2)"
    command = [sys.executable, "-c", f"{script}; print('held', flush=True); time.sleep(600)"]
    with subprocess.Popen([*command, str(path)], stdout=subprocess.PIPE) as worker:
        assert worker.stdout.readline() == b"held\n"
        play = threading.Thread(target=finals.play, args=(chosen, list), kwargs={"helped": True})
        play.start()
        time.sleep(0.5)
        assert chief.tried == []  # a worker is at it
        worker.kill()
    play.join(10)
    assert chief.tried[0] == ("0000", "second") and len(chief.tried) == 6


def test_a_worker_leaves_with_its_chief(process, chosen, tmp_path):
    process("chief")
    (tmp_path / "finals" / module._PLAN).write_text(json.dumps({"trials": TRIALS}))
    finals, worker = process("worker1")
    thread = helping(finals, awaited=lambda: len(worker.tried) < 2)
    thread.join(10)
    assert not thread.is_alive() and len(worker.tried) == 2
    thread = helping(finals, awaited=lambda: False)
    thread.join(10)
    assert not thread.is_alive() and len(worker.tried) == 2


def test_a_worker_ends_when_the_time_is_over(process, chosen, tmp_path):
    (tmp_path / "finals").mkdir()
    (tmp_path / "finals" / module._PLAN).write_text(json.dumps({"trials": TRIALS}))
    finals, worker = process("worker1")
    worker.over = True
    finals.help(lambda: True)
    assert worker.tried == [] and written_by(tmp_path) == []


def test_what_another_start_had_planned_is_not_begun_with(process, chosen, tmp_path):
    finals, _ = process("chief")
    (tmp_path / "finals" / module._PLAN).write_text(json.dumps({"trials": TRIALS}))
    finals.forget()
    others, worker = process("worker1")
    looks = iter([True, True, False])
    others.help(lambda: next(looks))
    assert worker.tried == []


def test_the_plan_is_gone_once_they_are_over(process, chosen, tmp_path):
    finals, chief = process("tuner0")
    finals.play(chosen, lambda said: None)
    assert len(chief.tried) == 6
    assert not (tmp_path / "finals" / module._PLAN).exists()


def test_finalists_are_whole_trials_of_other_nets():
    def outcome(trial, accuracy, epochs=1.0, **settings):
        given = {"trial": trial, "status": "completed", "accuracy": accuracy, "loss": 1.0}
        given["settings"] = {"views": 1, "cut": "conv5", "image_size": 256, **settings}
        return Outcome(**given, epochs=epochs)

    trials = [
        outcome("0", 0.5, head="bilinear", views=4),
        outcome("1", 0.9, head="pooled", epochs=0.1),
        outcome("2", 0.8, head="pooled"),
        outcome("3", 0.7, head="fc"),
        outcome("4", 0.69, head="fc", views=3, schedule="linear"),  # a net of 3's
        outcome("5", 0.68, head="bilinear"),  # too near the default
        outcome("6", 0.67, head="bilinear", schedule="linear"),
        outcome("7", 0.66, head="pooled", image_size=224),
        outcome("8", 0.65, head="pooled", cut="conv4"),
    ]
    assert [one.trial for one in choose_finalists(trials)] == ["0", "2", "3", "6", "7"]
    assert [one.trial for one in choose_finalists(trials[1:2])] == ["1"]


def test_finalists_are_as_many_as_there_is_time_for():
    def outcome(trial, accuracy, seconds):
        names = dict.fromkeys(("views", "cut", "head"), trial)
        given = {"settings": names, "status": "completed", "accuracy": accuracy, "loss": 1.0}
        return Outcome(trial=trial, **given, began=100.0, ended=100.0 + seconds)

    trials = [outcome("0", 0.5, 20), outcome("1", 0.9, 100), outcome("2", 0.8, 90)]
    trials += [outcome("3", 0.7, 10)]
    assert [one.trial for one in choose_finalists(trials)] == ["0", "1", "2", "3"]
    assert [one.trial for one in choose_finalists(trials, 260)] == ["0", "1", "3"]
    assert [one.trial for one in choose_finalists(trials, 50)] == ["0", "1"]
