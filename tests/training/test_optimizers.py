from __future__ import annotations

import keras
import numpy as np
import pytest

from alexnet_keras.training import layerwise
from alexnet_keras.training.optimizers import SCHEDULES, Linear


def net():
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, name="old"),
            keras.layers.Dense(2, name="new"),
        ]
    )


def reference(weights, x, y, rates, steps, warmup):
    """Nesterov SGD on the same two linear layers, in float64, with the schedule written out."""
    weights = [w.astype(np.float64) for w in weights]
    velocity = [np.zeros_like(w) for w in weights]
    for step in range(steps):
        if step < warmup:
            share = step / warmup
        else:
            share = 0.5 * (1 + np.cos(np.pi * (step - warmup) / (steps - warmup)))
        k1, b1, k2, b2 = weights
        hidden = x @ k1 + b1
        error = 2 * (hidden @ k2 + b2 - y) / y.size
        gradients = [
            x.T @ (error @ k2.T),
            (error @ k2.T).sum(0),
            hidden.T @ error,
            error.sum(0),
        ]
        for i, gradient in enumerate(gradients):
            rate = rates[i // 2] * share
            velocity[i] = 0.9 * velocity[i] - rate * gradient
            weights[i] = weights[i] + 0.9 * velocity[i] - rate * gradient
    return weights


@pytest.mark.parametrize("rates", [(0.02, 0.2), (0.1, 0.1)])
@pytest.mark.parametrize("warmup", [0, 5])
def test_layers_follow_their_own_rates_as_in_a_float64_run(rates, warmup):
    model = net()
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 4)), rng.normal(size=(8, 2))
    expected = reference(model.get_weights(), x, y, rates, 20, warmup)
    optimizer = layerwise(
        "sgd", model, {"old": rates[0], "new": rates[1]}, steps=20, warmup_steps=warmup
    )
    model.compile(optimizer, "mse")
    model.fit(x, y, batch_size=8, epochs=20, verbose=0)
    for given, wanted in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(given, wanted, atol=1e-5)


def test_a_frozen_layer_needs_no_rate_and_does_not_move():
    model = net()
    model.get_layer("old").trainable = False
    before = model.get_layer("old").get_weights()
    model.compile(layerwise("sgd", model, {"new": 0.1}, steps=5), "mse")
    model.fit(np.ones((4, 4)), np.ones((4, 2)), epochs=2, verbose=0)
    for given, wanted in zip(model.get_layer("old").get_weights(), before, strict=True):
        np.testing.assert_array_equal(given, wanted)


def test_a_trained_layer_without_a_rate_is_an_error():
    with pytest.raises(ValueError, match=r"\['old'\]"):
        layerwise("adamw", net(), {"new": 0.1}, steps=5)


@pytest.mark.parametrize("warmup", [0, 4])
def test_a_schedule_rises_and_goes_on_as_it_is_called(warmup):
    steps = np.arange(0, 26)
    rates = {
        name: np.array([float(make(0.2, 20, warmup)(step)) for step in steps])
        for name, make in SCHEDULES.items()
    }
    rising = np.minimum(steps / warmup, 1) if warmup else np.ones(len(steps))
    np.testing.assert_allclose(rates["constant"], 0.2 * rising, rtol=1e-6)
    falling = np.clip((20 - steps) / (20 - warmup), 0, 1)
    np.testing.assert_allclose(rates["linear"], 0.2 * np.minimum(rising, falling), atol=1e-7)
    for found in rates.values():
        assert found.argmax() == warmup and found.max() == pytest.approx(0.2)
    assert rates["cosine"][20] == pytest.approx(0, abs=1e-8)


def test_a_schedule_survives_its_configuration():
    made = Linear(0.1, 30, 3, falling=False)
    again = Linear.from_config(made.get_config())
    assert [float(again(step)) for step in (0, 2, 29)] == [float(made(s)) for s in (0, 2, 29)]


def test_decay_is_that_of_adamw():
    model = net()
    optimizer = layerwise("adamw", model, {"old": 0.1, "new": 0.1}, weight_decay=0.3)
    assert optimizer.weight_decay == 0.3
    assert layerwise("adamw", model, {"old": 0.1, "new": 0.1}).weight_decay == 0.05
    assert layerwise("sgd", model, {"old": 0.1, "new": 0.1}, weight_decay=0.3).weight_decay is None
