"""A search so small that it is run within a test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from alexnet_keras.alexnet import VARIANTS
from alexnet_keras.data import split
from alexnet_keras.transfer import Choices, FeatureCache
from alexnet_keras.tuning import Budget, FineTuneHyperModel, FineTuneTuner, make_oracle
from two_colours import colored

SIDE, WIDTH = 64, 8
#: one value of each but the rates and the like
SHORT = Choices(image_size=SIDE, head_epochs=2, epochs=1, batch_size=8, views=1)


def narrow_row(name):
    """A row of the table with a few channels; to take the place of `classifier.variant_row`."""
    return replace(VARIANTS[name], filters=(WIDTH,) * 5, hidden_units=(8, 8))


def write_trunk(path):
    """Convolutions of the narrow torchvision net, at He's scale."""
    rng = np.random.default_rng(0)
    tensors = {}
    for number, (size, fan) in enumerate(zip((11, 5, 3, 3, 3), (3, *[WIDTH] * 4), strict=True), 1):
        kernel = rng.normal(0, (2 / (size * size * fan)) ** 0.5, (size, size, fan, WIDTH))
        tensors[f"conv{number}/kernel"] = kernel.astype("f4")
        tensors[f"conv{number}/bias"] = np.zeros(WIDTH, "f4")
    np.savez(path, **tensors)
    return path


def small_folds(count=60):
    """Two folds of photographs of two colours."""
    return split(colored(count, 0)).folds(2)


def hypermodel(folds, folder, **options):
    given = {
        "weights": folder / "trunk.npz",
        "variant": "torchvision",
        "defaults": SHORT,
        "cache": FeatureCache(folder / "cache"),
    }
    if not (folder / "trunk.npz").exists():
        write_trunk(folder / "trunk.npz")
    return FineTuneHyperModel(folds[0], **{**given, **options})


def tuner(model, folder, *, search="random", seconds=600.0, trials=3, on_end=None, **options):
    """A search in `folder`, which goes on if it was begun there."""
    folder.mkdir(parents=True, exist_ok=True)
    budget = Budget(folder / "budget.json", seconds)
    oracle = make_oracle(
        search, budget=budget, seed=1, epochs=model.defaults.head_epochs, most_trials=trials
    )
    ended = []
    made = FineTuneTuner(
        model, oracle, folder / "trials", budget, on_end=on_end or ended.append, **options
    )
    return made, oracle, ended
