from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from alexnet_keras.layers import BilinearPooling

#: what the layer adds below its roots, as a share of the mean square
OFFSET = 1e-5


def reference(a, offset=0.0):
    """One pair of channels after another in float64; the published formulas without an offset."""
    a = np.asarray(a, dtype=np.float64)
    channels = a.shape[-1]
    moments = np.stack(
        [
            (a[..., i] * a[..., j]).mean(axis=(1, 2))
            for i in range(channels)
            for j in range(i, channels)
        ],
        axis=1,
    )
    moments /= (a**2).mean(axis=(1, 2, 3))[:, None]
    roots = np.sign(moments) * (np.sqrt(np.abs(moments) + offset) - offset**0.5)
    return roots / np.sqrt((roots**2).sum(axis=1, keepdims=True))


def activations(*shape, scale=4.0):
    return np.random.default_rng(0).normal(0, scale, shape).astype("float32")


@pytest.mark.parametrize("shape", [(2, 7, 9, 6), (3, 1, 1, 5), (1, 4, 2, 1)])
def test_values_are_the_published_formula_but_for_small_ones(shape):
    x = activations(*shape)
    given = BilinearPooling()(x)
    # Near 0 the offset takes the root of its own size off: .3% of the root of the mean square.
    np.testing.assert_allclose(given, reference(x), atol=2e-3)
    np.testing.assert_allclose(given, reference(x, OFFSET), rtol=1e-4, atol=1e-6)


@pytest.mark.reference
def test_pytorchs_sum_over_positions_gives_the_same():
    torch = pytest.importorskip("torch")
    x = activations(2, 5, 6, 8)
    maps = torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float64)
    moments = torch.einsum("bihw,bjhw->bij", maps, maps)
    rows, columns = torch.triu_indices(8, 8)
    pairs = moments[:, rows, columns]
    roots = torch.nn.functional.normalize(pairs.sign() * pairs.abs().sqrt())
    np.testing.assert_allclose(BilinearPooling()(x), roots.numpy(), atol=2e-3)


def cosines(channels, count):
    """The first vectors of the orthonormal DCT-II by its formula, float64 (channels, count)."""
    places = (np.arange(channels)[:, None] + 0.5) * np.arange(count) * np.pi / channels
    vectors = np.cos(places)
    return vectors / np.linalg.norm(vectors, axis=0)


@pytest.mark.parametrize(("channels", "projected"), [(6, 4), (9, 1), (7, 6)])
def test_projected_they_are_pairs_of_the_lowest_frequencies(channels, projected):
    x = activations(2, 5, 4, channels)
    given = BilinearPooling(projected)(x)
    assert given.shape == (2, projected * (projected + 1) // 2)
    expected = reference(x @ cosines(channels, projected), OFFSET)
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("projected", [5, 8])
def test_no_more_channels_come_out_than_went_in(projected):
    x = activations(2, 4, 4, 5)
    np.testing.assert_array_equal(BilinearPooling(projected)(x), BilinearPooling()(x))


def test_similar_images_stay_similar_under_a_projection():
    # Sixty maps of ReLUs in ten groups: half of the channels tell the groups about as well.
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(10, 1, 1, 64))
    noise = rng.normal(size=(60, 6, 6, 64))
    x = np.maximum(np.repeat(centres, 6, axis=0) + noise, 0).astype("float32")

    def products(layer):
        pairs = np.asarray(layer(x))
        return (pairs @ pairs.T)[np.triu_indices(60, 1)]

    kept = np.corrcoef(products(BilinearPooling(32)), products(BilinearPooling()))[0, 1]
    assert kept > 0.9


@pytest.mark.parametrize("projected", [0, -3])
def test_less_than_one_channel_is_refused(projected):
    with pytest.raises(ValueError, match=f"projected={projected} is not at least 1"):
        BilinearPooling(projected)


def test_pairs_come_row_by_row_of_the_upper_triangle():
    given = BilinearPooling()(np.array([1, 2, 4], "float32").reshape(1, 1, 1, 3))
    products = np.array([1 * 1, 1 * 2, 1 * 4, 2 * 2, 2 * 4, 4 * 4])
    np.testing.assert_allclose(given[0], np.sqrt(products / products.sum()), atol=1e-3)


def test_features_that_exclude_each_other_have_a_negative_value():
    x = activations(2, 4, 4, 1)
    given = BilinearPooling()(np.concatenate([x, -x], axis=-1))
    np.testing.assert_allclose(given, np.array([[1, -1, 1]] * 2) / 3**0.5, rtol=1e-5)


def test_features_at_different_places_are_told_from_those_at_the_same():
    together, apart = np.zeros((2, 1, 2, 2), "float32")
    together[0, 0] = 1, 1
    apart[0] = [1, 0], [0, 1]
    given = np.asarray(BilinearPooling()(np.stack([together, apart])))
    np.testing.assert_allclose(given, [[3**-0.5] * 3, [2**-0.5, 0, 2**-0.5]], rtol=1e-5)


@pytest.mark.parametrize("factor", [1e-6, 1000.0])
def test_neither_the_scale_nor_the_size_of_a_map_matters(factor):
    x = np.maximum(activations(2, 3, 4, 5), 0)
    given = BilinearPooling()(x)
    np.testing.assert_allclose(BilinearPooling()(x * factor), given, rtol=1e-4, atol=1e-6)
    tiled = BilinearPooling()(np.tile(x, (1, 2, 2, 1)))
    np.testing.assert_allclose(tiled, given, rtol=1e-4, atol=1e-6)


