from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from alexnet_keras.data import AUGMENTATIONS, Splits
from alexnet_keras.evaluation import evaluate
from alexnet_keras.training import EpochLog
from alexnet_keras.transfer import Settings, from_scratch, train_from_scratch
from two_colours import colored, small_classifier


@pytest.fixture
def splits():
    return Splits(colored(32, 0), colored(8, 1), colored(16, 2))


def run(splits, folder, monkeypatch, seconds, seconds_of_an_epoch, mirror=True, **settings):
    monkeypatch.setattr(from_scratch, "_seconds_of_an_epoch", lambda *given: seconds_of_an_epoch)
    monkeypatch.setattr(from_scratch, "PLATEAU_EPOCHS", 5)
    augmentation = AUGMENTATIONS["random_resized_crop"]()
    said = []
    model = small_classifier()
    found = train_from_scratch(
        model,
        splits,
        Settings(replace(augmentation, mirror=mirror), batch_size=8, **settings),
        seconds=seconds,
        learning_rate=0.003,
        log=EpochLog(folder / "scratch.csv", folder / "tensorboard"),
        say=said.append,
        verbose=0,
    )
    return model, found, said


def test_it_takes_as_many_epochs_as_the_time_holds_and_goes_on(splits, tmp_path, monkeypatch):
    model, found, said = run(splits, tmp_path, monkeypatch, 35.0, 10.0)
    phases = [row["phase"] for row in found.history]
    assert phases[:4] == [from_scratch.SAME_TIME] * 4
    assert 1 <= phases.count(from_scratch.PLATEAU) <= 5
    assert found.plateau.top(1) >= 0.9
    # From both sides, as the views it was trained on.
    expected = evaluate(model, splits.validation, mirrored=True).probabilities
    np.testing.assert_allclose(found.plateau.probabilities, expected, atol=1e-6)
    assert "4 epochs of about 10 s for the same 35 s" in said[0]


def test_one_epoch_is_the_least(splits, tmp_path, monkeypatch):
    _, found, _ = run(splits, tmp_path, monkeypatch, 1.0, 10.0)
    assert [row["phase"] for row in found.history].count(from_scratch.SAME_TIME) == 1


def test_without_mirrors_it_is_measured_without(splits, tmp_path, monkeypatch):
    options = {"mirror": False, "precision": "bfloat16"}
    model, found, _ = run(splits, tmp_path, monkeypatch, 1.0, 10.0, **options)
    once = evaluate(model, splits.validation).probabilities
    np.testing.assert_allclose(found.plateau.probabilities, once, atol=1e-6)
    twice = evaluate(model, splits.validation, mirrored=True).probabilities
    assert np.abs(twice - once).max() > 1e-4
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}


def test_the_time_of_an_epoch_is_measured_and_changes_no_weights(splits):
    model = small_classifier()
    before = model.get_weights()
    settings = Settings(AUGMENTATIONS["random_resized_crop"](), batch_size=8)
    rates = {layer.name: 0.1 for layer in model.layers if layer.weights}
    seconds = from_scratch._seconds_of_an_epoch(model, splits, settings, rates)
    assert 0 < seconds < 60
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
