"""The nets against arithmetic, NumPy and PyTorch."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from alexnet_keras import AlexNet, ClassicDropout, UserError
from alexnet_keras.alexnet import build
from alexnet_keras.variants import KERNEL_SIZES, VARIANTS, with_options
from alexnet_keras.weights import load_tensors
from numpy_alexnet import forward, forward_modern, softmax

# Worked out from the published shapes: kernels times channels plus biases.
GROUPED = 60_965_224
PARAMETERS = {
    "alexnet": 62_378_344,
    "torchvision": 61_100_840,
    "paper": GROUPED,
    "release": GROUPED,
    "caffe": GROUPED,
    "caffenet": GROUPED,
}
TOWERS = ("paper", "release")
#: the published and common forms, whose kernels, strides and top are AlexNet's
PUBLISHED = tuple(PARAMETERS)


@functools.cache
def published(variant):
    """A whole net, which takes a second to fill with random numbers; not to be changed."""
    return AlexNet(variant=variant)


@pytest.fixture(scope="module", autouse=True)
def forget_whole_nets():
    yield
    published.cache_clear()


def by_hand(filters, seen):
    """Parameters at 1000 classes; `seen` are the input channels of conv1 to conv5."""
    sides = zip(KERNEL_SIZES, seen, filters, strict=True)
    convolutions = sum(k * k * i * o + o for k, i, o in sides)
    units = (6 * 6 * filters[-1], 4096, 4096, 1000)
    return convolutions + sum(i * o + o for i, o in zip(units, units[1:], strict=False))


@pytest.mark.parametrize("variant", PUBLISHED)
def test_parameter_counts_are_the_published_ones(variant):
    assert published(variant).count_params() == PARAMETERS[variant]
    filters = VARIANTS[variant].filters
    seen = (3, *filters[:-1])
    if PARAMETERS[variant] == GROUPED:
        # The paper, section 3.5: conv2, conv4 and conv5 see their own tower only.
        seen = (3, 48, 256, 192, 192)
    assert by_hand(filters, seen) == PARAMETERS[variant]


@pytest.mark.parametrize("variant", PUBLISHED)
def test_activations_have_the_published_shapes_and_names(variant):
    model = published(variant)
    side = 227 if variant in ("caffe", "caffenet") else 224
    assert model.input_shape == (None, side, side, 3)
    first, second, third, fourth, fifth = VARIANTS[variant].filters
    expected = {
        "conv1": (55, 55, first),
        "pool1": (27, 27, first),
        "conv2": (27, 27, second),
        "pool2": (13, 13, second),
        "conv3": (13, 13, third),
        "conv4": (13, 13, fourth),
        "conv5": (13, 13, fifth),
        "pool5": (6, 6, fifth),
        "fc6": (4096,),
        "fc7": (4096,),
    }
    names = [layer.name for layer in model.layers]
    for name, (*sides, channels) in expected.items():
        parts = [name] if variant not in TOWERS else [name + "a", name + "b"]
        for part in parts:
            assert model.get_layer(part).output.shape[1:] == (*sides, channels // len(parts))
    assert model.get_layer("pool2").output.shape[1:] == expected["pool2"]
    assert model.get_layer("pool5").output.shape[1:] == expected["pool5"]
    assert model.get_layer("fc8").output.shape[1:] == (1000,)
    assert any(name.startswith("norm2") for name in names) == (variant != "torchvision")
    assert ("spatial_norm2a" in names) == (variant == "release")


def small(variant, **changes):
    """A row of the table with few channels; everything but the widths is the variant's own."""
    return replace(VARIANTS[variant], filters=(6, 8, 10, 12, 8), hidden_units=(16, 12), **changes)


def random_tensors(row, side, classes=7):
    """Weights large enough for the normalizations to matter and the classes to differ."""
    rng = np.random.default_rng(0)
    positions = build(row, input_shape=(side, side, 3)).get_layer("flatten").output.shape[1]
    sides = (positions, *row.hidden_units, classes)
    shapes = row.kernel_shapes() | {f"fc{n}": sides[n - 6 : n - 4] for n in (6, 7, 8)}
    tensors = {}
    for name, shape in shapes.items():
        tensors[f"{name}/kernel"] = rng.normal(0, 0.2, shape).astype(np.float32)
        tensors[f"{name}/bias"] = rng.normal(0, 0.2, shape[-1]).astype(np.float32)
    return tensors


