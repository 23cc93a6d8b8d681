from __future__ import annotations

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from alexnet_keras.layers import ClassicDropout
from alexnet_keras.training.randomness import KeyedDropout, step_seed

ROWS, UNITS = 8, 500
X = np.random.default_rng(0).normal(1, 0.2, (ROWS, UNITS)).astype(np.float32)


def net(*layers, nested=False):
    """Only the given layers between input and output."""
    inputs = keras.Input((UNITS,))
    x = inputs
    for layer in layers:
        x = layer(x)
    model = keras.Model(inputs, x)
    if nested:
        outer = keras.Input((UNITS,))
        model = keras.Model(outer, model(outer * 1.0))
    return model


def draw(keyed, step=0, rows=range(ROWS), seed=7):
    masks = keyed.draw(step_seed(seed, step), tf.constant(rows, tf.int32), ROWS)
    return [mask.numpy() for mask in masks]


@pytest.fixture(scope="module")
def two_alike():
    return KeyedDropout(net(keras.layers.Dropout(0.4), keras.layers.Dropout(0.4)))


def test_as_many_stay_as_the_rate_says():
    keyed = KeyedDropout(net(keras.layers.Dropout(0.3), ClassicDropout(0.8)))
    for rate, mask in zip((0.3, 0.8), draw(keyed), strict=True):
        assert mask.shape == (ROWS, UNITS) and mask.dtype == bool
        error = 4.5 * (rate * (1 - rate) / mask.size) ** 0.5
        assert mask.mean() == pytest.approx(1 - rate, abs=error)


def test_a_row_has_its_mask_wherever_it_is_computed(two_alike):
    whole = draw(two_alike)
    for rows in (range(4), range(4, 8), [6, 1]):
        for part, mask in zip(draw(two_alike, rows=rows), whole, strict=True):
            np.testing.assert_array_equal(part, mask[list(rows)])


def test_masks_are_keyed_by_seed_step_layer_and_row(two_alike):
    first, second = draw(two_alike)
    masks = [first, second, *draw(two_alike, step=1), *draw(two_alike, seed=8)]
    rows = {row.tobytes() for mask in masks for row in mask}
    assert len(rows) == len(masks) * ROWS
    for one, again in zip(draw(two_alike), (first, second), strict=True):
        np.testing.assert_array_equal(one, again)
    # No more alike than chance has it: of two kept at .6, .36 of all are kept in both.
    assert np.mean(first & second) == pytest.approx(0.36, abs=4.5 * (0.36 * 0.64 / 4000) ** 0.5)


@pytest.mark.parametrize(("kind", "factor"), [(keras.layers.Dropout, 1 / 0.6), (ClassicDropout, 1)])
@pytest.mark.parametrize("nested", [False, True])
def test_layers_take_the_masks_and_scale_as_theirs_do(kind, factor, nested):
    model = net(kind(0.4), nested=nested)
    keyed = KeyedDropout(model)
    masks = draw(keyed)
    with keyed.using(masks):
        given = model(X, training=True).numpy()
        used = model(X, training=False).numpy()
    np.testing.assert_allclose(given, np.where(masks[0], X * np.float64(factor), 0), rtol=1e-6)
    # What is used at inference is what training expects.
    assert given.mean() == pytest.approx(used.mean(), rel=0.06)
    np.testing.assert_allclose(used, X * (1 if kind is keras.layers.Dropout else 0.6), rtol=1e-6)


def test_several_layers_take_a_mask_each():
    model = net(keras.layers.Dropout(0.5), ClassicDropout(0.25), keras.layers.Dropout(0.0))
    keyed = KeyedDropout(model)
    first, second = draw(keyed)  # at a rate of 0 there is nothing to draw
    with keyed.using([first, second]):
        given = model(X, training=True).numpy()
    np.testing.assert_allclose(given, np.where(first & second, 2.0 * X, 0), rtol=1e-6)


@pytest.mark.parametrize("kind", [keras.layers.Dropout, ClassicDropout])
def test_outside_of_using_layers_are_kerass(kind):
    def model():
        return net(kind(0.4, seed=3))

    keyed, untouched = model(), model()
    wrapped = KeyedDropout(keyed)
    for _ in range(2):
        np.testing.assert_array_equal(keyed(X, training=True), untouched(X, training=True))
    np.testing.assert_array_equal(keyed(X), untouched(X))
    with pytest.raises(ZeroDivisionError), wrapped.using(draw(wrapped)):
        raise ZeroDivisionError
    np.testing.assert_array_equal(keyed(X, training=True), untouched(X, training=True))


def test_each_thread_has_its_own_masks():
    model = net(ClassicDropout(0.5))
    keyed = KeyedDropout(model)
    both_inside = threading.Barrier(2)
    results = {}

    def run(step):
        with keyed.using(draw(keyed, step)):
            both_inside.wait(timeout=60)
            results[step] = model(X, training=True).numpy()
            both_inside.wait(timeout=60)

    threads = [threading.Thread(target=run, args=(step,)) for step in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for step in (0, 1):
        np.testing.assert_array_equal(results[step], np.where(draw(keyed, step)[0], X, 0))


def test_gradients_go_through_what_is_kept():
    model = net(keras.layers.Dropout(0.4))
    keyed = KeyedDropout(model)
    x, masks = tf.constant(X), draw(keyed)
    with keyed.using(masks), tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(model(x, training=True))
    expected = np.where(masks[0], 1 / 0.6, 0)
    np.testing.assert_allclose(tape.gradient(total, x), expected, rtol=1e-6)


def test_masks_drawn_outside_go_into_what_xla_compiles():
    model = net(keras.layers.Dropout(0.4), ClassicDropout(0.4))
    keyed = KeyedDropout(model)

    def forward(x, masks):
        with keyed.using(masks):
            return model(x, training=True)

    masks = draw(keyed)
    compiled = tf.function(forward, jit_compile=True, autograph=False)(tf.constant(X), masks)
    np.testing.assert_allclose(compiled, forward(X, masks), rtol=1e-6)


def test_half_precision_stays_half_precision():
    model = net(keras.layers.Dropout(0.5, dtype="float16"), ClassicDropout(0.5, dtype="float16"))
    keyed = KeyedDropout(model)
    with keyed.using(draw(keyed)):
        assert model(X.astype(np.float16), training=True).dtype == tf.float16


def test_nothing_of_it_is_saved(tmp_path):
    model = net(keras.layers.Dense(3), keras.layers.Dropout(0.4, seed=1), ClassicDropout(0.1))
    before = model.get_config()
    KeyedDropout(model)
    assert model.get_config() == before
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(X), model(X))
    assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in model.layers]
    # The loaded layers can be keyed in their turn.
    assert len(draw(KeyedDropout(loaded))) == 2


def test_a_noise_shape_is_refused():
    model = net(keras.layers.Dropout(0.4, noise_shape=(None, 1), name="spatial"))
    with pytest.raises(ValueError, match="'spatial' has a noise_shape"):
        KeyedDropout(model)
