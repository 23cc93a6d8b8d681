from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from alexnet_keras.layers import LocalResponseNormalization
from alexnet_keras.placement import place

# Strong enough for the normalization to change most values by a factor, not by rounding.
STRONG = {"depth_radius": 2, "bias": 1.5, "alpha": 0.3, "beta": 0.75}

# With a scale of the activations; the paper's alpha of 1e-4 tells only on large ones.
CONSTANTS = [
    ({}, 200.0),
    (STRONG, 4.0),
    ({"depth_radius": 0, "alpha": 0.5}, 4.0),
    ({"depth_radius": 7, "bias": 1.0, "alpha": 0.1, "beta": 1.0}, 4.0),
    ({"depth_radius": 1, "bias": 0.1, "alpha": 2.0, "beta": 0.5}, 4.0),
    ({"depth_radius": 3, "alpha": 0.0}, 4.0),
]


def reference(a, depth_radius=2, bias=2.0, alpha=1e-4, beta=0.75):
    """Section 3.3 of the paper, one channel after another, in float64."""
    a = np.asarray(a, dtype=np.float64)
    b = np.empty_like(a)
    for c in range(a.shape[-1]):
        neighbours = a[..., max(c - depth_radius, 0) : c + depth_radius + 1]
        b[..., c] = a[..., c] / (bias + alpha * (neighbours**2).sum(axis=-1)) ** beta
    return b


def activations(*shape, scale=4.0):
    return np.random.default_rng(0).normal(0, scale, shape).astype("float32")


@pytest.mark.parametrize("channels", [1, 2, 16])
@pytest.mark.parametrize(("arguments", "scale"), CONSTANTS)
def test_values_are_the_papers_formula_in_float64(channels, arguments, scale):
    x = activations(2, 3, 5, channels, scale=scale)
    given = LocalResponseNormalization(**arguments)(x)
    np.testing.assert_allclose(given, reference(x, **arguments), rtol=1e-5)


def test_the_defaults_are_the_papers_constants():
    layer = LocalResponseNormalization()
    assert (layer.bias, 2 * layer.depth_radius + 1, layer.alpha, layer.beta) == (2, 5, 1e-4, 0.75)


@pytest.mark.reference
@pytest.mark.parametrize("size", [1, 3, 5])
def test_pytorch_gives_the_same_with_its_alpha_times_n(size):
    torch = pytest.importorskip("torch")
    x = activations(2, 4, 3, 9)
    expected = torch.nn.functional.local_response_norm(
        torch.tensor(x.transpose(0, 3, 1, 2)), size, alpha=0.2 * size, beta=0.75, k=1.5
    )
    layer = LocalResponseNormalization(size // 2, bias=1.5, alpha=0.2, beta=0.75)
    np.testing.assert_allclose(layer(x), expected.numpy().transpose(0, 2, 3, 1), rtol=1e-5)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    ("policy", "dtype", "rounding"),
    [
        ("float32", "float32", 1e-5),
        ("mixed_float16", "float16", 2**-11),
        ("mixed_bfloat16", "bfloat16", 2**-8),
        ("float16", "float16", 2**-11),
        ("bfloat16", "bfloat16", 2**-8),
        ("float64", "float64", 1e-5),
    ],
)
def test_under_every_policy_only_the_result_is_rounded(policy, dtype, rounding, jit):
    # Squares up to a million: float16 ends at 65504.
    x = activations(2, 4, 4, 6, scale=300.0)
    layer = LocalResponseNormalization(dtype=policy)
    given = tf.function(layer, jit_compile=jit)(tf.constant(x))
    assert given.dtype.name == dtype
    np.testing.assert_allclose(tf.cast(given, "float64"), reference(x), rtol=1.01 * rounding)


