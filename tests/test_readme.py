"""README's tables say what the code says."""

from __future__ import annotations

import re

import click

from alexnet_keras.training import PRESETS
from alexnet_keras.variants import VARIANTS
from alexnet_keras.weights import PUBLISHED
from classify import main as classify
from export import main as export
from feature_cache import main as feature_cache
from finetune_cars import main as finetune_cars
from finetune_flowers import main as finetune_flowers
from make_tfrecords import main as make_tfrecords
from train_imagenet import main as train_imagenet
from tune_flowers import main as tune_flowers


def rows(repository, first_heading):
    """The cells of the table whose first column is headed so, a list for each row."""
    lines = (repository / "README.md").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first_heading} |"))
    table = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            return table
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table


def test_every_variant_is_listed_with_its_channels_and_size(repository):
    listed = {row[0].strip('`"'): row for row in rows(repository, "`variant`")}
    assert listed.keys() == VARIANTS.keys()
    for name, row in VARIANTS.items():
        filters = [count // row.towers for count in row.filters]
        channels = "-".join(map(str, filters))
        assert listed[name][2] == (f"2 x {channels}" if row.towers == 2 else channels)


def test_every_published_file_is_listed_as_it_is_registered(repository):
    listed = {row[0].strip("`"): row for row in rows(repository, "key")}
    assert listed.keys() == PUBLISHED.keys()
    for key, row in PUBLISHED.items():
        _, variant, file_name, accuracy, pixels, licence, download = listed[key]
        assert (variant, file_name.strip("`"), licence) == (
            row.variant,
            row.file_name,
            row.licence,
        )
        if row.top1 is not None:
            given = tuple(map(float, re.findall(r"\d+\.\d+", accuracy)))
            assert given == (row.top1, row.top5)
        assert pixels.endswith(f" {row.image_size}")
        assert ("BGR" in pixels) == (row.preprocessing == "caffe")
        assert ("by path only" in download) == (row.address is None)


def test_every_option_that_is_shown_exists(repository):
    text = (repository / "README.md").read_text()
    for name, command in (
        ("finetune_flowers", finetune_flowers),
        ("finetune_cars", finetune_cars),
        ("feature_cache", feature_cache),
        ("classify", classify),
        ("export", export),
        ("train_imagenet", train_imagenet),
        ("make_tfrecords", make_tfrecords),
        ("tune_flowers", tune_flowers),
    ):
        assert isinstance(command, click.Command)
        known = {
            option
            for parameter in command.params
            for option in (*parameter.opts, *parameter.secondary_opts)
        }
        for line in re.findall(rf"python recipes/{name}\.py(.*)", text):
            assert set(re.findall(r"--[a-z-]+", line)) - {"--help"} <= known


def test_every_preset_is_listed_with_its_numbers(repository):
    names = ("paper", "release", "caffe")
    listed = {
        row[0].strip("`-"): dict(zip(names, row[1:], strict=True))
        for row in rows(repository, "setting")
    }
    assert set(names) == PRESETS.keys()
    for name, preset in PRESETS.items():
        assert listed["net, `--variant"][name] == f"`{preset.variant}`"
        assert listed["batch-size"][name].startswith(f"{preset.batch_size} ")
        assert listed["epochs"][name].startswith(f"{preset.epochs} ")
        assert listed["momentum"][name] == f"{preset.momentum:g}".lstrip("0")
        assert listed["rate of the weights"][name].startswith(
            f"{preset.learning_rate:g}".lstrip("0")
        )
