"""The recipe as a user runs it: photographs in, labels out."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import classify

RED, BLUE = 950, 973  # orange and coral_reef, by their places in the list of classes
CHANNELS = (3, 96, 256, 384, 384, 256)


@pytest.fixture(scope="module")
def colour_weights(tmp_path_factory):
    """Caffe's net with weights that call red photographs oranges and blue ones coral reefs.

    One channel carries the red, one the blue, through all layers; in Caffe blue comes first.
    """
    tensors = {}
    for number in range(1, 6):
        size, groups = (11, 5, 3, 3, 3)[number - 1], 2 if number in (2, 4, 5) else 1
        kernel = np.zeros((size, size, CHANNELS[number - 1] // groups, CHANNELS[number]), "f4")
        kernel[size // 2, size // 2, 2 if number == 1 else 0, 0] = 1
        kernel[size // 2, size // 2, 0 if number == 1 else 1, 1] = 1
        tensors[f"conv{number}/kernel"] = kernel
        tensors[f"conv{number}/bias"] = np.zeros(CHANNELS[number], "f4")
    for name, inputs, outputs in (("fc6", 9216, 4096), ("fc7", 4096, 4096), ("fc8", 4096, 1000)):
        tensors[f"{name}/kernel"] = np.zeros((inputs, outputs), "f4")
        tensors[f"{name}/bias"] = np.zeros(outputs, "f4")
    for channel, label in ((0, RED), (1, BLUE)):
        tensors["fc6/kernel"][channel::256, channel] = 1 / 36
        tensors["fc7/kernel"][channel, channel] = 1
        tensors["fc8/kernel"][channel, label] = 0.1
    path = tmp_path_factory.mktemp("weights") / "colours.npz"
    np.savez(path, **tensors)
    yield path
    path.unlink()


@pytest.fixture
def photographs(tmp_path):
    for name, colour in (("red.jpg", (230, 40, 40)), ("blue.png", (40, 40, 230))):
        Image.new("RGB", (60, 40), colour).save(tmp_path / name)
    (tmp_path / "torn.jpg").write_bytes((tmp_path / "red.jpg").read_bytes()[:200])
    return tmp_path


def test_photographs_get_their_labels_and_unreadable_ones_a_sentence(
    repository, colour_weights, photographs
):
    options = ["--weights", colour_weights, "--variant", "caffe", "--top", "2"]
    done = subprocess.run(
        [sys.executable, repository / "recipes" / "classify.py", photographs, "gone.jpg", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    # libjpeg has words of its own about the torn one.
    torn, gone = [line for line in done.stderr.splitlines() if line.startswith("Error")]
    assert torn == f"Error: {photographs / 'torn.jpg'} is left out: truncated JPEG."
    assert "gone.jpg is left out: cannot be read" in gone
    lines = done.stdout.splitlines()
    assert lines[0] == str(photographs / "blue.png")
    assert lines[1].split() == [lines[1].split()[0], "coral", "reef"]
    assert lines[3] == str(photographs / "red.jpg")
    assert lines[4].split()[1:] == ["orange"]
    assert len(lines) == 6
    for line in (lines[1], lines[4]):
        assert 50 < float(line.split()[0].rstrip("%")) <= 100


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["PHOTO"]),
        (["red.jpg", "--variant", "vgg"], ["'vgg'", "'caffenet'"]),
        (["red.jpg", "--weights", "nowhere.pth"], ["nowhere.pth"]),
        (["empty"], ["no photographs in empty"]),
        (["red.jpg", "--weights", "imagenet", "--variant", "paper"], ["'paper'", "'torchvision'"]),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(arguments, words, photographs, monkeypatch):
    monkeypatch.chdir(photographs)
    (photographs / "empty").mkdir()
    result = CliRunner().invoke(classify.main, arguments)
    assert result.exit_code == 2
    assert all(word in result.output for word in words)
    assert "Traceback" not in result.output


def test_photographs_that_all_are_unreadable_end_before_any_weights_are_asked_for(photographs):
    result = CliRunner().invoke(classify.main, [str(photographs / "torn.jpg")])
    assert result.exit_code == 2
    assert "truncated JPEG" in result.output
