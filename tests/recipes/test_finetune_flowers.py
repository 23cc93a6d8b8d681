"""The recipe as a user runs it: a command, its exit code, what it prints and what it leaves."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from PIL import Image

import finetune_flowers
from alexnet_keras import AlexNet
from alexnet_keras.training import choose_precision
from alexnet_keras.weights import automatic, starter

SMALL = ["--image-size", "64", "--epochs", "1", "--head-epochs", "3", "--views", "1"]
SMALL += ["--unfreeze-from", "conv4"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Three classes told apart by colour, 30 photographs each, two of them torn."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    rng = np.random.default_rng(0)
    for channel, name in enumerate(("red", "green <b>", "blue")):
        (folder / name).mkdir(parents=True)
        for i in range(30):
            pixels = rng.integers(0, 120, (48, 80, 3))
            pixels[..., channel] += 110
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.jpg")
    whole = (folder / "red" / "0.jpg").read_bytes()
    (folder / "red" / "torn.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "blue" / "empty.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "trunk.npz"
    rng = np.random.default_rng(0)
    filters = (64, 192, 384, 256, 256)
    tensors = {}
    for i, (size, fan, out) in enumerate(
        zip((11, 5, 3, 3, 3), (3, *filters), filters, strict=False), start=1
    ):
        deviation = (2 / (size * size * fan)) ** 0.5
        tensors[f"conv{i}/kernel"] = rng.normal(0, deviation, (size, size, fan, out)).astype("f4")
        tensors[f"conv{i}/bias"] = np.zeros(out, "f4")
    np.savez(path, **tensors)
    return path


def recipe(repository, folder, *arguments, code=0):
    done = subprocess.run(
        [sys.executable, repository / "recipes" / "finetune_flowers.py", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "TFDS_DATA_DIR": str(folder / "tfds")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def finished(photographs, trunk, tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("run")
    root = request.config.rootpath
    done = recipe(
        root, folder, *SMALL, "--data-dir", photographs, "--weights", trunk, "--output", "out"
    )
    return folder, done


def test_a_run_leaves_every_file_that_the_readme_names(finished):
    folder, _ = finished
    names = {entry.name for entry in (folder / "out").iterdir()}
    assert names == {
        "config.json",
        "metrics.json",
        "predictions.csv",
        "history.csv",
        "tensorboard",
        "model.keras",
        "skipped.txt",
        "near_duplicates.txt",
        "report.html",
    }
    assert [p.name for p in (folder / "saved_models" / "finetune_flowers").iterdir()] == ["1"]


def test_metrics_count_every_photograph(finished):
    folder, done = finished
    metrics = json.loads((folder / "out" / "metrics.json").read_text())
    assert metrics["dataset"] == "photos"
    assert metrics["train_images"] + metrics["val_images"] == 90
    assert (metrics["classes"], metrics["images_skipped"]) == (3, 2)
    assert "val_top5" not in metrics
    assert 0 <= metrics["val_top1"] <= 1
    phases = ["photographs", "model", "training", "evaluation", "report", "export"]
    assert list(metrics["seconds"]) == phases
    assert sum(metrics["seconds"].values()) <= metrics["seconds_total"] + 0.1
    assert f"{metrics['val_top1']:.1%} of {metrics['val_images']}" in done.stdout


def test_every_answer_is_written_down(finished):
    folder, _ = finished
    metrics = json.loads((folder / "out" / "metrics.json").read_text())
    with (folder / "out" / "predictions.csv").open(newline="") as file:
        answers = list(csv.DictReader(file))
    assert len(answers) == metrics["val_images"]
    right = [row["truth"] == row["prediction"] for row in answers]
    assert sum(right) / len(right) == pytest.approx(metrics["val_top1"])
    for row, is_right in zip(answers, right, strict=True):
        assert row["photograph"].startswith(f"{row['truth']}/")
        assert (row["rank"] == "1") == is_right
        assert 1 / 3 < float(row["confidence"]) <= 1


def test_the_configuration_is_resolved(finished):
    folder, _ = finished
    config = json.loads((folder / "out" / "config.json").read_text())
    options = config["options"]
    assert (options["variant"], options["image_size"], options["seed"]) == ("torchvision", 64, 0)
    assert (options["head"], options["crop"], options["mirror"]) == ("bilinear", "centre", True)
    assert options["precision"] == choose_precision("auto")
    assert options["learning_rate"] > 0
    assert [phase["name"] for phase in options["phases"]][:2] == ["first look", "head"]
    assert config["packages"]["keras"] == keras.__version__
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", config["git_revision"] or "0" * 40)


def test_the_history_has_all_phases(finished):
    folder, _ = finished
    with (folder / "out" / "history.csv").open() as file:
        phases = [row["phase"] for row in csv.DictReader(file)]
    assert list(dict.fromkeys(phases)) == ["first look", "head", "fine-tune from conv4"]


def test_skipped_images_are_listed_with_the_reason(finished):
    lines = (finished[0] / "out" / "skipped.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["blue/empty.png", "red/torn.jpg"]


def test_the_report_stands_alone_and_escapes_names(finished):
    page = (finished[0] / "out" / "report.html").read_text()
    assert "green &lt;b&gt;" in page and "green <b>" not in page
    assert not re.search(r"(?:src|href)=[\"']https?:", page)


def test_the_console_says_which_weights_stay_random(finished):
    assert "random ones stay, in fc8" in finished[1].stdout
    assert "occur together (bilinear pooling)" in finished[1].stdout
    assert "Traceback" not in finished[1].stderr


def test_the_saved_model_holds_the_weights_once_and_loads_without_a_warning(finished, recwarn):
    path = finished[0] / "out" / "model.keras"
    model = keras.models.load_model(path)
    assert not [w for w in recwarn if "optimizer" in str(w.message)]
    assert path.stat().st_size < 1.05 * 4 * model.count_params() + 200_000


def test_the_exported_model_answers_as_the_saved_one_from_both_sides(finished, photographs):
    folder, _ = finished
    model = keras.models.load_model(folder / "out" / "model.keras")
    exported = tf.saved_model.load(str(folder / "saved_models" / "finetune_flowers" / "1"))
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 64, 64, 3)).astype(np.float32)
    answer = exported.signatures["predict_images"](images=tf.constant(pixels))
    expected = (model(pixels) + model(pixels[:, :, ::-1])) / 2
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}


def test_what_is_served_is_what_was_measured(finished, photographs):
    folder, _ = finished
    with (folder / "out" / "predictions.csv").open(newline="") as file:
        answers = list(csv.DictReader(file))
    exported = tf.saved_model.load(str(folder / "saved_models" / "finetune_flowers" / "1"))
    contents = [(photographs / row["photograph"]).read_bytes() for row in answers]
    served = exported.signatures["serving_default"](images=tf.constant(contents))
    confidence = [float(row["confidence"]) for row in answers]
    np.testing.assert_allclose(served["scores"][:, 0], confidence, atol=1e-4)
    assert [name.decode() for name in served["classes"][:, 0].numpy()] == [
        row["prediction"] for row in answers
    ]


def test_a_finished_run_is_not_overwritten(finished, repository, photographs):
    folder, _ = finished
    before = (folder / "out" / "metrics.json").read_bytes()
    options = ["--data-dir", photographs, "--weights", "none", "--output", "out"]
    done = recipe(repository, folder, *options, *SMALL, code=2)
    assert "out holds the metrics.json of an earlier run" in done.stderr
    assert (folder / "out" / "metrics.json").read_bytes() == before


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """No network, no cache, no starter weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(automatic, "unreachable", lambda address: "no route")
    monkeypatch.setattr(starter, "PATH", tmp_path / "starter.npz")


