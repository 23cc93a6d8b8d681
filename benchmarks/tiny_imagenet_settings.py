"""Short runs that choose how Tiny ImageNet is trained from scratch, by training images alone.

    python benchmarks/tiny_imagenet_settings.py tiny-imagenet-200 --work FOLDER
    python benchmarks/tiny_imagenet_settings.py tiny-imagenet-200 --work FOLDER --only 'rate .2'

Every fourth class of the training part, 450 images of each to train on and the other 50 to measure
on; the validation part of the set is not read. Each setting is `recipes/train_imagenet.py` with the
options of `BASE` and its own, under three seeds (order, augmentation, initial weights); its epochs
are what it can do in the time of six epochs of the base, by multiply-adds.

The table gives top-1 (mean of the seeds), the difference from the base with the same seeds (mean
and its 95% interval by Student's t over the seeds), and the seconds of training. A run that is in
FOLDER already is not made again, and an interrupted one goes on.
"""

import argparse
import csv
import json
import math
import statistics
from pathlib import Path

from recipe_runs import link, run_recipe

SEEDS = (0, 1, 2)
#: of Student's t with two degrees of freedom, two-sided 95%
T95 = 4.303

BASE = {
    "variant": "modern",
    "epochs": 6,
    "first-view-size": 32,
    "last-view-size": 56,
    "image-size": 72,
    "schedule": "cosine",
    "learning-rate": 0.1,
    "warmup-epochs": 1,
    "augmentation": "inception",
    "crops": 1,
    "watch-share": 0,
}
#: what differs from the base; None takes an option away
SETTINGS = {
    "base": {},
    "no colour jitter": {"augmentation": "random_resized_crop"},
    "images of one size": {"first-view-size": None, "epochs": 4},
    "measured at 64 px": {"image-size": 64},
    "label smoothing .1": {"label-smoothing": 0.1},
    "no residual connections": {"residual": "no"},
    "local response normalization": {"normalization": "lrn", "learning-rate": 0.02},
    "the crops and colours of 2012": {"augmentation": "published"},
    "rate .2": {"learning-rate": 0.2},
    "rate .05": {"learning-rate": 0.05},
    "AdamW": {"optimizer": "adamw", "learning-rate": 0.002},
    "steps by ten": {"schedule": "step", "warmup-epochs": 0},
    "mixup .2": {"mixup": 0.2},
    "width 1.4": {"width": 1.4, "epochs": 3},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="tiny-imagenet-200, unpacked")
    parser.add_argument("--work", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    options = parser.parse_args()
    subset = options.work / "subset"
    make_subset(options.folder, subset)
    names = list(dict.fromkeys(["base", *options.only]))
    for name in names:  # one setting after the other, so that each is told as soon as it is known
        for seed in SEEDS:
            train(name, seed, subset, options.work)
        print(row(name, options.work), flush=True)


def make_subset(folder: Path, subset: Path) -> None:
    """Links every fourth class: 450 images to `train`, 50 to `val`."""
    images = {}
    for source in sorted((folder / "train").iterdir())[::4]:
        for number, image in enumerate(sorted((source / "images").iterdir())):
            part = "train" if number < 450 else "val"
            images[f"{part}/{source.name}/{image.name}"] = image
    link(images, subset)


def train(name: str, seed: int, subset: Path, work: Path) -> None:
    options = {"data-dir": subset, **BASE, **SETTINGS[name], "seed": seed}
    run_recipe("train_imagenet", options, run_folder(name, seed, work))


def run_folder(name: str, seed: int, work: Path) -> Path:
    return work / "runs" / f"{name.replace(' ', '-')}-{seed}"


def row(name: str, work: Path) -> str:
    mine, base = ([top1(each, seed, work) for seed in SEEDS] for each in (name, "base"))
    differences = [100 * (a - b) for a, b in zip(mine, base, strict=True)]
    half = T95 * statistics.stdev(differences) / math.sqrt(len(SEEDS))
    told = "" if name == "base" else f"{statistics.mean(differences):+.1f} +- {half:.1f}"
    seconds = statistics.mean(seconds_of(name, seed, work) for seed in SEEDS)
    shown = ", ".join(f"{100 * value:.1f}" for value in mine)
    return f"| {name} | {100 * statistics.mean(mine):.1f} ({shown}) | {told} | {seconds:.0f} |"


def top1(name: str, seed: int, work: Path) -> float:
    return json.loads((run_folder(name, seed, work) / "metrics.json").read_text())["val_top1"]


def seconds_of(name: str, seed: int, work: Path) -> float:
    with (run_folder(name, seed, work) / "history.csv").open() as file:
        return sum(float(epoch["seconds"]) for epoch in csv.DictReader(file))


if __name__ == "__main__":
    main()