def gradient(layer, x, upstream):
    """Of the sum of outputs times `upstream`, with regard to x."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(tf.cast(layer(x), "float32") * upstream)
    return tape.gradient(total, x)


def run_as(how, function):
    return function if how == "eager" else tf.function(function, jit_compile=how == "jit")


def slope(function, x, step):
    """Central differences of a function of float64 arrays."""
    x = np.asarray(x, dtype=np.float64)
    found = np.empty(x.shape)
    for index in np.ndindex(x.shape):
        moved = np.zeros(x.shape)
        moved[index] = step
        found[index] = (function(x + moved) - function(x - moved)) / (2 * step)
    return found


def reference_gradient(a, upstream, depth_radius=2, bias=2.0, alpha=1e-4, beta=0.75):
    """From the whole Jacobian in float64; also the sum of its terms' magnitudes."""
    a, upstream = np.asarray(a, dtype=np.float64), np.asarray(upstream, dtype=np.float64)
    channels = np.arange(a.shape[-1])
    near = np.abs(channels[:, None] - channels) <= depth_radius
    divisor = bias + alpha * (a**2 @ near)
    # Of output i with regard to input j: one term on the diagonal, one for each neighbour.
    own = np.einsum("...i,ij->...ij", divisor**-beta, np.eye(len(channels)))
    others = 2 * alpha * beta * near
    others = np.einsum("...i,...j,ij->...ij", a * divisor ** (-beta - 1), a, others)
    return tuple(
        np.einsum("...i,...ij->...j", weights, terms)
        for weights, terms in ((upstream, own - others), (np.abs(upstream), own + np.abs(others)))
    )