def test_automatic_weights_are_random_where_there_are_none_on_two_devices(
    photographs, tmp_path, alone
):
    # In this process, which has two virtual CPUs.
    options = ["--data-dir", photographs, "--strategy", "mirrored", "--output", "out"]
    done = CliRunner().invoke(finetune_flowers.main, [*SMALL, *map(str, options)])
    assert done.exit_code == 0, done.output
    assert "(no route)" in done.output and "starts from random weights" in done.output
    assert "Training on 2 devices" in done.output
    assert recorded_weights(tmp_path / "out") == "none"


def test_automatic_weights_are_the_starters_where_imagenets_are_out_of_reach(
    photographs, tmp_path, alone, monkeypatch
):
    trained = AlexNet(variant=starter.VARIANT, include_top=False)
    monkeypatch.setattr(starter, "SHA256", starter.write_starter(trained, starter.PATH))
    options = ["--data-dir", photographs, "--output", "out"]
    done = CliRunner().invoke(finetune_flowers.main, [*SMALL, *map(str, options)])
    assert done.exit_code == 0, done.output
    assert "(no route); taking the starter weights" in done.output
    assert recorded_weights(tmp_path / "out") == "starter"


def recorded_weights(folder):
    """The weights that a run's metrics and its configuration name alike."""
    config = json.loads((folder / "config.json").read_text())
    metrics = json.loads((folder / "metrics.json").read_text())
    assert config["options"]["weights"] == metrics["weights"]
    return metrics["weights"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data-dir", "nowhere", "--weights", "none"], ["no folder nowhere"]),
        (["--weights", "nowhere.npz", "--data-dir", "{photos}"], ["no weights file nowhere.npz"]),
        (["--weights", "none", "--output", "file/out"], ["file/out", "--output"]),
        (["--weights", "none", "--export-dir", "file/x"], ["file/x", "--export-dir"]),
        (
            ["--data-dir", "{photos}", "--weights", "{trunk}", "--variant", "alexnet"],
            ["do not fit the variant 'alexnet'", "'torchvision'"],
        ),
        (["--dataset", "cats"], ["'cats'", "'drawn_flowers'"]),
    ],
)
def test_a_users_mistake_is_one_sentence_and_exit_code_2(
    arguments, words, repository, photographs, trunk, tmp_path
):
    (tmp_path / "file").write_text("in the way")
    filled = [a.format(photos=photographs, trunk=trunk) for a in arguments]
    done = recipe(repository, tmp_path, *SMALL, *filled, code=2)
    assert all(word in done.stderr for word in words)
    assert "Traceback" not in done.stderr
    assert (tmp_path / "file").read_text() == "in the way"
