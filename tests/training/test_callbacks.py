from __future__ import annotations

import csv
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from alexnet_keras.errors import UserError
from alexnet_keras.training import EpochLog, KeepBest, StopOnNonFinite


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="softmax")])
    model.compile(keras.optimizers.SGD(0.25), "categorical_crossentropy", metrics=["accuracy"])
    return model


DATA = (np.eye(3, dtype=np.float32), np.eye(2, dtype=np.float32)[[0, 1, 0]])


def test_every_epoch_of_every_phase_is_a_row_on_disk_and_in_tensorboard(model, tmp_path):
    log = EpochLog(tmp_path / "history.csv", tmp_path / "tensorboard")
    for phase, epochs in (("head", 2), ("all", 1)):
        log.begin_phase(phase)
        model.fit(*DATA, epochs=epochs, validation_data=DATA, callbacks=[log], verbose=0)
    with (tmp_path / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["phase"], row["epoch"]) for row in rows] == [
        ("head", "1"),
        ("head", "2"),
        ("all", "3"),
    ]
    loss, accuracy = model.evaluate(*DATA, verbose=0)
    assert float(rows[-1]["stop_loss"]) == pytest.approx(loss, abs=1e-6)
    assert float(rows[-1]["stop_accuracy"]) == pytest.approx(accuracy)
    assert {row["learning_rate"] for row in rows} == {"0.25"}
    (events,) = (tmp_path / "tensorboard").iterdir()
    written = [
        (value.tag, event.step)
        for event in tf.compat.v1.train.summary_iterator(str(events))
        for value in event.summary.value
    ]
    assert ("stop_loss", 3) in written


def feed(keeper, model, losses):
    """Plays epochs with the given early-stopping losses; each leaves its number as the weights."""
    keeper.set_model(model)
    keeper.set_params({"epochs": 8})
    model.stop_training = False
    keeper.on_train_begin()
    for number, loss in losses:
        model.set_weights([np.full(w.shape, number, np.float32) for w in model.get_weights()])
        keeper.on_epoch_end(0, {"val_loss": loss})
        if model.stop_training:
            return number
    return None


def test_the_best_weights_of_all_phases_come_back(model):
    keeper = KeepBest(model, patience=0.25)
    assert feed(keeper, model, [(1, 3.0), (2, 1.0), (3, 2.0)]) is None
    assert feed(keeper, model, [(4, 1.5), (5, 1.2), (6, 1.3), (7, 1.4), (8, 0.1)]) == 7
    keeper.restore()
    assert (keeper.best, keeper.best_epoch) == (1.0, 2)
    assert all((w == 2).all() for w in model.get_weights())


def test_with_a_patience_of_one_no_phase_ends_early(model):
    keeper = KeepBest(model, patience=1)
    worse = [(number, 1.0 + number) for number in range(2, 9)]
    assert feed(keeper, model, [(1, 1.0), *worse]) is None
    assert feed(keeper, model, [(9, math.nan), *worse[:-1]]) is None  # as after another phase
    assert (keeper.best, keeper.best_epoch) == (1.0, 1)


def test_a_loss_that_is_no_number_is_never_the_best(model):
    keeper = KeepBest(model, patience=0.25)
    feed(keeper, model, [(1, 1.0), (2, math.nan)])
    keeper.restore()
    assert all((w == 1).all() for w in model.get_weights())


def test_a_loss_that_is_no_number_stops_the_run_with_what_to_do(model):
    model.layers[-1].bias.assign([np.nan, 0])
    with pytest.raises(UserError, match="loss became nan at step 1 .*--learning-rate"):
        model.fit(*DATA, callbacks=[StopOnNonFinite()], verbose=0)
