"""What the processes of `time_to_accuracy.py` share: their clock, options and photographs."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np

#: the environment variable that tells a process when it was started
BEGAN = "TIME_TO_ACCURACY_BEGAN"
#: where each leaves its curve, in its --output
CURVE = "curve.json"

# What the stock recipes have in common.
SIZE, RESIZED = 224, 256
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: a crop's share of the photograph's area, and its width over its height: the defaults of
#: torchvision's RandomResizedCrop, as PyTorch's own lesson on transfer learning takes them
AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
FEATURES = 9216
BATCH = 64
DROPOUT = 0.5
HEAD_EPOCHS, HEAD_RATE = 20, 1e-3
RATE, MOMENTUM = 2e-3, 0.9


def starting() -> dict[str, str]:
    """The environment for a process that is started now."""
    return {BEGAN: str(time.monotonic())}


def seconds() -> float:
    """Since this process was started: the monotonic clock is one for all processes."""
    return time.monotonic() - _BEGAN


_BEGAN = float(os.environ.get(BEGAN) or time.monotonic())


def stock_options() -> argparse.Namespace:
    """The options of a stock recipe."""
    parser = argparse.ArgumentParser()
    for name in ("data-dir", "val-dir", "trunk", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    return parser.parse_args()


def class_names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def labelled(folder: Path, classes: list[str]) -> tuple[list[str], np.ndarray]:
    """The paths of photographs in subfolders by class, and their places in `classes` as int32."""
    paths, labels = [], []
    for number, name in enumerate(classes):
        found = sorted(str(path) for path in (folder / name).glob("*"))
        paths += found
        labels += [number] * len(found)
    return paths, np.array(labels, np.int32)
