from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from alexnet_keras.layers import ClassicDropout


def activations(*shape, scale=4.0):
    """None of them zero."""
    return np.random.default_rng(0).uniform(0.1, scale, shape).astype("float32")


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_in_training_some_become_zero_and_the_others_stay_as_they_are(rate):
    x = activations(200, 100)
    given = np.asarray(ClassicDropout(rate, seed=1)(x, training=True))
    kept = given != 0
    np.testing.assert_allclose(given[kept], x[kept], rtol=3e-7)
    # Of 20,000 draws the share has a standard deviation of at most .0036.
    assert kept.mean() == pytest.approx(1 - rate, abs=0.02)


def test_at_a_rate_of_a_half_those_that_stay_are_exactly_what_came():
    for dtype in ("float32", "float16", "bfloat16"):
        x = tf.cast(activations(64, 32), dtype)
        given = ClassicDropout(0.5, seed=1, dtype=dtype)(x, training=True)
        kept = tf.cast(given != 0, dtype)
        np.testing.assert_array_equal(tf.cast(given, "float32"), tf.cast(x * kept, "float32"))


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_otherwise_all_are_multiplied_by_the_share_that_training_keeps(rate):
    x = activations(5, 7)
    for given in (ClassicDropout(rate)(x), ClassicDropout(rate)(x, training=False)):
        np.testing.assert_allclose(given, x.astype("float64") * (1 - rate), rtol=1e-6)


def test_rates_of_none_and_all_keep_and_drop_everything():
    x = activations(5, 7)
    np.testing.assert_array_equal(ClassicDropout(0.0)(x, training=True), x)
    np.testing.assert_array_equal(ClassicDropout(1.0)(x, training=True), np.zeros_like(x))


def test_what_training_gives_on_average_is_what_use_gives():
    x, layer = activations(8), ClassicDropout(0.3, seed=2)
    mean = np.mean(layer(np.tile(x, (20_000, 1)), training=True), axis=0)
    np.testing.assert_allclose(mean, layer(x), rtol=0.03)


def test_every_call_draws_anew_and_a_seed_repeats_the_sequence():
    x = activations(20, 20)
    one, two = ClassicDropout(0.5, seed=3), ClassicDropout(0.5, seed=3)
    first, second = one(x, training=True), one(x, training=True)
    assert np.any(np.asarray(first) != np.asarray(second))
    np.testing.assert_array_equal(two(x, training=True), first)
    np.testing.assert_array_equal(two(x, training=True), second)


@pytest.mark.parametrize("training", [False, True])
def test_it_is_the_kept_share_times_keras_dropout(training):
    x = activations(30, 20)
    other = keras.layers.Dropout(0.25, seed=4)(x, training=training)
    given = ClassicDropout(0.25, seed=4)(x, training=training)
    np.testing.assert_allclose(given, 0.75 * np.asarray(other), rtol=1e-6)


def test_a_noise_shape_drops_whole_maps():
    x = activations(4, 5, 5, 32)
    layer = ClassicDropout(0.5, noise_shape=(None, 1, 1, None), seed=1)
    kept = np.asarray(layer(x, training=True)) != 0
    assert (kept.all(axis=(1, 2)) | ~kept.any(axis=(1, 2))).all()
    assert 0.2 < kept.mean() < 0.8


