"""Real weights on real photographs: small, and far from chance."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from alexnet_keras.data import AUGMENTATIONS, Splits, read_folder
from alexnet_keras.evaluation import evaluate
from alexnet_keras.training import EpochLog
from alexnet_keras.transfer import (
    FeatureCache,
    Settings,
    build_classifier,
    fine_tune,
    plan_phases,
)


def accuracy_of_a_head(flower_photos, folder, **options):
    """Top-1 of a new head on frozen convolutions: 300 photographs to learn from, 250 to measure."""
    examples = read_folder(flower_photos)
    shuffled = examples.select(np.random.default_rng(0).permutation(len(examples)))
    splits = Splits(
        shuffled.select(range(300)),
        shuffled.select(range(300, 350)),
        shuffled.select(range(350, 600)),
    )
    keras.utils.set_random_seed(0)
    built = build_classifier(5, **options)
    phases = plan_phases(
        built.model,
        built.loaded.loaded,
        head=built.head,
        unfreeze_from=(),
        head_epochs=20,
        epochs=0,
        learning_rate=0.01,
    )
    fine_tune(
        built.model,
        splits,
        phases,
        Settings(AUGMENTATIONS["inception"](), views=1),
        log=EpochLog(folder / "history.csv", folder / "tensorboard"),
        cache=FeatureCache(folder / "cache"),
        verbose=0,
    )
    return evaluate(built.model, splits.validation).top(1)


@pytest.mark.real_data
def test_pretrained_convolutions_tell_flowers_apart(torchvision_trunk, flower_photos, tmp_path):
    options = {"weights": torchvision_trunk, "image_size": 160}
    # Chance is 25% at most. Three standard deviations of 250 photographs at 75% are 8 points.
    assert accuracy_of_a_head(flower_photos, tmp_path, **options) > 0.65


@pytest.mark.real_data
def test_the_starter_weights_tell_flowers_apart(flower_photos, tmp_path):
    assert accuracy_of_a_head(flower_photos, tmp_path, weights="starter") > 0.65