def test_the_reference_gradient_is_the_formulas_slope():
    x, upstream = activations(1, 2, 2, 7), activations(1, 2, 2, 7)
    expected = slope(lambda x: (reference(x, **STRONG) * upstream).sum(), x, 1e-5)
    given, _ = reference_gradient(x, upstream, **STRONG)
    np.testing.assert_allclose(given, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("how", ["eager", "graph", "jit"])
@pytest.mark.parametrize("channels", [1, 16])
@pytest.mark.parametrize(("arguments", "scale"), [*CONSTANTS, ({}, 1000.0)])
def test_the_gradient_is_exact_to_the_rounding_of_float32(arguments, scale, channels, how):
    x, upstream = activations(2, 3, 5, channels, scale=scale), activations(2, 3, 5, channels)
    layer = LocalResponseNormalization(**arguments)
    given = run_as(how, functools.partial(gradient, layer))(tf.constant(x), upstream)
    expected, magnitude = reference_gradient(x, upstream, **arguments)
    assert (np.abs(given - expected) <= 16 * 2**-24 * magnitude).all()


@pytest.mark.parametrize("how", ["eager", "graph", "jit"])
def test_the_gradient_can_be_differentiated_again(how):
    x, upstream, weights = (activations(1, 1, 2, 6) for _ in range(3))
    layer = LocalResponseNormalization(**STRONG)

    def second(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(gradient(layer, x, upstream) * weights)
        return tape.gradient(total, x)

    expected = slope(
        lambda x: (reference_gradient(x, upstream, **STRONG)[0] * weights).sum(), x, 1e-5
    )
    np.testing.assert_allclose(run_as(how, second)(tf.constant(x)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("policy", "rounding"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_in_half_precision_only_the_gradients_result_is_rounded(policy, rounding):
    x = tf.cast(activations(2, 3, 4, 6, scale=300.0), policy)
    upstream = tf.cast(activations(2, 3, 4, 6), policy)
    layer = LocalResponseNormalization(dtype=policy)
    given = gradient(layer, x, tf.cast(upstream, "float32"))
    assert given.dtype.name == policy
    expected, magnitude = reference_gradient(tf.cast(x, "float64"), tf.cast(upstream, "float64"))
    assert (np.abs(tf.cast(given, "float64") - expected) <= 1.01 * rounding * magnitude).all()


@pytest.mark.parametrize("gpus", [[], ["GPU:0"]])
def test_only_gpus_run_the_gradient_of_the_operation(gpus, monkeypatch):
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: gpus)
    layer = LocalResponseNormalization()
    traced = tf.function(functools.partial(gradient, layer)).get_concrete_function(
        tf.TensorSpec((None, 4, 4, 8)), tf.TensorSpec((None, 4, 4, 8))
    )
    kinds = [operation.type for operation in traced.graph.get_operations()]
    assert "LRN" in kinds
    assert ("LRNGrad" in kinds) == bool(gpus)


def test_batches_of_other_sizes_and_empty_ones_have_a_gradient():
    upstream = activations(4, 2, 3, 5)
    layer = LocalResponseNormalization(**STRONG)
    traced = tf.function(
        functools.partial(gradient, layer),
        input_signature=[tf.TensorSpec((None, 2, 3, 5))] * 2,
    )
    for size in (4, 1, 0):
        expected, _ = reference_gradient(upstream[:size], upstream[:size], **STRONG)
        given = traced(upstream[:size], upstream[:size])
        np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5)


def test_a_saved_model_has_the_gradient_too(tmp_path):
    x, upstream = activations(2, 2, 3, 5), activations(2, 2, 3, 5)
    module = tf.Module()
    layer = LocalResponseNormalization(**STRONG)
    module.normalize = tf.function(layer, input_signature=[tf.TensorSpec((None, 2, 3, 5))])
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path)).normalize
    expected, _ = reference_gradient(x, upstream, **STRONG)
    given = gradient(loaded, tf.constant(x), upstream)
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", ["eager", "graph"])
def test_placed_on_another_device_it_has_the_same_gradient(how):
    x, upstream = activations(2, 2, 3, 5), activations(2, 2, 3, 5)
    layer = place(LocalResponseNormalization(**STRONG), "CPU:1")
    expected, _ = reference_gradient(x, upstream, **STRONG)
    given = run_as(how, functools.partial(gradient, layer))(tf.constant(x), upstream)
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("jit", [False, True])
def test_a_net_trains_through_it_under_every_policy(policy, jit):
    net = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            keras.layers.Conv2D(5, 3, dtype=policy),
            LocalResponseNormalization(**STRONG, dtype=policy),
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
    assert LocalResponseNormalization()(np.zeros((0, 4, 4, 8), "float32")).shape == (0, 4, 4, 8)


def test_integers_are_taken_as_numbers():
    x = np.arange(24).reshape(1, 2, 3, 4)
    np.testing.assert_allclose(
        LocalResponseNormalization(**STRONG)(x), reference(x, **STRONG), rtol=1e-5
    )


def test_in_tf_data_it_gives_the_eager_values():
    x = activations(6, 3, 3, 4)
    layer = LocalResponseNormalization(**STRONG)
    mapped = tf.data.Dataset.from_tensor_slices(x).batch(2).map(layer)
    np.testing.assert_allclose(np.concatenate(list(mapped)), layer(x), rtol=1e-6)


def test_shapes_are_kept_and_sides_may_be_unknown(save_and_load):
    inputs = keras.Input((None, None, 4))
    net = keras.Model(inputs, LocalResponseNormalization(**STRONG)(inputs))
    assert net.output_shape == (None, None, None, 4)
    assert LocalResponseNormalization().compute_output_shape((2, 5, 6, 7)) == (2, 5, 6, 7)
    for side in (3, 5):
        x = activations(2, side, side + 1, 4)
        np.testing.assert_allclose(net(x), reference(x, **STRONG), rtol=1e-5)
    loaded = save_and_load(net)
    np.testing.assert_array_equal(loaded(x), net(x))


def test_its_configuration_makes_the_same_layer():
    arguments = {"depth_radius": 3, "bias": 1.25, "alpha": 0.5, "beta": 0.25}
    layer = LocalResponseNormalization(**arguments, name="norm1", dtype="mixed_bfloat16")
    again = LocalResponseNormalization.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert {key: layer.get_config()[key] for key in arguments} == arguments


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"depth_radius": -1}, "depth_radius"),
        ({"depth_radius": 1.5}, "depth_radius"),
        ({"bias": 0.0}, "bias"),
        ({"alpha": -1e-4}, "alpha"),
        ({"beta": float("nan")}, "beta"),
    ],
)
def test_impossible_constants_are_refused(arguments, named):
    with pytest.raises(ValueError, match=f"{named}.*received.*{next(iter(arguments.values()))}"):
        LocalResponseNormalization(**arguments)


def test_other_ranks_are_refused():
    with pytest.raises(ValueError, match="expected ndim=4, found ndim=3"):
        LocalResponseNormalization()(np.zeros((2, 4, 8), "float32"))


def test_channels_first_is_refused():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="channels_first"):
            LocalResponseNormalization()
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
                    LocalResponseNormalization(**STRONG),
                    keras.layers.Flatten(),
                    keras.layers.Dense(1),
                ]
            )
            net.compile(keras.optimizers.SGD(0.05), "mse", jit_compile=False)
        net.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
        return net.predict(x, verbose=0)

    one = trained(tf.distribute.get_strategy().scope())
    np.testing.assert_allclose(trained(two_replicas.scope()), one, rtol=1e-4, atol=1e-5)
