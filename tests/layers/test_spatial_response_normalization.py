from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from alexnet_keras.layers import SpatialResponseNormalization

# Strong enough for the normalization to change most values by a factor, not by rounding.
STRONG = {"size": 3, "scale": 4.0, "power": 0.75, "bias": 1.5}


def reference(a, size=5, scale=1e-3, power=0.75, bias=1.0):
    """One position after another in float64, with the window of the 2012 kernels."""
    a = np.asarray(a, dtype=np.float64)
    b = np.empty_like(a)
    for y, x in np.ndindex(a.shape[1:3]):
        top, left = y - size // 2, x - size // 2
        window = a[:, max(top, 0) : top + size, max(left, 0) : left + size]
        energy = (window**2).sum(axis=(1, 2))
        b[:, y, x] = a[:, y, x] / (bias + scale / size**2 * energy) ** power
    return b


def activations(*shape, scale=4.0):
    return np.random.default_rng(0).normal(0, scale, shape).astype("float32")


@pytest.mark.parametrize("shape", [(2, 7, 9, 3), (1, 1, 4, 1)])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        STRONG,
        {"size": 1, "scale": 0.5},
        {"size": 2, "scale": 2.0, "power": 1.0},
        {"size": 4, "scale": 3.0, "bias": 0.1},
        {"size": 11, "scale": 5.0, "power": 0.5},
        {"scale": 0.0, "bias": 3.0},
        {"power": 0.0, "scale": 1.0},
    ],
)
def test_values_are_the_formula_in_float64(shape, arguments):
    # The published scale tells only on large activations.
    x = activations(*shape, scale=4.0 if arguments else 100.0)
    given = SpatialResponseNormalization(**arguments)(x)
    np.testing.assert_allclose(given, reference(x, **arguments), rtol=2e-6)


def test_the_defaults_are_those_of_cnorm2a_in_the_2012_source():
    layer = SpatialResponseNormalization()
    assert (layer.size, layer.scale, layer.power, layer.bias) == (5, 0.001, 0.75, 1)


def test_of_a_map_of_one_value_the_corner_counts_9_of_25_positions_and_the_middle_all():
    given = np.asarray(SpatialResponseNormalization()(np.full((1, 6, 6, 1), 50.0, "float32")))
    assert given[0, 0, 0, 0] == pytest.approx(50 / (1 + 0.001 * 9 / 25 * 2500) ** 0.75)
    assert given[0, 2, 0, 0] == pytest.approx(50 / (1 + 0.001 * 15 / 25 * 2500) ** 0.75)
    assert given[0, 2, 3, 0] == pytest.approx(50 / (1 + 0.001 * 2500) ** 0.75)


def test_an_even_window_reaches_one_further_up_and_left():
    x = np.zeros((1, 9, 9, 1), "float32")
    x[0, 4, 4, 0] = 100.0
    marked = x + np.ones_like(x)
    lowered = np.asarray(SpatialResponseNormalization(size=4, scale=1.0)(marked))[0, :, :, 0] < 0.1
    # Seen by the windows that start two before a position and end one after it.
    expected = np.zeros((9, 9), bool)
    expected[3:7, 3:7] = True
    expected[4, 4] = False
    np.testing.assert_array_equal(lowered, expected)


def test_maps_do_not_affect_each_other():
    x = activations(2, 6, 6, 4)
    layer = SpatialResponseNormalization(**STRONG)
    separately = [layer(x[..., c : c + 1]) for c in range(4)]
    np.testing.assert_allclose(layer(x), np.concatenate(separately, axis=-1), rtol=1e-6)


@pytest.mark.reference
@pytest.mark.parametrize("size", [1, 3, 5])
def test_pytorchs_average_pooling_that_counts_its_padding_gives_the_same(size):
    torch = pytest.importorskip("torch")
    x = activations(2, 8, 7, 3)
    maps = torch.tensor(x.transpose(0, 3, 1, 2))
    energy = torch.nn.functional.avg_pool2d(maps**2, size, 1, size // 2, count_include_pad=True)
    expected = (maps / (1 + 0.3 * energy) ** 0.75).numpy().transpose(0, 2, 3, 1)
    given = SpatialResponseNormalization(size, scale=0.3)(x)
    np.testing.assert_allclose(given, expected, rtol=2e-6)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    ("policy", "dtype", "rounding"),
    [
        ("float32", "float32", 2e-6),
        ("mixed_float16", "float16", 2**-11),
        ("mixed_bfloat16", "bfloat16", 2**-8),
        ("float16", "float16", 2**-11),
        ("bfloat16", "bfloat16", 2**-8),
        ("float64", "float64", 2e-6),
    ],
)
def test_under_every_policy_only_the_result_is_rounded(policy, dtype, rounding, jit):
    # Squares up to a million: float16 ends at 65504.
    x = activations(2, 6, 6, 4, scale=300.0)
    layer = SpatialResponseNormalization(dtype=policy)
    given = tf.function(layer, jit_compile=jit)(tf.constant(x))
    assert given.dtype.name == dtype
    np.testing.assert_allclose(tf.cast(given, "float64"), reference(x), rtol=1.01 * rounding)


