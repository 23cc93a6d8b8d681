"""The recipe as a user runs it: killed, stopped, and run to its end with the same command."""

from __future__ import annotations

import csv
import json
import random
import signal
import time

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import alexnet_keras  # noqa: F401  (registers the layers that saved models hold)
import train_imagenet
import train_options
from alexnet_keras import VARIANTS, training
from alexnet_keras.training import optimization, plan
from alexnet_keras.training.precision import POLICIES
from runs_to_kill import differences, final_state, kill_while_writing, photographs, start


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return photographs(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def whole(request, photos, tmp_path_factory):
    """A run to its end, and the one that is interrupted twice: they start side by side."""
    folder = tmp_path_factory.mktemp("runs")
    repository = request.config.rootpath
    undisturbed = start(repository, photos, folder / "whole")
    stopped = start(repository, photos, folder / "interrupted")
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not [*folder.glob("interrupted/checkpoints/step-*")]:
        time.sleep(0.02)
    stopped.send_signal(signal.SIGTERM)
    codes = [stopped.wait(300), undisturbed.wait(300)]
    killed = start(repository, photos, folder / "interrupted")
    assert kill_while_writing(killed, folder / "interrupted", random.Random(0))
    codes.append(start(repository, photos, folder / "interrupted").wait(300))
    return folder, codes


def test_stopped_and_killed_it_ends_like_an_undisturbed_run(whole):
    folder, (stopped, undisturbed, resumed) = whole
    log = (folder / "interrupted.log").read_text()
    assert (stopped, undisturbed, resumed) == (143, 0, 0), log
    assert "and saved; the same command goes on from there" in log
    assert log.count("Going on after step ") == 2
    ends = [final_state(folder / name) for name in ("whole", "interrupted")]
    assert differences(*ends) == []
    answers = [json.loads((folder / n / "metrics.json").read_text()) for n in ("whole",)]
    assert 0 <= answers[0]["val_top1"] <= 1


def test_a_run_leaves_what_it_says(whole):
    output = whole[0] / "whole"
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["epochs"] == 6
    assert metrics["images_skipped"] == 1
    assert metrics["seconds_waiting_for_checkpoints"] < metrics["seconds_training"]
    with open(output / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    with open(output / "predictions.csv", newline="") as file:
        answers = [row["truth"] == row["prediction"] for row in csv.DictReader(file)]
    assert (len(answers), sum(answers)) == (
        metrics["val_images"],
        round(metrics["val_top1"] * metrics["val_images"]),
    )
    report = (output / "report.html").read_text()
    assert "AlexNet trained on photos" in report
    config = json.loads((output / "config.json").read_text())
    assert config["options"]["plan"]["variant"] == "alexnet"
    assert (output / "export" / "1" / "saved_model.pb").exists()
    assert [*output.glob("tensorboard/*")]
    model = keras.models.load_model(output / "model.keras")
    arrays, _ = final_state(output)
    averaged = [arrays[name] for name in sorted(arrays) if name.startswith("average/")]
    for saved, expected in zip(model.get_weights(), averaged, strict=True):
        np.testing.assert_array_equal(saved, expected)


def test_the_last_line_can_be_pasted(whole):
    lines = (whole[0] / "whole.log").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("AlexNet alexnet on photos: top-1 ")]
    assert "after 6 epochs of" in line
    assert "preset paper, seed 5" in line


def test_the_skipped_photograph_is_named(whole):
    assert "red/3.jpg cannot be used and is skipped: " in (whole[0] / "whole.log").read_text()


def invoke(*arguments):
    return CliRunner().invoke(train_imagenet.main, list(map(str, arguments)))


def test_a_finished_run_is_not_written_over(whole, photos):
    output = whole[0] / "whole"
    before = (output / "metrics.json").read_bytes()
    result = invoke("--data-dir", photos, "--output", output)
    assert result.exit_code == 2
    assert "metrics.json of an earlier run" in result.stderr
    assert (output / "metrics.json").read_bytes() == before


def test_the_same_command_after_the_end_has_nothing_to_do(request, whole, photos):
    output = whole[0] / "whole"
    before = (output / "metrics.json").read_bytes()
    assert start(request.config.rootpath, photos, output).wait(120) == 0
    assert "This run has ended" in (whole[0] / "whole.log").read_text().splitlines()[-1]
    assert (output / "metrics.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset", "vgg"], ["'vgg'", "'paper'", "'release'", "'caffe'"]),
        (["--data-dir", "x", "--dataset", "cifar10"], ["either --dataset or --data-dir"]),
        (["--val-dir", "x"], ["--val-dir needs --data-dir"]),
        (["--learning-rate", "-1"], ["-1"]),
        (["--ema", "1"], ["1"]),
        (["--colour"], ["--colour", "--preset"]),
    ],
)
def test_a_mistyped_command_exits_with_2(arguments, words):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert all(word in result.stderr for word in words)


def test_a_folder_that_is_not_there(tmp_path):
    result = invoke("--data-dir", tmp_path / "none", "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "none" in result.stderr


def test_what_is_written_out_is_what_the_package_has():
    assert set(train_options.PRESETS) == set(training.PRESETS)
    assert train_options.OPTIMIZERS == optimization.KINDS
    assert train_options.SCHEDULES == optimization.SCHEDULES
    assert set(train_options.PRECISIONS) == set(POLICIES)
    assert set(train_options.VARIANTS) == set(VARIANTS)


def test_without_options_the_plan_is_the_papers():
    received = []

    def collect(options):
        received.append(options)

    collect.__module__ = __name__
    command = train_options.training_recipe("some_recipe")(collect)
    assert CliRunner().invoke(command, []).exit_code == 0
    (options,) = received
    assert training.Plan(**options.plan) == training.Plan()
    assert options.output.parts == ("runs", "some_recipe", "imagenet2012-paper")
    assert set(plan.CHANGEABLE) <= set(options.plan)


def test_help_names_every_option_and_what_it_is_without():
    text = CliRunner().invoke(train_imagenet.main, ["--help"]).output
    for part in text[text.index("Options:") :].split("\n  --")[1:]:
        told = " ".join(part.split())
        assert (
            "default: " in told
            or "allow-" in told
            or told.startswith(("scale-rate", "data-dir", "help"))
        )
    for option in (name for parameter in train_imagenet.main.params for name in parameter.opts):
        assert f"\n  {option}" in text
