from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from alexnet_keras.training.rate_search import choose, search_rate, smooth


def quadratic(curvatures, targets=0.0):
    """A layer for each curvature, whose loss is a parabola: plain SGD fails at rates above 2/c."""
    inputs = keras.Input((1,))
    outputs = [
        keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", name=f"d{number}")(inputs)
        for number in range(len(curvatures))
    ]
    scaled = [
        keras.layers.Rescaling((curvature / 2) ** 0.5)(output)
        for output, curvature in zip(outputs, curvatures, strict=True)
    ]
    model = keras.Model(inputs, keras.layers.Concatenate()(scaled))
    batch = (tf.ones((1, 1)), tf.zeros((1, len(curvatures))))
    return model, tf.data.Dataset.from_tensors(batch).repeat()


class SumOfSquares(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return keras.ops.sum(keras.ops.square(y_true - y_pred), axis=-1)


def search(model, batches, rates, steps=60):
    return search_rate(
        model,
        batches,
        phase="head",
        optimizer="sgd",
        rates=rates,
        loss=SumOfSquares(),
        steps=steps,
    )


@pytest.mark.parametrize("curvature", [5.0, 50.0])
def test_it_finds_where_gradient_descent_fails_and_stays_below(curvature):
    model, batches = quadratic([curvature])
    found = search(model, batches, {"d0": 0.3})
    # Momentum .9 moves the end of stability from 2/c up to 2 (1 + .9) / c at most.
    assert 0.005 / curvature < found.chosen < 2 / curvature
    assert len(found.rates) == len(found.losses) == len(found.smoothed)
    assert found.losses[0] == pytest.approx(curvature / 2)


def test_the_weights_are_left_as_they_were():
    model, batches = quadratic([5.0])
    search(model, batches, {"d0": 1.0})
    assert model.get_weights()[0] == 1.0


def test_layers_keep_the_ratios_of_their_rates():
    # The steep layer alone would fail a hundred times sooner; at a hundredth of the rate it does
    # not.
    alike, batches = quadratic([1.0, 100.0])
    slowed, _ = quadratic([1.0, 100.0])
    together = search(alike, batches, {"d0": 1.0, "d1": 1.0})
    apart = search(slowed, batches, {"d0": 1.0, "d1": 0.01})
    assert apart.chosen > 10 * together.chosen


def test_the_search_ends_when_the_loss_rises():
    model, batches = quadratic([1000.0])
    found = search(model, batches, {"d0": 1.0})
    assert len(found.losses) < 60 and np.isfinite(found.losses).all()


def test_the_average_of_a_constant_is_the_constant():
    np.testing.assert_allclose(smooth(np.full(7, 3.0)), 3.0)


def test_a_tenth_of_the_rate_with_the_least_loss_is_chosen():
    rates = np.geomspace(1e-4, 1e-1, 4)
    assert choose(rates, np.array([3.0, 2.0, 1.0, 4.0])) == pytest.approx(1e-3)
    assert choose(rates, np.array([3.0, 2.0, np.nan, np.nan])) == pytest.approx(1e-4)
