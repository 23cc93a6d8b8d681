"""A search so small that it is run within a test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from alexnet_keras import UserError, tuning
from alexnet_keras.alexnet import VARIANTS
from alexnet_keras.data import split
from alexnet_keras.transfer import Choices, FeatureCache, classifier
from alexnet_keras.tuning import Budget, FineTuneHyperModel, FineTuneTuner, make_oracle
from alexnet_keras.weights.stored import StoredWeights
from two_colours import colored

SIDE, WIDTH = 64, 8
#: one value of each but the rates and the like
SHORT = Choices(image_size=SIDE, head_epochs=2, epochs=1, batch_size=8, views=1)


def narrow_row(name):
    """A row of the table with a few channels; to take the place of `classifier.variant_row`."""
    return replace(VARIANTS[name], filters=(WIDTH,) * 5, hidden_units=(8, 8))


def read_narrow(path, variant=None):
    """Tensors whose shapes are no variant's; to take the place of `open_weights`."""
    if path is None:
        raise UserError("There are no weights.")
    with np.load(path) as tensors:
        return StoredWeights(Path(path), "npz", dict(tensors), ("torchvision",), None)


def make_narrow(put=setattr):
    """Lets classifiers and searches build narrow nets; `put` may be that of a monkeypatch."""
    put(classifier, "variant_row", narrow_row)
    put(classifier, "open_weights", read_narrow)
    put(classifier, "choose_variant", lambda variant, stored: "torchvision")
    put(tuning.hypermodel, "open_weights", read_narrow)


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
    return split(colored(count, 0), stopping=colored(8, 1)).folds(2)


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