@pytest.mark.parametrize("run", ["eager", "graph", "jit"])
def test_the_gradient_is_one_where_kept_zero_where_dropped_and_the_share_in_use(run):
    x, layer = tf.constant(activations(30, 20)), ClassicDropout(0.5, seed=1)

    def gradient(x, training):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training)
        return y, tape.gradient(y, x)

    if run != "eager":
        gradient = tf.function(gradient, jit_compile=run == "jit")
    given, slope = gradient(x, True)
    np.testing.assert_array_equal(slope, np.asarray(given) != 0)
    np.testing.assert_array_equal(gradient(x, False)[1], np.full((30, 20), 0.5))


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    ("policy", "dtype"),
    [
        ("float32", "float32"),
        ("mixed_float16", "float16"),
        ("mixed_bfloat16", "bfloat16"),
        ("float64", "float64"),
    ],
)
def test_under_every_policy_large_activations_stay_finite(policy, dtype, jit):
    # 60,000 / (1 - 0.5) is beyond float16.
    x = tf.fill((50, 40), 60_000.0)
    layer = ClassicDropout(0.5, seed=1, dtype=policy)
    rounded = float(tf.cast(tf.constant(60_000.0), dtype))
    call = tf.function(layer, jit_compile=jit)
    for training, expected in ((True, {0.0, rounded}), (False, {rounded / 2})):
        given = call(x, training=training)
        assert given.dtype.name == dtype
        assert set(np.unique(tf.cast(given, "float64"))) == expected


def test_integers_are_taken_as_numbers():
    np.testing.assert_array_equal(ClassicDropout(0.5)(np.array([[1, 3]])), [[0.5, 1.5]])


def test_an_empty_batch_stays_empty():
    for training in (False, True):
        assert ClassicDropout(0.5)(np.zeros((0, 4), "float32"), training=training).shape == (0, 4)


def test_in_tf_data_it_gives_the_eager_values():
    x = activations(6, 40)
    data = tf.data.Dataset.from_tensor_slices(x)
    eager, in_data = ClassicDropout(0.5, seed=5), ClassicDropout(0.5, seed=5)
    np.testing.assert_array_equal(list(data.map(in_data)), 0.5 * x)
    mapped = data.map(lambda row: in_data(row, training=True))
    np.testing.assert_array_equal(list(mapped), [eager(row, training=True) for row in x])


def test_a_saved_net_halves_as_before_and_draws_from_its_seed(save_and_load):
    net = keras.Sequential([keras.Input((None, 6)), ClassicDropout(0.5, seed=6)])
    x = activations(2, 7, 6)
    loaded = save_and_load(net)
    assert isinstance(loaded.layers[0], ClassicDropout)
    np.testing.assert_array_equal(loaded(x), 0.5 * x)
    np.testing.assert_array_equal(loaded(x, training=True), net(x, training=True))


def test_its_configuration_makes_the_same_layer():
    layer = ClassicDropout(0.3, noise_shape=(None, 1), seed=7, name="drop6", dtype="mixed_float16")
    again = ClassicDropout.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert (again.rate, again.noise_shape, again.seed) == (0.3, (None, 1), 7)


def test_shapes_are_kept():
    assert ClassicDropout(0.5)(keras.Input((None, 4096))).shape == (None, None, 4096)
    assert ClassicDropout(0.5).compute_output_shape((2, None, 3)) == (2, None, 3)


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_impossible_rates_are_refused(rate):
    with pytest.raises(ValueError, match=f"rate.*{rate}"):
        ClassicDropout(rate)


@pytest.mark.parametrize("jit", [False, True])
def test_a_net_trains_through_it(jit):
    net = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(8), ClassicDropout(0.5), keras.layers.Dense(1)]
    )
    net.compile("sgd", "mse", jit_compile=jit)
    before = net.layers[0].kernel.numpy()
    history = net.fit(activations(8, 6), np.ones((8, 1)), batch_size=4, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert np.abs(net.layers[0].kernel.numpy() - before).max() > 0


def test_a_net_holding_it_trains_and_predicts_on_two_replicas(two_replicas):
    x = activations(8, 6)
    with two_replicas.scope():
        net = keras.Sequential(
            [keras.Input((6,)), ClassicDropout(0.5, seed=8), keras.layers.Dense(1)]
        )
        net.compile("sgd", "mse", jit_compile=False)
    before = net.layers[-1].kernel.numpy()
    history = net.fit(x, np.ones((8, 1)), batch_size=4, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    kernel, bias = (variable.numpy() for variable in net.layers[-1].weights)
    assert np.abs(kernel - before).max() > 0
    np.testing.assert_allclose(net.predict(x, verbose=0), 0.5 * x @ kernel + bias, rtol=1e-5)
