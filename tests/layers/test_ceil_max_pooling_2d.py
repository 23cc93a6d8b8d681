from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from alexnet_keras.layers import CeilMaxPooling2D


def reference(x, pool=(3, 3), stride=(2, 2)):
    """Caffe's loops (`pooling_layer.cpp`): ceil of the size, windows cut off at the edges."""
    rows, columns = (int(np.ceil((x.shape[1 + i] - pool[i]) / stride[i])) + 1 for i in range(2))
    y = np.empty((len(x), rows, columns, x.shape[-1]), np.float64)
    for i, j in np.ndindex(rows, columns):
        top, left = i * stride[0], j * stride[1]
        y[:, i, j] = x[:, top : top + pool[0], left : left + pool[1]].max(axis=(1, 2))
    return y


def activations(*shape, seed=0):
    """Below zero, so that a padding of zeros would show."""
    return np.random.default_rng(seed).uniform(-9, -1, shape).astype("float32")


@pytest.mark.parametrize("sides", [(7, 7), (8, 7), (7, 8), (8, 8), (2, 5), (3, 2)])
def test_values_are_the_greatest_of_windows_cut_off_at_the_edges(sides):
    x = activations(2, *sides, 3)
    given = CeilMaxPooling2D()(x)
    expected = reference(x)
    assert given.shape == expected.shape
    np.testing.assert_array_equal(given, expected)


@pytest.mark.parametrize(
    ("pool", "stride"), [((2, 2), (2, 2)), ((5, 4), (3, 4)), ((3, 2), (1, 2)), ((1, 1), (1, 1))]
)
def test_other_windows_and_strides_give_the_loops_values(pool, stride):
    for sides in np.ndindex(5, 5):
        x = activations(1, 5 + sides[0], 5 + sides[1], 2)
        given = CeilMaxPooling2D(pool, stride)(x)
        np.testing.assert_array_equal(given, reference(x, pool, stride))


@pytest.mark.parametrize(("side", "pooled"), [(55, 27), (27, 13), (13, 6)])
def test_where_the_windows_fit_nothing_is_padded(side, pooled):
    # AlexNet's pools at its own input size.
    x = activations(1, side, side, 1)
    given = CeilMaxPooling2D()(x)
    assert given.shape == (1, pooled, pooled, 1)
    np.testing.assert_array_equal(given, keras.layers.MaxPooling2D(3, 2)(x))
    traced = tf.function(CeilMaxPooling2D()).get_concrete_function(x)
    assert not [op.name for op in traced.graph.get_operations() if "Pad" in op.type]


@pytest.mark.reference
def test_pytorch_gives_the_same_in_ceil_mode():
    torch = pytest.importorskip("torch")
    for sides in [(6, 6), (7, 6), (6, 9), (9, 9), (2, 3)]:
        x = activations(2, *sides, 3)
        maps = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
        pooled = torch.nn.MaxPool2d(3, 2, ceil_mode=True)(maps)
        weights = activations(*pooled.permute(0, 2, 3, 1).shape, seed=1)
        (pooled * torch.tensor(weights.transpose(0, 3, 1, 2))).sum().backward()
        values = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(values)
            given = CeilMaxPooling2D()(values)
            total = tf.reduce_sum(given * weights)
        np.testing.assert_array_equal(given, pooled.detach().numpy().transpose(0, 2, 3, 1))
        np.testing.assert_allclose(
            tape.gradient(total, values), maps.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-6
        )


