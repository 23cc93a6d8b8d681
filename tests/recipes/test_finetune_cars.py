"""What only the recipe for cars does, and the comparison with training from scratch."""

from __future__ import annotations

import csv
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from PIL import Image

import finetune_cars
from alexnet_keras import AlexNet
from alexnet_keras.training import precision
from alexnet_keras.transfer import from_scratch
from alexnet_keras.weights import preprocessing_of, starter

SMALL = ["--image-size", "64", "--epochs", "0", "--head-epochs", "3", "--views", "1"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Seven classes, told apart by colour in part: some are bound to be confused."""
    folder = tmp_path_factory.mktemp("data") / "cars"
    rng = np.random.default_rng(0)
    for label in range(7):
        (folder / f"make {label}").mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 160, (48, 80, 3))
            pixels[..., label % 3] += 80
            path = folder / f"make {label}" / f"{number}.jpg"
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Starter weights that nobody has trained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(starter, "PATH", tmp_path / "starter.npz")
    untrained = AlexNet(variant=starter.VARIANT, include_top=False)
    monkeypatch.setattr(starter, "SHA256", starter.write_starter(untrained, starter.PATH))
    return "starter"


def test_scratch_is_compared_and_rates_are_searched(photographs, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(from_scratch, "PLATEAU_EPOCHS", 2)
    monkeypatch.setattr(from_scratch, "_seconds_of_an_epoch", lambda *given: 1e9)
    monkeypatch.setattr(precision, "_cpu_flags", lambda: {"amx_bf16"})
    options = ["--data-dir", photographs, "--weights", weights, "--output", "out"]
    wanted = [*SMALL, "--compare-scratch", "--search-rate", *map(str, options)]
    done = CliRunner().invoke(finetune_cars.main, wanted)
    assert done.exit_code == 0, done.output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert f"are labelled right ({metrics['val_top5']:.1%} in five)" in done.output
    assert 0 <= metrics["from_scratch_val_top1_same_time"] <= 1
    assert f"{metrics['from_scratch_val_top1_plateau']:.1%} at their own plateau" in done.output
    with (tmp_path / "out" / "history_from_scratch.csv").open() as file:
        phases = [row["phase"] for row in csv.DictReader(file)]
    assert phases[0] == from_scratch.SAME_TIME and phases[-1] == from_scratch.PLATEAU
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["options"]["precision"] == "bfloat16"
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(f'id="{section}"' in page for section in ("rate", "worth", "twins"))


def test_photographs_are_seen_whole_and_on_request_not_mirrored(photographs, weights, tmp_path):
    options = ["--data-dir", photographs, "--weights", weights, "--output", "out", "--no-mirror"]
    wanted = [*SMALL, *map(str, options), "--precision", "float32"]
    done = CliRunner().invoke(finetune_cars.main, wanted)
    assert done.exit_code == 0, done.output
    config = json.loads((tmp_path / "out" / "config.json").read_text())["options"]
    assert (config["crop"], config["mirror"], config["precision"]) == ("whole", False, "float32")
    model = keras.models.load_model(tmp_path / "out" / "model.keras")
    assert preprocessing_of(model).geometry == {"resize_ratio": 1.0, "keep_aspect": False}

    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        answers = list(csv.DictReader(file))
    contents = [(photographs / row["photograph"]).read_bytes() for row in answers]
    exported = tf.saved_model.load(str(tmp_path / "saved_models" / "finetune_cars" / "1"))
    scores = exported.signatures["serving_default"](images=tf.constant(contents))["scores"]
    confidence = [float(row["confidence"]) for row in answers]
    np.testing.assert_allclose(scores[:, 0], confidence, atol=1e-4)
    images = np.stack([tf.image.resize(tf.io.decode_jpeg(one), (64, 64)) for one in contents])
    answer = exported.signatures["predict_images"](images=tf.constant(images))
    np.testing.assert_allclose(answer["probabilities"], model(images), atol=1e-5)
    assert np.abs(answer["probabilities"] - model(images[:, :, ::-1])).max() > 1e-4


def test_without_the_archives_it_says_which_and_where(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    done = CliRunner().invoke(finetune_cars.main, ["--weights", "starter"])
    assert done.exit_code == 2
    assert "cars_train.tgz into" in done.output and "--data-dir" in done.output
    assert "Traceback" not in done.output
