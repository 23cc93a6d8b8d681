"""The search as a user runs it, and what the fine-tuning recipes make of its result."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import finetune_cars
import finetune_flowers
import tune_options
from alexnet_keras.transfer import Choices
from alexnet_keras.tuning import REASONS, SEARCHES
from command_line import CHOICE_OPTIONS
from report_page import Page
from tune_flowers import main as tune_flowers


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Two classes told apart by colour, 40 photographs each."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    rng = np.random.default_rng(0)
    for channel, name in enumerate(("red", "green")):
        (folder / name).mkdir(parents=True)
        for i in range(40):
            pixels = rng.integers(0, 120, (48, 64, 3))
            pixels[..., channel] += 110
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.jpg")
    return folder


def command(repository, recipe, *arguments):
    return [sys.executable, str(repository / "recipes" / f"{recipe}.py"), *map(str, arguments)]


def run(repository, folder, recipe, *arguments, code=0):
    done = subprocess.run(
        command(repository, recipe, *arguments),
        cwd=folder,
        env={**os.environ, "KERAS_HOME": str(folder / "keras")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def options(photographs, *more):
    small = ("--head-epochs", 1, "--search", "random", "--weights", "starter")
    return ("--data-dir", photographs, *small, "--output", "out", *more)


@pytest.fixture(scope="module")
def searched(photographs, tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("search")
    root = request.config.rootpath
    return folder, run(root, folder, "tune_flowers", *options(photographs, "--trials", 2))


def test_it_leaves_what_the_readme_names(searched):
    folder, done = searched
    names = {entry.name for entry in (folder / "out").iterdir()}
    assert {"best.json", "report.html", "trials.csv", "config.json", "trials"} <= names
    assert (folder / "out" / "trials" / "tensorboard").is_dir()
    assert "--settings out/best.json" in done.stdout
    assert done.stdout.count("\ntrial ") == 2
    assert "Traceback" not in done.stderr
    with (folder / "out" / "trials.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2
    page = Page((folder / "out" / "report.html").read_text())
    assert "Fine-tuning settings for photos" in page.text


def test_the_settings_are_what_the_fine_tuning_recipes_take(searched, photographs, repository):
    folder, _ = searched
    best = json.loads((folder / "out" / "best.json").read_text())
    chosen = Choices.of(best["settings"])
    arguments = ("--data-dir", photographs, "--weights", "starter", "--output", "run")
    done = run(
        repository,
        folder,
        "finetune_flowers",
        *(*arguments, "--settings", "out/best.json", "--head-epochs", 2),
    )
    config = json.loads((folder / "run" / "config.json").read_text())["options"]
    assert config["image_size"] == chosen.image_size
    assert config["views"] == chosen.views
    assert config["crop"] == chosen.crop
    assert config["head"] == chosen.head
    assert config["settings"]["cut"] == chosen.cut
    assert config["settings"]["schedule"] == chosen.schedule
    assert config["head_epochs"] == 2
    head = [phase for phase in config["phases"] if phase["name"] == "head"]
    assert list(head[0]["rates"].values())[-1] == chosen.head_rate
    assert "no choice has seen" in done.stdout


def test_started_again_it_goes_on_and_has_nothing_left_to_do(searched, photographs, repository):
    folder, _ = searched
    before = (folder / "out" / "best.json").read_text()
    done = run(repository, folder, "tune_flowers", *options(photographs, "--trials", 2))
    assert "Going on after 2 trials" in done.stdout
    assert "\ntrial " not in done.stdout
    best = json.loads(before)
    again = json.loads((folder / "out" / "best.json").read_text())
    assert again["settings"] == best["settings"]
    assert again["search"]["accuracy"] == best["search"]["accuracy"]


def test_another_search_is_refused(searched, photographs, repository):
    folder, _ = searched
    done = run(
        repository,
        folder,
        "tune_flowers",
        *options(photographs, "--crop", "whole", "--trials", 2),
        code=2,
    )
    assert "holds a search with crop 'centre', not 'whole'" in done.stderr
    config = json.loads((folder / "out" / "config.json").read_text())
    assert config["options"]["crop"] == "centre"  # that of the search that is there
    assert "--output" in done.stderr and "Traceback" not in done.stderr


def test_ctrl_c_loses_nothing(photographs, repository, tmp_path):
    given = command(repository, "tune_flowers", *options(photographs, "--trials", 3))
    environment = {**os.environ, "KERAS_HOME": str(tmp_path / "keras"), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        given, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        for _ in range(2400):
            if any((tmp_path / "out").glob("trials/trial_*/outcome.json")):
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert b"What was already written stays where it is" in errors
    done = run(repository, tmp_path, "tune_flowers", *options(photographs, "--trials", 3))
    assert "Going on after" in done.stdout
    outcomes = list((tmp_path / "out" / "trials").glob("trial_*/outcome.json"))
    assert len(outcomes) == 3


def test_two_workers_share_a_search(photographs, repository, tmp_path):
    done = run(
        repository, tmp_path, "tune_flowers", *options(photographs, "--trials", 4, "--workers", 2)
    )
    with (tmp_path / "out" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and {row["worker"] for row in rows} == {"worker1", "worker2"}
    assert "Of 4 trials the best" in done.stdout
    assert done.stdout.count("\ntrial ") == 4  # the chief tells of its workers' trials
    assert "trial" in (tmp_path / "out" / "worker1.log").read_text()


class TestCommandLine:
    def invoke(self, *arguments, main=tune_flowers):
        return CliRunner().invoke(main, [str(one) for one in arguments])

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("--weights", "none"), "needs pretrained weights"),
            (("--search", "grid"), "'grid' is not one of 'bayesian', 'random', 'hyperband'"),
            (("--minutes", 0), "0.0 is not in the range"),
            (("--workers", -1), "-1 is not in the range"),
            (("--val-dir", "x"), "--val-dir needs --data-dir"),
        ],
    )
    def test_a_mistyped_command_exits_with_2(self, arguments, words):
        result = self.invoke(*arguments)
        assert result.exit_code == 2 and words in result.output

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (None, "cannot be read (No such file or directory); give the best.json of a search"),
            ("{", "cannot be read (it holds no settings)"),
            ("[]", "cannot be read (it holds no settings)"),
            ('{"settings": 3}', "cannot be read (it holds no settings)"),
            ('{"settings": {"views": 0}}', "Invalid value for '--views'"),
            ('{"settings": {"head": "x"}}', "Invalid value for '--head'"),
            ('{"settings": {"unfreeze_from": ["pool3"]}}', "'pool3'"),
            ('{"settings": {"crop": "top"}}', "'top' is not one of"),
        ],
    )
    def test_a_file_of_no_settings_is_told_in_a_sentence(self, tmp_path, content, words):
        path = tmp_path / "best.json"
        if content is not None:
            path.write_text(content)
        result = self.invoke("--settings", path, main=finetune_flowers.main)
        assert result.exit_code == 2 and words in result.output, result.output

    def test_an_option_that_is_given_counts_for_more(self, tmp_path, monkeypatch):
        received = []
        monkeypatch.setattr("fine_tuning.fine_tuning", received.append)
        path = tmp_path / "best.json"
        settings = {"views": 6, "image_size": 192, "cut": "conv4", "learning_rate": 0.02}
        settings |= {"unfreeze_from": ["conv4"], "dropout": 0.2, "crop": "whole"}
        search = {"weights": "trunk.npz", "trials": 60}
        path.write_text(json.dumps({"settings": settings, "search": search}))
        for main in (finetune_flowers.main, finetune_cars.main):
            result = self.invoke("--settings", path, "--views", 2, main=main)
            assert result.exit_code == 0, result.output
            (options,) = received
            assert (options.views, options.image_size) == (2, 192)
            assert (options.learning_rate, options.unfreeze_from) == (0.02, ("conv4",))
            assert options.settings == {"cut": "conv4", "dropout": 0.2}
            assert (options.crop, options.settings_weights) == ("whole", "trunk.npz")
            chosen = Choices.of(options.with_weights("x").resolved().choices())
            assert (chosen.cut, chosen.dropout, chosen.views) == ("conv4", 0.2, 2)
            received.clear()

    def test_settings_are_none_for_training_from_scratch(self, tmp_path):
        path = tmp_path / "best.json"
        path.write_text('{"settings": {}}')
        result = self.invoke("--settings", path, "--compare-scratch", main=finetune_flowers.main)
        assert result.exit_code == 2 and "either --settings or --compare-scratch" in result.output

    def test_what_is_written_out_here_is_what_the_package_has(self):
        assert tune_options.SEARCHES == SEARCHES
        assert set(CHOICE_OPTIONS) <= set(vars(Choices()))
        assert set(REASONS) - {"unfreeze"} <= set(vars(Choices()))

    def test_help_tells_defaults(self):
        text = " ".join(self.invoke("--help").output.split())
        assert "[default: bayesian]" in text and "[default: 20.0" in text
        assert "best.json" in text
