from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from alexnet_keras import UserError
from command_line import FineTuneOptions, fine_tuning_recipe
from finetune_cars import main as finetune_cars
from finetune_flowers import main as finetune_flowers


def invoke(arguments, main=None):
    received = []

    def collect(options: FineTuneOptions) -> None:
        received.append(options)
        if main:
            main()

    collect.__module__ = __name__
    result = CliRunner().invoke(fine_tuning_recipe("some_recipe")(collect), arguments)
    return result, received


def test_defaults_depend_on_the_recipe_and_the_weights():
    _, (options,) = invoke([])
    assert (options.dataset, options.weights, options.seed) == ("auto", "auto", 0)
    assert options.export_dir == Path("saved_models/some_recipe")
    with pytest.raises(ValueError, match="'auto' is not resolved"):
        options.resolved()
    random = options.with_weights(None).resolved()
    pretrained = options.with_weights("x.npz").resolved()
    assert (random.batch_size, pretrained.batch_size) == (32, 64)
    assert (random.weights, random.weights_source) == ("none", None)
    assert (pretrained.weights, pretrained.weights_source) == ("x.npz", "x.npz")
    plain = ["--weights", "none"]
    assert invoke([*plain, "--epochs", "0"])[1][0].resolved().epochs == 0
    assert invoke([*plain, "--unfreeze-from", "none"])[1][0].resolved().unfreeze_from == ()
    several = [*plain, "--unfreeze-from", "conv5,conv3"]
    assert invoke(several)[1][0].unfreeze_from == ("conv5", "conv3")


def test_mirrors_are_taken_and_precision_is_chosen_unless_told_otherwise():
    _, (options,) = invoke([])
    assert (options.crop, options.mirror, options.precision) == ("centre", True, "auto")
    told = ["--crop", "whole", "--no-mirror", "--precision", "float32", "--head", "bilinear"]
    _, (options,) = invoke(told)
    assert (options.crop, options.mirror, options.precision) == ("whole", False, "float32")
    assert options.head == "bilinear"
    assert invoke(["--mirror"])[1][0].mirror


def test_cars_are_cut_out_already_and_seen_whole():
    def defaults(command):
        options = {option.name: option.default for option in command.params}
        return options["crop"], options["head_epochs"], options["unfreeze_from"]

    assert defaults(finetune_cars) == ("whole", 40, "none")
    assert defaults(finetune_flowers) == ("centre", 20, "none")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--colour", "red"], ["--colour", "--dataset", "--data-dir", "--export-dir", "--views"]),
        (["--variant", "vgg"], ["'vgg'", "'alexnet'", "'torchvision'"]),
        (["--dataset", "cats"], ["'cats'", "'drawn_flowers'", "'tf_flowers'"]),
        (["--strategy", "tpu"], ["'tpu'", "'auto'", "'mirrored'"]),
        (["--head", "linear"], ["'linear'", "'auto'", "'bilinear'"]),
        (["--crop", "middle"], ["'middle'", "'centre'", "'whole'"]),
        (["--precision", "float16"], ["'float16'", "'auto'", "'bfloat16'"]),
        (["--unfreeze-from", "conv5,pool3"], ["'pool3'", "conv5", "none"]),
        (["--image-size", "32"], ["32", "63<=x<=1024"]),
        (["--epochs", "many"], ["'many'", "integer"]),
        (["--dataset", "tf_flowers", "--data-dir", "x"], ["either --dataset or --data-dir"]),
        (["--val-dir", "x"], ["--val-dir needs --data-dir"]),
        (["--compare-scratch", "--weights", "none"], ["needs pretrained weights"]),
        (["photos"], ["photos"]),
    ],
)
def test_a_mistyped_command_exits_with_2_and_names_what_is_allowed(arguments, words):
    result, received = invoke(arguments)
    assert (result.exit_code, received) == (2, [])
    assert all(word in result.output for word in words)


def test_a_users_mistake_is_one_line_without_a_traceback():
    def fail():
        raise UserError("The folder x is empty; add photographs.")

    result, _ = invoke([], fail)
    assert result.exit_code == 2
    assert result.output == "Error: The folder x is empty; add photographs.\n"


def test_a_bug_is_not_hidden():
    def fail():
        raise RuntimeError("a bug")

    assert isinstance(invoke([], fail)[0].exception, RuntimeError)


def test_help_explains_every_option_with_its_default(repository):
    done = subprocess.run(
        [sys.executable, "recipes/finetune_flowers.py", "--help"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    )
    options = [line for line in done.stdout.splitlines() if line.lstrip().startswith("--")]
    assert len(options) == 26
    shown = {word.strip(",") for line in options for word in line.split() if word[:2] == "--"}
    assert {"--crop", "--mirror", "--no-mirror", "--precision"} <= shown
    assert "auto|fc|pooled|bilinear" in done.stdout
    paragraphs = done.stdout.split("Options:")[1].split("\n  --")[1:]
    for paragraph in paragraphs:
        plain = ("help", "data-dir", "allow-bad", "search-rate", "compare", "settings")
        if not paragraph.startswith(plain):
            assert "default" in paragraph, paragraph


def test_help_and_errors_do_not_wait_for_tensorflow(repository):
    code = "import sys, command_line; sys.exit('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository / "recipes", check=False)
    assert done.returncode == 0
