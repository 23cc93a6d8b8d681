"""The recipe as a user runs it: a trained model in, an exported one out."""

from __future__ import annotations

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner

import export
from served_model import NAMES, SIDE, picture, small_classifier


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for label, name in enumerate(NAMES):
        (folder / name).mkdir()
        for number in range(12):
            (folder / name / f"{number}.jpg").write_bytes(picture(seed=100 * label + number))
    return folder


@pytest.fixture
def run_folder(tmp_path, photographs):
    """What a run of the recipe for flowers has left."""
    folder = tmp_path / "run"
    folder.mkdir()
    small_classifier().save(folder / "model.keras")
    options = {"mirror": True, "dataset": "auto", "data_dir": str(photographs), "val_dir": None}
    config = {"recipe": "finetune_flowers", "options": options}
    metrics = {
        **{"class_names": NAMES, "classes": 3, "train_images": 29, "val_images": 7},
        **{"val_top1": 3 / 7, "dataset": "photographs", "weights": "starter"},
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    return folder


def invoke(*arguments):
    return CliRunner().invoke(export.main, [str(argument) for argument in arguments])


def test_a_runs_model_becomes_the_next_version_of_what_it_serves(run_folder, monkeypatch):
    monkeypatch.chdir(run_folder)
    for number in (1, 2):
        result = invoke("model.keras", "--top", 2)
        assert result.exit_code == 0, result.output
        assert result.output == f"saved_models/finetune_flowers/{number}\n"
    version = run_folder / "saved_models" / "finetune_flowers" / "2"
    signature = tf.saved_model.load(str(version)).signatures["predict_images"]
    pixels = np.random.default_rng(0).uniform(0, 255, (2, SIDE, SIDE, 3)).astype(np.float32)
    model = small_classifier()
    expected = (model(pixels) + model(pixels[:, :, ::-1])) / 2  # the run took mirrors
    answer = signature(images=tf.constant(pixels))
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)
    assert answer["classes"].shape == (2, 2)
    card = (version / "README.md").read_text(encoding="utf-8")
    assert "of 7 photographs of photographs" in card
    assert "Tiny ImageNet" in card


def test_limits_labels_and_looks_can_be_given(run_folder, tmp_path):
    (tmp_path / "labels.txt").write_text("a\nb\nc\n", encoding="utf-8-sig")
    (tmp_path / "warm.jpg").write_bytes(picture())
    (run_folder / "metrics.json").unlink()
    result = invoke(
        *(run_folder / "model.keras", "--export-dir", tmp_path / "served", "--no-mirror"),
        *("--labels", tmp_path / "labels.txt", "--max-megapixels", 1, "--max-images", 3),
        *("--embedding", "conv4", "--warm-up", tmp_path / "warm.jpg"),
    )
    assert result.exit_code == 0, result.output
    signatures = tf.saved_model.load(str(tmp_path / "served" / "1")).signatures
    small, large = picture(size=(100, 100)), picture(size=(1100, 1000))
    images = tf.constant([small, large, small, small])
    answer = signatures["serving_default"](images=images)
    assert answer["classes"][0, 0] in (b"a", b"b", b"c")
    assert [error.decode() for error in answer["error"].numpy()] == [
        *("", "1100 x 1000 pixels; send at most 1000000 of them", ""),
        "more than 3 images; send fewer at a time",
    ]
    assert signatures["embed"](images=images)["embedding"].shape == (4, 256)


def test_other_formats_are_measured_on_the_photographs_kept_for_that(run_folder):
    formats = ("onnx", "onnx-int8", "litert", "litert-int8")
    given = [argument for name in formats for argument in ("--format", name)]
    result = invoke(run_folder / "model.keras", *given, "--calibration-images", 10)
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if "kept for measuring" in line]
    files = ("model.keras", "model.onnx", "model.int8.onnx", "model.tflite", "model.int8.tflite")
    assert [line.split(",")[0].rpartition("/")[2] for line in lines] == list(files)
    shares = {line.split(" ")[0] for line in lines[:2] + lines[3:4]}
    assert len(shares) == 1  # in float32 all are the same function
    assert not (run_folder / "saved_models").exists()


class TestMistakes:
    def refused(self, *arguments):
        result = invoke(*arguments)
        assert result.exit_code == 2
        assert len(result.stderr.strip().splitlines()) == 1
        return result.stderr

    def test_no_such_model(self, tmp_path):
        assert "There is no file" in self.refused(tmp_path / "model.keras")

    def test_a_file_that_is_no_model(self, tmp_path):
        (tmp_path / "model.keras").write_bytes(b"PK nothing")
        assert "is no Keras model that can be loaded" in self.refused(tmp_path / "model.keras")

    def test_a_model_that_is_no_classifier(self, run_folder):
        shapes = {"odd": (SIDE, 32, 3), "unknown": (None, None, 3)}
        for name, shape in shapes.items():
            image = keras.Input(shape)
            pooled = keras.layers.GlobalAveragePooling2D()(image)
            keras.Model(image, pooled).save(run_folder / f"{name}.keras")
            said = self.refused(run_folder / f"{name}.keras")
            assert "takes squares of RGB pixels of one size" in said
        image = keras.Input((SIDE, SIDE, 3))
        keras.Model(image, [image, image]).save(run_folder / "two.keras")
        assert "gives probabilities" in self.refused(run_folder / "two.keras")

    def test_labels_in_another_encoding(self, run_folder, tmp_path):
        (tmp_path / "labels.txt").write_bytes(b"ros\xe9\n")
        said = self.refused(run_folder / "model.keras", "--labels", tmp_path / "labels.txt")
        assert "is no text in UTF-8" in said

    def test_a_warm_up_that_is_no_photograph(self, run_folder, tmp_path):
        (tmp_path / "labels.txt").write_text("text")
        said = self.refused(run_folder / "model.keras", "--warm-up", tmp_path / "labels.txt")
        assert "not a JPEG, PNG, GIF, BMP or WebP image" in said

    def test_the_input_is_no_embedding(self, run_folder):
        said = self.refused(run_folder / "model.keras", "--embedding", "image")
        assert "no layer 'image' for embeddings" in said

    def test_no_labels(self, run_folder):
        (run_folder / "metrics.json").unlink()
        said = self.refused(run_folder / "model.keras")
        assert "3 outputs and 0 labels; give a file with one label a line with --labels" in said

    def test_a_damaged_run(self, run_folder):
        (run_folder / "config.json").write_text("{", encoding="utf-8")
        assert "config.json cannot be read" in self.refused(run_folder / "model.keras")

    def test_int8_without_photographs(self, run_folder):
        (run_folder / "config.json").unlink()
        said = self.refused(run_folder / "model.keras", "--format", "onnx-int8")
        assert "give them with --data-dir" in said

    def test_photographs_of_other_classes(self, run_folder, photographs, tmp_path):
        (tmp_path / "labels.txt").write_text("a\nb\nc\n", encoding="utf-8")
        said = self.refused(
            *(run_folder / "model.keras", "--labels", tmp_path / "labels.txt"),
            *("--format", "onnx", "--data-dir", photographs),
        )
        assert "The photographs show daisy, rose, tulip, and the labels are a, b, c" in said


def test_help_is_there_at_once():
    command = [sys.executable, "-X", "importtime", export.__file__, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "MODEL.keras" in done.stdout
    assert "tensorflow" not in done.stderr