@pytest.mark.parametrize("variant", PUBLISHED)
@pytest.mark.parametrize("side", [67, 96])
def test_outputs_equal_a_float64_forward_pass(variant, side):
    row = small(variant)
    tensors = random_tensors(row, side)
    model = build(row, input_shape=(side, side, 3), classes=7)
    load_tensors(model, tensors, "the test")
    image = np.random.default_rng(1).normal(0, 20, (side, side, 3)).astype(np.float32)
    given = model.predict(image[None], verbose=0)[0]
    assert np.ptp(given) > 0.01
    # 2012 halves the outputs of fc6 and fc7 at test time (section 4.2).
    halved = dict(tensors)
    if variant in TOWERS:
        halved["fc7/kernel"] = tensors["fc7/kernel"] / 2
        halved["fc8/kernel"] = tensors["fc8/kernel"] / 2
    expected = softmax(forward(variant, halved, image)["fc8"])
    np.testing.assert_allclose(given, expected, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("variant", PUBLISHED)
def test_each_deviation_of_a_row_tells_in_its_outputs(variant):
    """Else the test above would not see a net built as another row."""
    side, answers = 67, {}
    for name in PUBLISHED:
        row = small(name)
        if row.kernel_shapes() != small(variant).kernel_shapes():
            continue
        tensors = random_tensors(small(variant), 96)
        image = np.random.default_rng(1).normal(0, 20, (side, side, 3))
        tensors = {key: value for key, value in tensors.items() if key.startswith("conv")}
        answers[name] = forward(name, tensors, image)["pool5"]
    mine = answers.pop(variant)
    for other in answers.values():
        assert other.shape != mine.shape or np.abs(other - mine).max() > 0.01 * np.abs(mine).max()


# Standard deviation of kernels and value of biases, from the sources named in variants.py.
INITIAL = {
    "alexnet": {"conv2": (0.01, 1), "conv3": (0.01, 0), "fc7": (0.01, 1), "fc8": (0.01, 0)},
    "paper": {"conv2a": (0.01, 1), "conv3b": (0.01, 0), "fc7a": (0.01, 1), "fc8": (0.01, 0)},
    "release": {"conv2a": (0.01, 1), "conv3b": (0.03, 0), "conv5a": (0.03, 1), "fc6b": (0.01, 1)},
    "caffe": {"conv2": (0.01, 0.1), "conv3": (0.01, 0), "fc6": (0.005, 0.1), "fc8": (0.01, 0)},
    "caffenet": {"conv4": (0.01, 1), "conv1": (0.01, 0), "fc7": (0.005, 1), "fc8": (0.01, 0)},
}


@pytest.mark.parametrize("variant", INITIAL)
def test_initial_weights_are_the_published_ones(variant):
    model = published(variant)
    for name, (deviation, value) in INITIAL[variant].items():
        kernel, bias = model.get_layer(name).get_weights()
        assert abs(kernel.std() / deviation - 1) < 0.02
        assert abs(kernel.mean()) < 0.02 * deviation
        np.testing.assert_array_equal(bias, np.float32(value))


def test_torchvision_starts_like_a_pytorch_layer():
    # torch.nn.Conv2d: even in +-1 / sqrt(fan in), for biases too; the deviation is limit / sqrt(3).
    kernel, bias = published("torchvision").get_layer("conv3").get_weights()
    limit = np.float32(1 / np.sqrt(192 * 9))  # as the weights are: one may be the limit itself
    assert np.abs(kernel).max() <= limit
    assert np.abs(bias).max() <= limit
    assert abs(kernel.std() / (limit / np.sqrt(3)) - 1) < 0.01


def test_without_the_top_any_size_goes_in_and_pooling_is_honoured():
    images = np.zeros((1, 96, 80, 3), np.float32)
    shape = {"include_top": False, "input_shape": (None, None, 3)}
    assert AlexNet(**shape)(images).shape == (1, 2, 1, 256)
    assert AlexNet(**shape, pooling="avg")(images).shape == (1, 256)
    assert AlexNet(**shape, pooling="max")(images).shape == (1, 256)


def test_an_input_tensor_becomes_the_start_of_the_graph():
    pixels = keras.Input((64, 64, 3))
    model = AlexNet(input_tensor=keras.layers.Rescaling(1 / 255)(pixels), classes=3)
    assert model(np.zeros((2, 64, 64, 3), np.float32)).shape == (2, 3)
    assert "rescaling" in model.layers[1].name


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_policies_keep_normalization_and_softmax_in_float32(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = build(small("alexnet"), input_shape=(64, 64, 3), classes=3)
        answer = model(np.ones((2, 64, 64, 3), np.float32))
    finally:
        keras.config.set_dtype_policy("float32")
    assert answer.dtype == "float32"
    np.testing.assert_allclose(np.sum(answer, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_saved_net_comes_back_the_same(variant, tmp_path):
    model = build(small(variant), input_shape=(64, 64, 3), classes=3)
    model.save(tmp_path / "net.keras")
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    again = keras.models.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(again(images), model(images))


OPTIONS = {"input_shape": (80, 80, 3), "classes": 3, "width": 0.1}


def layers_of(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


@pytest.mark.parametrize("variant", PUBLISHED)
def test_batch_normalization_stands_behind_all_convolutions_and_lrn_nowhere(variant):
    model = AlexNet(variant=variant, normalization="batch", **OPTIONS)
    towers = 2 if variant in TOWERS else 1
    names = [layer.name for layer in model.layers]
    batch = layers_of(model, keras.layers.BatchNormalization)
    assert len(batch) == 5 * towers
    for layer in batch:
        assert layer.synchronized  # else each device of a strategy keeps statistics of its own
        number = layer.name.removeprefix("norm")
        convolution = model.get_layer(f"conv{number}")
        assert layer.input is convolution.output
        assert (convolution.activation.__name__, convolution.use_bias) == ("linear", False)
    assert not [name for name in names if "spatial" in name]
    images = np.random.default_rng(0).normal(size=(4, 80, 80, 3)).astype(np.float32)
    assert np.isfinite(model(images, training=True)).all()


@pytest.mark.parametrize("variant", PUBLISHED)
def test_normalization_can_be_left_out_or_put_in(variant):
    without = AlexNet(variant=variant, normalization=None, **OPTIONS)
    assert not [layer for layer in without.layers if "norm" in layer.name]
    with_lrn = AlexNet(variant=variant, normalization="lrn", **OPTIONS)
    assert [layer for layer in with_lrn.layers if layer.name.startswith("norm1")]


@pytest.mark.parametrize("variant", PUBLISHED)
def test_pools_without_overlap_give_the_same_sizes(variant):
    # Paper, section 3.4: "which produces output of equivalent dimensions".
    model = AlexNet(variant=variant, overlapping_pooling=False, width=0.05)
    pools = layers_of(model, keras.layers.MaxPooling2D)
    assert {layer.pool_size for layer in pools} == {(2, 2)}
    for layer in pools:
        assert layer.output.shape[:3] == published(variant).get_layer(layer.name).output.shape[:3]


@pytest.mark.parametrize("variant", PUBLISHED)
def test_a_residual_net_adds_the_inputs_of_conv4_and_conv5_before_the_activation(variant):
    model = AlexNet(variant=variant, residual=True, include_top=False, **OPTIONS)
    plain = AlexNet(variant=variant, include_top=False, **OPTIONS)
    letter = "a" if variant in TOWERS else ""
    add, convolution = model.get_layer(f"add4{letter}"), model.get_layer(f"conv4{letter}")
    assert convolution.activation.__name__ == "linear"
    sources = [tensor._keras_history.operation.name for tensor in add.input]
    projected = VARIANTS[variant].filters[2] != VARIANTS[variant].filters[3]
    before = f"shortcut4{letter}" if projected else f"conv3{letter}"
    assert sources == [before, f"conv4{letter}"]
    assert model.get_layer(f"relu4{letter}").input is add.output
    projections = layers_of(model, keras.layers.Conv2D)
    extra = sum(layer.count_params() for layer in projections if "shortcut" in layer.name)
    assert model.count_params() == plain.count_params() + extra > plain.count_params()


@pytest.mark.parametrize("variant", PUBLISHED)
def test_width_dropout_and_activation_reach_every_layer(variant):
    model = AlexNet(variant=variant, activation="tanh", dropout=0.2, **{**OPTIONS, "width": 0.5})
    towers = 2 if variant in TOWERS else 1
    filters = VARIANTS[variant].filters
    first = model.get_layer("conv1a" if towers == 2 else "conv1")
    assert first.filters == filters[0] // 2 // towers
    assert model.get_layer("fc6a" if towers == 2 else "fc6").units == 2048 // towers
    assert {layer.rate for layer in layers_of(model, keras.layers.Dropout)} == {0.2}
    used = {layer.activation.__name__ for layer in model.layers if hasattr(layer, "activation")}
    assert used == {"tanh", "softmax"} | ({"linear"} if variant == "release" else set())


def test_2012_drops_without_scaling_and_the_others_scale_in_training():
    for variant in PUBLISHED:
        kinds = {
            type(layer)
            for layer in layers_of(AlexNet(variant=variant, **OPTIONS), keras.layers.Dropout)
        }
        assert kinds == {ClassicDropout if variant in TOWERS else keras.layers.Dropout}


def test_torchvision_drops_inputs_and_the_others_outputs():
    # torchvision/models/alexnet.py: Dropout, Linear, ReLU; paper, section 4.2: hidden outputs.
    for variant in PUBLISHED:
        names = [layer.name for layer in AlexNet(variant=variant, **OPTIONS).layers]
        letter = "a" if variant in TOWERS else ""
        before = names.index(f"drop6{letter}") < names.index(f"fc6{letter}")
        assert before == (variant == "torchvision")


@pytest.mark.parametrize("given", ["CPU:1", "cpu:1", "/CPU:1", "/device:CPU:1"])
def test_devices_may_be_written_in_every_way_that_tensorflow_does(given):
    full = tf.config.list_logical_devices("CPU")[0].name
    model = AlexNet(variant="paper", tower_devices=(full, given), **OPTIONS)
    assert model.get_layer("conv1b").kernel.value.device.endswith("CPU:1")


@pytest.mark.parametrize("variant", PUBLISHED)
@pytest.mark.parametrize("overlapping", [True, False])
def test_the_smallest_input_is_told_and_works(variant, overlapping):
    options = {"variant": variant, "overlapping_pooling": overlapping, "width": 0.05}
    row = with_options(VARIANTS[variant], overlapping_pooling=overlapping)
    side = row.smallest_input()
    model = AlexNet(input_shape=(side, side, 3), include_top=False, **options)
    assert model.get_layer("pool5").output.shape[1:3] == (1, 1)
    with pytest.raises(UserError, match=f"at least {side}x{side} px"):
        AlexNet(input_shape=(side - 1, 80, 3), include_top=False, **options)


def test_the_modern_net_has_five_convolutions_an_average_and_the_parameters_worked_out_by_hand():
    assert set(VARIANTS) == {*PUBLISHED, "modern"}
    model = AlexNet(variant="modern", classes=200)
    shapes = {layer.name: layer.output.shape[1:] for layer in model.layers}
    assert model.input_shape == (None, 64, 64, 3)
    expected = {"conv1": (32, 32, 48), "pool1": (15, 15, 48), "conv2": (15, 15, 128)}
    expected |= {"pool2": (7, 7, 128), "conv3": (7, 7, 256), "conv4": (7, 7, 256)}
    expected |= {"conv5": (7, 7, 256), "average": (256,), "fc8": (200,)}
    assert {name: shapes[name] for name in expected} == expected
    kernels = 25 * 3 * 48 + 9 * (48 * 128 + 128 * 256 + 256 * 256 + 256 * 256)
    normalization = 4 * (48 + 128 + 3 * 256)
    assert model.count_params() == kernels + normalization + 256 * 200 + 200


@pytest.mark.parametrize("side", [33, 64])
def test_the_modern_net_equals_a_float64_forward_pass(side):
    row = small("modern")
    model = build(row, input_shape=(side, side, 3), classes=7)
    rng = np.random.default_rng(0)
    tensors = {}
    for layer in model.layers:
        for variable in layer.weights:
            value = rng.normal(0, 0.3, variable.shape).astype(np.float32)
            if variable.name in ("gamma", "moving_variance"):
                value = 0.5 + np.abs(value)
            tensors[f"{layer.name}/{variable.name}"] = value
    load_tensors(model, tensors, "the test")
    image = rng.normal(0, 1, (side, side, 3)).astype(np.float32)
    given = model.predict(image[None], verbose=0)[0]
    assert np.ptp(given) > 0.01
    np.testing.assert_allclose(given, softmax(forward_modern(tensors, image)), rtol=2e-4, atol=1e-6)


def test_the_modern_net_takes_any_size_with_its_top_too():
    model = AlexNet(variant="modern", classes=3, width=0.1, input_shape=(None, None, 3))
    for shape in ((1, 13, 13, 3), (1, 40, 56, 3)):
        assert model(np.zeros(shape, np.float32)).shape == (1, 3)
    assert VARIANTS["modern"].smallest_input() == 13
    with pytest.raises(UserError, match="at least 13x13 px"):
        AlexNet(variant="modern", input_shape=(12, 80, 3))


def test_the_modern_net_has_no_hidden_layers_to_drop_from():
    with pytest.raises(UserError, match="dropout=0.3 belongs to fc6 and fc7.*'modern'"):
        AlexNet(variant="modern", dropout=0.3)


@pytest.mark.parametrize("variant", TOWERS)
def test_towers_on_two_devices_run_there_and_give_what_one_device_gives(variant):
    row, devices = small(variant), ("CPU:0", "CPU:1")
    one = build(row, input_shape=(67, 67, 3), classes=7)
    two = build(row, input_shape=(67, 67, 3), classes=7, tower_devices=devices)
    for net in (one, two):
        load_tensors(net, random_tensors(row, 67), "the test")
    images = np.random.default_rng(0).normal(0, 20, (3, 67, 67, 3)).astype(np.float32)
    np.testing.assert_allclose(two(images), one(images), atol=1e-6)
    for layer in two.layers:
        if layer.name.endswith(("a", "b")) and layer.name not in ("image",):
            device = devices["ab".index(layer.name[-1])]
            assert all(weight.value.device.endswith(device) for weight in layer.weights), layer.name
            output = keras.Model(two.input, layer.output)(images)
            assert output.device.endswith(device), layer.name

    def step(net):
        @tf.function
        def gradients(images):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(net(images, training=False) ** 2)
            return tape.gradient(loss, net.trainable_variables)

        return gradients

    for given, expected in zip(step(two)(images), step(one)(images), strict=True):
        np.testing.assert_allclose(given, expected, atol=1e-5 * np.abs(expected).max())
    graph = step(two).get_concrete_function(images).graph
    layers = {layer.name for layer in two.layers if layer.name.endswith(("a", "b"))}
    checked = Counter()
    for op in graph.get_operations():
        if not op.type.startswith(("Conv2D", "LRN", "MaxPool", "MatMul", "Relu")):
            continue
        # An operation's name has its layer's in it, the gradient's behind "gradient_tape".
        owners = {re.sub(r"_\d+$", "", part) for part in op.name.split("/")} & layers
        if owners:
            (owner,) = owners
            assert op.device.endswith(devices["ab".index(owner[-1])]), op.name
            checked["gradient_tape" in op.name, owner[-1]] += 1
    # conv1 to conv5, fc6 and fc7 with their ReLU; two products for each in the gradient.
    assert checked[False, "a"] == checked[False, "b"] >= 14
    assert checked[True, "a"] == checked[True, "b"] >= 21


def test_towers_cannot_be_placed_where_a_strategy_places_whole_nets():
    devices = ("CPU:0", "CPU:1")
    reduction = tf.distribute.ReductionToOneDevice()
    with (
        tf.distribute.MirroredStrategy(devices, cross_device_ops=reduction).scope(),
        pytest.raises(UserError, match="MirroredStrategy.*Leave tower_devices out"),
    ):
        AlexNet(variant="paper", tower_devices=devices, **OPTIONS)


@pytest.mark.parametrize("variant", TOWERS)
def test_towers_meet_only_before_conv3_and_the_fully_connected_layers(variant):
    net = build(small(variant), input_shape=(67, 67, 3), classes=7)
    tower = {layer.name: layer.name[-1] for layer in net.layers}
    crossing = set()
    for layer in net.layers[1:]:
        for tensor in keras.tree.flatten(layer.input):
            source = tensor._keras_history.operation.name
            mine, theirs = tower[layer.name], tower[source]
            if mine in "ab" and theirs in "ab" and mine != theirs:
                crossing.add((source, layer.name))
    assert crossing == set()
    joins = {layer.name for layer in layers_of(net, keras.layers.Concatenate)}
    assert joins == {"pool2", "pool5", "join6", "join7"}


def test_a_net_on_two_devices_trains_and_is_saved_without_them(tmp_path):
    keras.utils.set_random_seed(0)
    # The published initialization moves too little in one step of so small a net.
    row = small("paper", initialization="he")
    net = build(row, input_shape=(67, 67, 3), classes=3, tower_devices=("CPU:0", "CPU:1"))
    net.compile("sgd", "sparse_categorical_crossentropy")
    images = np.random.default_rng(0).normal(size=(4, 67, 67, 3)).astype(np.float32)
    before = net.get_layer("conv1b").kernel.numpy()
    net.fit(images, np.arange(4) % 3, batch_size=2, verbose=0)
    assert np.abs(net.get_layer("conv1b").kernel.numpy() - before).max() > 0
    net.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    np.testing.assert_allclose(again(images), net(images), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"variant": "vgg"}, ["'vgg'", "alexnet", "torchvision"]),
        ({"weights": "nowhere.npz"}, ["nowhere.npz"]),
        ({"input_shape": (62, 64, 3)}, ["63", "62x64"]),
        ({"input_shape": (None, None, 3)}, ["include_top=False"]),
        ({"include_top": False, "pooling": "median"}, ["'median'", "'avg'"]),
        ({"pooling": "avg"}, ["include_top=False"]),
        ({"classes": 0}, ["classes=0"]),
        ({"normalization": "layer"}, ["'layer'", "'batch'"]),
        ({"dropout": 1.0}, ["dropout=1.0", "less than 1"]),
        ({"dropout": 0.2, "include_top": False}, ["dropout=0.2", "include_top=True"]),
        ({"width": 0}, ["width=0", "more than 0"]),
        ({"tower_devices": ("CPU:0", "CPU:1")}, ["'paper'", "Leave it out"]),
        ({"variant": "paper", "tower_devices": ("CPU:0", "GPU:7")}, ["'GPU:7'", "CPU:1"]),
        ({"variant": "paper", "tower_devices": ("CPU:0",)}, ["each of the 2", "'CPU:0'"]),
        ({"variant": "paper", "tower_devices": (0, 1)}, ["no device 0", "CPU:1"]),
    ],
)
def test_bad_arguments_are_named_with_what_to_do(arguments, words):
    with pytest.raises(ValueError) as caught:
        AlexNet(**arguments)
    assert isinstance(caught.value, UserError)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.reference
def test_the_net_builds_and_runs_on_jax():
    pytest.importorskip("jax")
    code = (
        "import keras, numpy as np; assert keras.backend.backend() == 'jax'\n"
        "from alexnet_keras.alexnet import AlexNet\n"
        "for variant in ('torchvision', 'release', 'caffe'):\n"
        "    model = AlexNet(variant=variant, input_shape=(64, 64, 3), classes=3, width=0.1)\n"
        "    answer = model.predict(np.ones((2, 64, 64, 3), np.float32), verbose=0)\n"
        "    assert answer.shape == (2, 3) and abs(answer.sum() - 2) < 1e-5\n"
    )
    environment = {**__import__("os").environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
