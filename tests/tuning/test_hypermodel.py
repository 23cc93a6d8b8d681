from __future__ import annotations

import sqlite3
import time
from dataclasses import replace

import keras
import keras_tuner
import numpy as np
import pytest
from scipy import special
from sklearn.linear_model import LogisticRegression

from alexnet_keras import UserError
from alexnet_keras.evaluation import Evaluation, evaluate
from alexnet_keras.transfer import FeatureCache
from alexnet_keras.tuning import OBJECTIVE, OutOfTime, Scores, callbacks
from alexnet_keras.tuning import hypermodel as module
from alexnet_keras.tuning.hypermodel import calibrated_loss
from small_search import SHORT, hypermodel


def values(model, **given):
    hp = keras_tuner.HyperParameters()
    model.choices(hp)
    hp.values.update(given)
    hp.ensure_active_values()
    return hp


def scores(model, hp):
    """What it comes to, whatever time that takes."""
    found = model.fit(hp, model.build(hp))
    assert found.pop("storing_seconds") > 0
    return found


def test_it_is_what_any_tuner_of_keras_tuner_takes(model, tmp_path):
    tuner = keras_tuner.RandomSearch(
        model, OBJECTIVE, max_trials=2, seed=1, directory=tmp_path, project_name="stock"
    )
    tuner.search(verbose=0)
    best = tuner.get_best_hyperparameters()[0]
    trials = tuner.oracle.get_best_trials(2)
    assert [trial.status for trial in trials] == ["COMPLETED"] * 2
    assert 0.4 <= trials[0].score <= 1
    assert model.build(best).output_shape == (None, 2)
    # The best weights of a trial are kept as keras-tuner keeps them: those of the whole classifier.
    (kept,) = tuner.get_best_models()
    assert kept.input_shape == (None, 64, 64, 3)


@pytest.mark.parametrize("crop", ["centre", "whole"])
def test_it_learns_and_says_what_it_learned(narrow, folds, tmp_path, crop):
    model = hypermodel(folds, tmp_path, defaults=replace(SHORT, head_epochs=12))
    model.fit(values(model), model.build(values(model)))  # stored for the one, no use for the other
    hp = values(model, crop=crop)
    built = model.build(hp)
    found = model.fit(hp, built)
    assert set(found) == {"val_accuracy", "val_loss", "storing_seconds"}
    assert found["val_accuracy"] >= 0.9
    again = evaluate(built, folds[0].validation, mirrored=True)
    assert found["val_accuracy"] == pytest.approx(again.top(1), abs=0.04)
    assert found["val_loss"] == pytest.approx(Scores.of(again).loss, abs=0.02)


def test_convolutions_are_trained_where_the_frozen_net_is_worth_it(model, folds):
    hp = values(model, unfreeze=1)
    before = model.build(hp).get_layer("conv5").get_weights()[0]
    asked = []
    for seconds in (0.0, 600.0):
        built = model.build(hp)
        found = model.fit(hp, built, thaws_for=lambda x, told=seconds: asked.append(x) or told)
        assert found["frozen_accuracy"] == asked[-1]
        assert found["thawed"] == bool(seconds)
        if not seconds:
            np.testing.assert_array_equal(built.get_layer("conv5").get_weights()[0], before)
            assert found["val_accuracy"] == found["frozen_accuracy"]
    built = model.build(values(model, unfreeze=0))
    assert "frozen_accuracy" not in model.fit(values(model, unfreeze=0), built)