@pytest.mark.parametrize("run", ["eager", "graph", "jit"])
@pytest.mark.parametrize("lowest", [False, True])
def test_no_gradient_flows_into_the_padding(run, lowest):
    # Even the least finite number is above the padding.
    fill = np.finfo("float32").min if lowest else -1.0
    x, layer = tf.fill((2, 6, 8, 3), np.float32(fill)), CeilMaxPooling2D()

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            pooled = layer(x)
        return tape.gradient(pooled, x)

    if run != "eager":
        gradient = tf.function(gradient, jit_compile=run == "jit")
    given = gradient(x)
    # One for each of the 3 x 4 windows of each map.
    np.testing.assert_allclose(tf.reduce_sum(given, axis=(1, 2)), np.full((2, 3), 12.0))


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    ("policy", "dtype"),
    [
        ("float32", "float32"),
        ("mixed_float16", "float16"),
        ("mixed_bfloat16", "bfloat16"),
        ("float16", "float16"),
        ("bfloat16", "bfloat16"),
        ("float64", "float64"),
    ],
)
def test_under_every_policy_the_values_are_those_of_the_rounded_input(policy, dtype, jit):
    x = tf.constant(activations(2, 6, 7, 4))
    given = tf.function(CeilMaxPooling2D(dtype=policy), jit_compile=jit)(x)
    assert given.dtype.name == dtype
    rounded = tf.cast(tf.cast(x, dtype), "float64").numpy()
    np.testing.assert_array_equal(tf.cast(given, "float64"), reference(rounded))


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("dtype", ["int32", "uint8"])
def test_integers_stay_integers(dtype, jit):
    low = 0 if dtype == "uint8" else -90
    x = np.random.default_rng(0).integers(low, low + 50, (1, 6, 6, 2)).astype(dtype)
    given = tf.function(CeilMaxPooling2D(), jit_compile=jit)(tf.constant(x))
    assert given.dtype.name == dtype
    np.testing.assert_array_equal(given, reference(x))


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("jit", [False, True])
def test_a_net_trains_through_it_under_every_policy(policy, jit):
    keras.utils.set_random_seed(0)  # of many random nets, one leaves float16's range
    net = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(5, 3, dtype=policy),
            CeilMaxPooling2D(dtype=policy),
            keras.layers.GlobalAveragePooling2D(dtype=policy),
            keras.layers.Dense(1, dtype="float32"),
        ]
    )
    net.compile("sgd", "mse", jit_compile=jit)
    before = net.layers[0].kernel.numpy()
    history = net.fit(activations(8, 8, 8, 3), np.ones((8, 1)), batch_size=4, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert np.isfinite(net.layers[0].kernel.numpy()).all()
    assert np.abs(net.layers[0].kernel.numpy() - before).max() > 0


def test_an_empty_batch_stays_empty():
    assert CeilMaxPooling2D()(np.zeros((0, 6, 6, 8), "float32")).shape == (0, 3, 3, 8)


def test_in_tf_data_it_gives_the_eager_values():
    x = activations(6, 6, 5, 4)
    layer = CeilMaxPooling2D()
    mapped = tf.data.Dataset.from_tensor_slices(x).batch(2).map(layer)
    np.testing.assert_array_equal(np.concatenate(list(mapped)), layer(x))


@pytest.mark.parametrize(("pool", "stride"), [(3, 2), (5, 3), (4, 4), (2, 1)])
def test_sides_may_be_unknown(pool, stride, save_and_load):
    inputs = keras.Input((None, None, 2))
    net = keras.Model(inputs, CeilMaxPooling2D(pool, stride)(inputs))
    assert net.output_shape == (None, None, None, 2)
    for extra in range(5):
        x = activations(1, pool + extra, pool + 4 - extra, 2)
        unknown = tf.function(net, input_signature=[tf.TensorSpec((None, None, None, 2))])
        expected = reference(x, (pool, pool), (stride, stride))
        np.testing.assert_array_equal(unknown(x), expected)
    np.testing.assert_array_equal(save_and_load(net)(x), expected)


def test_the_shape_foretold_is_the_shape_given():
    layer = CeilMaxPooling2D((3, 2), (2, 1))
    for sides in np.ndindex(4, 4):
        shape = (2, 3 + sides[0], 3 + sides[1], 5)
        assert layer.compute_output_shape(shape) == tuple(layer(np.zeros(shape, "float32")).shape)
    assert layer.compute_output_shape((None, None, 6, 5)) == (None, None, 5, 5)
    assert layer(keras.Input((6, None, 5))).shape == (None, 3, None, 5)


def test_its_configuration_makes_the_same_layer():
    layer = CeilMaxPooling2D((5, 4), (3, 4), name="pool1", dtype="mixed_bfloat16")
    again = CeilMaxPooling2D.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert (again.pool_size, again.strides) == ((5, 4), (3, 4))


def test_the_defaults_are_the_papers_overlapping_windows():
    layer = CeilMaxPooling2D()
    assert (layer.pool_size, layer.strides) == ((3, 3), (2, 2))
    assert CeilMaxPooling2D(2, None).strides == (2, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, 3), "strides.*received strides=3 with pool_size=2"),
        (((3, 2), (2, 3)), r"strides.*received strides=\(2, 3\)"),
        ((3, 0), "strides.*received strides=0"),
        ((0, 1), "pool_size.*0"),
        ((3, 1.5), "strides.*1.5"),
    ],
)
def test_impossible_windows_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CeilMaxPooling2D(*arguments)


@pytest.mark.parametrize("shape", [(1, 1, 6, 2), (1, 6, 1, 2)])
def test_an_image_that_no_window_fits_into_is_refused(shape):
    with pytest.raises(ValueError, match=r"more than 1 pixels; received.*\(1, \d, \d, 2\)"):
        CeilMaxPooling2D()(np.zeros(shape, "float32"))
    with pytest.raises(ValueError, match="more than 1 pixels"):
        CeilMaxPooling2D()(keras.Input(shape[1:]))


def test_other_ranks_are_refused():
    with pytest.raises(ValueError, match="expected ndim=4, found ndim=3"):
        CeilMaxPooling2D()(np.zeros((6, 6, 8), "float32"))


def test_channels_first_is_refused():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="channels_first"):
            CeilMaxPooling2D()
    finally:
        keras.config.set_image_data_format("channels_last")


def test_two_replicas_give_and_learn_what_one_device_does(two_replicas):
    x, y = activations(8, 8, 8, 3), activations(8, 1)

    def trained(scope):
        with scope:
            keras.utils.set_random_seed(1)
            net = keras.Sequential(
                [
                    keras.Input((8, 8, 3)),
                    keras.layers.Conv2D(6, 3),
                    CeilMaxPooling2D(),
                    keras.layers.Flatten(),
                    keras.layers.Dense(1),
                ]
            )
            net.compile(keras.optimizers.SGD(1e-4), "mse", jit_compile=False)
        net.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
        return net.predict(x, verbose=0)

    one = trained(tf.distribute.get_strategy().scope())
    np.testing.assert_allclose(trained(two_replicas.scope()), one, rtol=1e-4, atol=1e-5)