def test_all_have_unit_length():
    x = np.maximum(activations(8, 5, 5, 7) - 4, 0)
    lengths = np.linalg.norm(BilinearPooling()(x), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-6)


def slope(x, run, layer=None):
    """Values, and the gradient of their sum weighted by 1, 2, 3 and so on."""
    layer = layer or BilinearPooling()
    weights = np.arange(1, layer.compute_output_shape(x.shape)[1] + 1, dtype="float32")

    def both(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            values = layer(x)
            total = tf.reduce_sum(values * weights)
        return values, tape.gradient(total, x)

    if run != "eager":
        both = tf.function(both, jit_compile=run == "jit")
    return both(tf.constant(x)), weights


@pytest.mark.parametrize("run", ["eager", "graph", "jit"])
def test_the_gradient_is_the_formulas_slope(run):
    x = activations(1, 3, 2, 3, scale=1.0)
    assert np.abs(reference(x)).min() > 0.1  # a root bends too much near 0
    (_, given), weights = slope(x, run)
    expected = np.empty(x.shape)
    for index in np.ndindex(x.shape):
        step = np.zeros(x.shape)
        step[index] = 1e-6
        rise = reference(x + step, OFFSET) - reference(x - step, OFFSET)
        expected[index] = (rise * weights).sum() / 2e-6
    np.testing.assert_allclose(given, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("run", ["eager", "graph", "jit"])
def test_a_map_of_zeros_stays_one_and_has_no_slope(run):
    x = np.maximum(activations(2, 3, 3, 4), 0)
    x[0] = 0
    (values, gradient), _ = slope(x, run)
    assert not np.asarray(values[0]).any() and not np.asarray(gradient[0]).any()
    assert np.isfinite(gradient).all() and np.abs(gradient[1]).max() > 0


@pytest.mark.parametrize("factor", [1, 1e-12])
@pytest.mark.parametrize("run", ["eager", "graph", "jit"])
def test_slopes_are_finite_where_most_activations_are_zero_and_all_are_faint(run, factor):
    x = np.maximum(activations(4, 6, 6, 16, scale=1.0) - 1.5, 0)
    assert (reference(x) == 0).mean() > 0.05
    (_, gradient), _ = slope(np.float32(factor) * x, run)
    assert np.isfinite(gradient).all()
    assert 0 < np.abs(gradient).max() < 1e4 / factor


def test_height_and_width_may_be_unknown():
    inputs = keras.Input((None, None, 4))
    net = keras.Model(inputs, BilinearPooling()(inputs))
    assert net.output_shape == (None, 10)
    for side in (1, 5):
        x = activations(2, side, side + 2, 4)
        np.testing.assert_allclose(net(x), reference(x, OFFSET), rtol=1e-4, atol=1e-6)
        given = net.predict(x, verbose=0)
        np.testing.assert_allclose(given, reference(x, OFFSET), rtol=1e-4, atol=1e-6)


def test_an_empty_batch_stays_empty():
    assert BilinearPooling()(np.zeros((0, 4, 4, 8), "float32")).shape == (0, 36)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    ("policy", "rounding"),
    [
        ("float32", 1e-5),
        ("mixed_float16", 2**-10),
        ("mixed_bfloat16", 2**-7),
        ("float16", 2**-10),
        ("bfloat16", 2**-7),
    ],
)
def test_the_result_is_float32_under_every_policy(policy, rounding, jit):
    # Sums of products up to a million: float16 ends at 65504.
    x = np.abs(activations(2, 6, 6, 4, scale=200.0))
    layer = BilinearPooling(dtype=policy)
    given = tf.function(layer, jit_compile=jit)(tf.constant(x))
    assert given.dtype == tf.float32
    np.testing.assert_allclose(given, reference(x, OFFSET), rtol=rounding)
    inputs = keras.Input((6, 6, 4))
    assert layer(inputs).dtype == "float32"


@pytest.mark.parametrize("projected", [None, 3])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("jit", [False, True])
def test_a_net_trains_through_it_even_on_a_black_image(policy, jit, projected):
    net = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            keras.layers.Conv2D(5, 3, activation="relu", use_bias=False, dtype=policy),
            BilinearPooling(projected, dtype=policy),
            keras.layers.Dense(1, dtype="float32"),
        ]
    )
    net.compile("sgd", "mse", jit_compile=jit)
    before = net.layers[0].kernel.numpy()
    x = activations(8, 6, 6, 3)
    x[3] = 0
    history = net.fit(x, np.ones((8, 1)), batch_size=4, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    after = net.layers[0].kernel.numpy()
    assert np.isfinite(after).all() and np.abs(after - before).max() > 0


def test_a_saved_net_gives_the_same(save_and_load):
    net = keras.Sequential(
        [keras.Input((6, 6, 3)), keras.layers.Conv2D(4, 3), BilinearPooling(3, name="bilinear")]
    )
    x = activations(2, 6, 6, 3)
    np.testing.assert_array_equal(save_and_load(net)(x), net(x))


def test_its_configuration_makes_the_same_layer():
    layer = BilinearPooling(24, name="bilinear", dtype="mixed_bfloat16")
    again = BilinearPooling.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert again.compute_output_shape((None, 3, 3, 256)) == (None, 300)


@pytest.mark.parametrize("shape", [(4, 8), (4, 4, 4, 8), (4, 4, None)])
def test_other_ranks_and_unknown_channels_are_refused(shape):
    words = rf"takes \(batch, height, width, channels\) .*received \(None, {shape[0]}, "
    with pytest.raises(ValueError, match=words):
        BilinearPooling()(keras.Input(shape))