def test_convolutions_that_would_take_too_long_are_left_alone(model, monkeypatch):
    monkeypatch.setattr(callbacks, "PACED", 2)
    model.defaults = replace(model.defaults, epochs=40)
    hp, steps = values(model, unfreeze=1), []

    class Steps(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            steps.append(time.sleep(0.05))

    monkeypatch.setattr(module, "OfWhole", lambda callback, model: callback)
    built = model.build(hp)
    before = built.get_layer("conv5").get_weights()[0]
    found = model.fit(hp, built, thaws_for=lambda x: steps.clear() or 4.0, callbacks=[Steps()])
    assert (found["thawed"], "stopped" in found) == (0.0, False)
    assert found["val_accuracy"] == found["frozen_accuracy"]
    np.testing.assert_array_equal(built.get_layer("conv5").get_weights()[0], before)
    assert len(steps) < 60  # of 120, which take 6 s and more
    assert found["too_slow_in"] == 4.0 and found["thawing_seconds"] >= 0.05 * len(steps)


def test_out_of_time_it_is_measured_with_what_it_has(model):
    hp, calls = values(model), []

    def interrupt():
        calls.append(1)
        if len(calls) > limit:
            raise OutOfTime

    limit = 10**6
    model.fit(hp, model.build(hp))  # from now on all views are stored
    whole = model.fit(hp, model.build(hp), interrupt=interrupt)
    assert "stopped" not in whole
    limit, total = len(calls) - 1, len(calls)
    calls.clear()
    found = model.fit(hp, model.build(hp), interrupt=interrupt)
    assert found["stopped"] == 1 and len(calls) == total
    assert 0 <= found["val_accuracy"] <= 1
    limit = 0
    calls.clear()
    with pytest.raises(OutOfTime):
        model.fit(hp, model.build(hp), interrupt=interrupt)


def test_trials_that_differ_in_the_head_look_at_no_photograph_again(model, monkeypatch):
    hp = values(model)
    model.fit(hp, model.build(hp))
    monkeypatch.setattr("alexnet_keras.data.pipeline.decode_window", None)
    for given in ({"head": "pooled"}, {"cut:bilinear": "conv4"}, {"dropout:bilinear": 0.2}):
        other = values(model, **given)
        assert 0 <= model.fit(other, model.build(other))["val_accuracy"] <= 1


def test_without_room_it_trains_all_the_same(narrow, folds, tmp_path):
    full = FeatureCache(tmp_path / "none", most_bytes=0)
    made = hypermodel(folds, tmp_path, cache=full, defaults=replace(SHORT, head_epochs=8))
    hp = keras_tuner.HyperParameters()
    found = made.fit(hp, made.build(hp))
    assert found["val_accuracy"] > 0.8 and "stopped" not in found
    assert not [stored for stored in full.sets() if stored.outputs]


def test_fc6_is_tried_where_the_weights_hold_it(narrow, folds, tmp_path):
    model = hypermodel(folds, tmp_path)
    assert model.heads == ("bilinear", "pooled")
    tensors = dict(np.load(tmp_path / "trunk.npz"))
    tensors |= {"fc6/kernel": np.zeros((8, 8), "f4"), "fc6/bias": np.zeros(8, "f4")}
    np.savez(tmp_path / "whole.npz", **tensors)
    whole = hypermodel(folds, tmp_path, weights=tmp_path / "whole.npz")
    assert whole.heads == ("bilinear", "pooled", "fc")
    hp = values(whole, head="fc")
    assert 0 <= whole.fit(hp, whole.build(hp))["val_accuracy"] <= 1


def test_without_pretrained_weights_there_is_nothing_to_search(narrow, folds, tmp_path):
    with pytest.raises(UserError, match="needs pretrained weights.*--weights starter"):
        hypermodel(folds, tmp_path, weights=None)


def test_what_was_read_once_is_kept_in_memory(narrow, folds, tmp_path):
    cache = FeatureCache(tmp_path / "cache", memory_bytes=2**28)
    model = hypermodel(folds, tmp_path, cache=cache)
    plain = hypermodel(folds, tmp_path, cache=FeatureCache(tmp_path / "other"))
    hp = values(model)
    first = scores(model, hp)
    with sqlite3.connect(next((tmp_path / "cache").glob("*.sqlite"))) as behind_its_back:
        behind_its_back.execute("UPDATE outputs SET value = zeroblob(length(value))")
    assert scores(model, hp) == first == scores(plain, hp)


class TestCalibratedLoss:
    @pytest.fixture
    def answers(self):
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 3, 400)
        logits = rng.normal(0, 1, (400, 3))
        logits[np.arange(400), labels] += 1.5
        return logits, labels

    def test_sharper_or_flatter_probabilities_are_the_same(self, answers):
        logits, labels = answers
        losses = [
            calibrated_loss(Evaluation(special.softmax(logits * scale, axis=1), labels))
            for scale in (0.3, 1.0, 3.0)
        ]
        np.testing.assert_allclose(losses, losses[0], rtol=1e-4)

    def test_it_is_a_logistic_regression_on_one_number(self, answers):
        # Two classes: the best temperature is the only coefficient, without an intercept.
        logits, labels = answers[0][:, :2], answers[1] % 2
        difference = logits[:, 1:] - logits[:, :1]
        fitted = LogisticRegression(C=1e9, fit_intercept=False).fit(difference, labels)
        chosen = fitted.predict_proba(difference)[np.arange(400), labels]
        found = calibrated_loss(Evaluation(special.softmax(logits, axis=1), labels))
        # A temperature cannot be negative.
        assert fitted.coef_[0, 0] > 0
        assert found == pytest.approx(-np.log(chosen).mean(), rel=1e-3)