@pytest.mark.parametrize("run", ["eager", "graph", "jit"])
@pytest.mark.parametrize("size", [3, 4])
def test_the_gradient_is_the_formulas_slope(run, size):
    x, weights = activations(1, 4, 5, 2), activations(1, 4, 5, 2)
    arguments = STRONG | {"size": size}
    layer = SpatialResponseNormalization(**arguments)

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(layer(x) * weights)
        return tape.gradient(total, x)

    if run != "eager":
        gradient = tf.function(gradient, jit_compile=run == "jit")
    expected = np.empty(x.shape)
    for index in np.ndindex(x.shape):
        step = np.zeros(x.shape)
        step[index] = 1e-5
        rise = reference(x + step, **arguments) - reference(x - step, **arguments)
        expected[index] = (rise * weights).sum() / 2e-5
    np.testing.assert_allclose(gradient(tf.constant(x)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("jit", [False, True])
def test_a_net_trains_through_it_under_every_policy(policy, jit):
    net = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            keras.layers.Conv2D(5, 3, dtype=policy),
            SpatialResponseNormalization(**STRONG, dtype=policy),
            keras.layers.GlobalAveragePooling2D(dtype=policy),
            keras.layers.Dense(1, dtype="float32"),
        ]
    )
    net.compile("sgd", "mse", jit_compile=jit)
    before = net.layers[0].kernel.numpy()
    history = net.fit(activations(8, 6, 6, 3), np.ones((8, 1)), batch_size=4, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert np.abs(net.layers[0].kernel.numpy() - before).max() > 0


def test_an_empty_batch_stays_empty():
    assert SpatialResponseNormalization()(np.zeros((0, 4, 4, 8), "float32")).shape == (0, 4, 4, 8)


def test_integers_are_taken_as_numbers():
    x = np.arange(24).reshape(1, 2, 3, 4)
    np.testing.assert_allclose(
        SpatialResponseNormalization(**STRONG)(x), reference(x, **STRONG), rtol=2e-6
    )


def test_in_tf_data_it_gives_the_eager_values():
    x = activations(6, 3, 3, 4)
    layer = SpatialResponseNormalization(**STRONG)
    mapped = tf.data.Dataset.from_tensor_slices(x).batch(2).map(layer)
    np.testing.assert_allclose(np.concatenate(list(mapped)), layer(x), rtol=1e-6)


def test_shapes_are_kept_and_sides_may_be_unknown(save_and_load):
    inputs = keras.Input((None, None, 4))
    net = keras.Model(inputs, SpatialResponseNormalization(**STRONG)(inputs))
    assert net.output_shape == (None, None, None, 4)
    assert SpatialResponseNormalization().compute_output_shape((2, 5, 6, 7)) == (2, 5, 6, 7)
    for side in (2, 5):
        x = activations(2, side, side + 1, 4)
        np.testing.assert_allclose(net(x), reference(x, **STRONG), rtol=2e-6)
    loaded = save_and_load(net)
    np.testing.assert_array_equal(loaded(x), net(x))


def test_its_configuration_makes_the_same_layer():
    arguments = {"size": 3, "scale": 0.5, "power": 0.25, "bias": 1.25}
    layer = SpatialResponseNormalization(**arguments, name="cnorm2", dtype="mixed_bfloat16")
    again = SpatialResponseNormalization.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert {key: layer.get_config()[key] for key in arguments} == arguments


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"size": 0}, "size"),
        ({"size": 2.5}, "size"),
        ({"scale": -1e-4}, "scale"),
        ({"power": float("nan")}, "power"),
        ({"bias": 0.0}, "bias"),
    ],
)
def test_impossible_constants_are_refused(arguments, named):
    with pytest.raises(ValueError, match=f"{named}.*received.*{next(iter(arguments.values()))}"):
        SpatialResponseNormalization(**arguments)


def test_other_ranks_are_refused():
    with pytest.raises(ValueError, match="expected ndim=4, found ndim=3"):
        SpatialResponseNormalization()(np.zeros((2, 4, 8), "float32"))


def test_channels_first_is_refused():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="channels_first"):
            SpatialResponseNormalization()
    finally:
        keras.config.set_image_data_format("channels_last")


def test_two_replicas_give_and_learn_what_one_device_does(two_replicas):
    x, y = activations(8, 5, 5, 3), activations(8, 1, scale=1.0)

    def trained(scope):
        with scope:
            keras.utils.set_random_seed(1)
            net = keras.Sequential(
                [
                    keras.Input((5, 5, 3)),
                    keras.layers.Conv2D(6, 3),
                    SpatialResponseNormalization(**STRONG),
                    keras.layers.Flatten(),
                    keras.layers.Dense(1),
                ]
            )
            net.compile(keras.optimizers.SGD(0.05), "mse", jit_compile=False)
        net.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
        return net.predict(x, verbose=0)

    one = trained(tf.distribute.get_strategy().scope())
    np.testing.assert_allclose(trained(two_replicas.scope()), one, rtol=1e-4, atol=1e-5)
