"""What pretrained weights are worth on few photographs: five-fold, in the same time.

    python benchmarks/transfer.py FLOWERS --work FOLDER --trunk TRUNK.npz

FLOWERS holds a subfolder of photographs for each class; they are dealt into five folds, class by
class. Each contestant is `recipes/finetune_flowers.py` with the options of `CONTESTANTS`, trained
on four folds (of which the recipe takes a tenth to stop by) and measured once on the fifth. TRUNK
is a file of ImageNet's convolutions. `--choose` is for choosing the options, as those below were:
it deals the training photographs of fold 0 into folds of their own and measures there.

The table gives the share of all photographs that are labelled right, each by the net that has not
seen it, with Wilson's 95% interval; the least and the most of the folds; and the seconds of a run
from its start to its figures, report and export left out.
"""

import argparse
import random
from pathlib import Path
from typing import Any

from alexnet_keras.evaluation import wilson_interval
from recipe_runs import link, run_recipe

FOLDS = 5
RANDOM_MODERN = {
    "weights": "none",
    "variant": "modern",
    "image-size": 64,
    "augmentation": "random_resized_crop",
    "learning-rate": 0.005,
}
CONTESTANTS: dict[str, dict[str, Any]] = {
    "starter, frozen": {"weights": "starter"},
    "random, modern, 8 epochs": RANDOM_MODERN | {"epochs": 8},
    "random, modern, 10 epochs": RANDOM_MODERN | {"epochs": 10},
    "random, alexnet, 5 epochs": {"weights": "none", "variant": "alexnet", "epochs": 5},
    "ImageNet's convolutions, frozen": {},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FLOWERS")
    parser.add_argument("--work", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--trunk", type=Path, help="ImageNet's convolutions, for their row")
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--folds", nargs="+", type=int, choices=range(FOLDS), default=range(FOLDS))
    parser.add_argument("--choose", action="store_true", help="within fold 0's training part")
    options = parser.parse_args()
    names = [name for name in options.only if "ImageNet" not in name or options.trunk]
    images = photographs(options.folder)
    work = options.work
    if options.choose:
        images, work = training_part(images, 0), work / "choosing"
    for fold in options.folds:
        link(fold_links(images, fold), work / "folds" / str(fold))
    print("| weights | right | folds | seconds |\n|---|---|---|---|")
    for name in names:
        chosen = dict(CONTESTANTS[name])
        if "ImageNet" in name:
            chosen["weights"] = options.trunk
        print(row(name, [measured(chosen, name, fold, work) for fold in options.folds]), flush=True)


def photographs(folder: Path) -> list[tuple[str, Path, int]]:
    """Class, path and fold of each photograph."""
    found = []
    for label in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
        paths = sorted(path for path in label.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
        random.Random(label.name).shuffle(paths)
        found += [(label.name, path, number % FOLDS) for number, path in enumerate(paths)]
    return found


def training_part(images: list[tuple[str, Path, int]], fold: int) -> list[tuple[str, Path, int]]:
    """All but one fold, dealt anew."""
    kept = [(label, path) for label, path, own in images if own != fold]
    return [(label, path, number % FOLDS) for number, (label, path) in enumerate(kept)]


def fold_links(images: list[tuple[str, Path, int]], fold: int) -> dict[str, Path]:
    return {
        f"{'val' if own == fold else 'train'}/{label}/{path.name}": path
        for label, path, own in images
    }


def measured(options: dict[str, Any], name: str, fold: int, work: Path) -> dict[str, Any]:
    data = work / "folds" / str(fold)
    given = {"data-dir": data / "train", "val-dir": data / "val", "seed": fold, **options}
    return run_recipe("finetune_flowers", given, work / "runs" / f"{name}, fold {fold}")


def row(name: str, folds: list[dict[str, Any]]) -> str:
    count = sum(fold["val_images"] for fold in folds)
    right = sum(round(fold["val_top1"] * fold["val_images"]) for fold in folds)
    low, high = wilson_interval(right, count)
    each = [100 * fold["val_top1"] for fold in folds]
    phases = ("photographs", "model", "training", "evaluation")
    seconds = [sum(fold["seconds"][phase] for phase in phases) for fold in folds]
    return (
        f"| {name} | {right / count:.1%} of {count:,} ({low:.1%} to {high:.1%}) | "
        f"{min(each):.1f} to {max(each):.1f}% | {sum(seconds) / len(seconds):.0f} |"
    )


if __name__ == "__main__":
    main()
