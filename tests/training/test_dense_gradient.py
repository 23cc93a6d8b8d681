from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from alexnet_keras.placement import place
from alexnet_keras.training.dense_gradient import quicken_dense


def net(**arguments):
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [keras.Input((7,)), keras.layers.Dense(5, bias_initializer="normal", **arguments)]
    )


def numbers(*shape):
    return np.random.default_rng(len(shape)).normal(0, 1, shape).astype("float32")


def gradients(model, x, upstream):
    """With regard to the inputs, the kernel and the bias, if there is one."""
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(tf.cast(model(x, training=True), "float32") * upstream)
    return tape.gradient(total, [x, *(variable.value for variable in model.trainable_variables)])


@pytest.mark.parametrize("how", ["eager", "graph", "xla"])
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_values_and_gradients_are_those_of_the_formula_in_float64(activation, use_bias, how):
    model = net(activation=activation, use_bias=use_bias)
    quicken_dense(model)
    x, upstream = numbers(3, 7), numbers(3, 5)
    kernel, *bias = (variable.numpy().astype(np.float64) for variable in model.weights)
    raw = x @ kernel + sum(bias)
    expected = np.maximum(raw, 0) if activation else raw
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-6)
    passed = upstream * (raw > 0) if activation else upstream
    function = functools.partial(gradients, model)
    if how != "eager":
        function = tf.function(function, jit_compile=how == "xla")
    for given, wanted in zip(
        function(x, upstream), (passed @ kernel.T, x.T @ passed, passed.sum(0)), strict=False
    ):
        np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-6)


def test_no_gradient_multiplies_by_a_transposed_kernel():
    def products(model):
        traced = tf.function(functools.partial(gradients, model)).get_concrete_function(
            numbers(3, 7), numbers(3, 5)
        )
        operations = traced.graph.get_operations()
        return [o for o in operations if o.type == "MatMul" and o.get_attr("transpose_b")]

    model = net()
    assert products(model)
    quicken_dense(model)
    assert not products(model)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_in_mixed_precision_it_computes_as_the_layer_does(policy):
    stock, quick = net(dtype=policy), net(dtype=policy)
    quicken_dense(quick)
    x, upstream = numbers(3, 7), numbers(3, 5)
    assert quick(x).dtype.name == policy.removeprefix("mixed_")
    for given, expected in zip(
        gradients(quick, x, upstream), gradients(stock, x, upstream), strict=True
    ):
        assert given.dtype == expected.dtype
        np.testing.assert_allclose(given, expected, rtol=2**-6, atol=2**-6)


def test_inputs_of_other_ranks_go_the_layers_own_way():
    inputs = keras.Input((4, 7))
    model = keras.Model(inputs, keras.layers.Dense(5)(inputs))
    x = numbers(2, 4, 7)
    expected = model(x)
    quicken_dense(model)
    np.testing.assert_array_equal(model(x), expected)


def test_a_placed_layer_stays_placed():
    model = net()
    placed = place(model.layers[0], "CPU:1").call
    quicken_dense(model)
    assert model.layers[0].call is placed


def test_a_saved_net_has_keras_own_layers(tmp_path):
    model = net()
    quicken_dense(model)
    model.save(tmp_path / "net.keras")
    loaded = keras.models.load_model(tmp_path / "net.keras", safe_mode=True)
    assert "call" not in vars(loaded.layers[0])
    np.testing.assert_allclose(loaded(numbers(3, 7)), model(numbers(3, 7)), rtol=1e-6)
