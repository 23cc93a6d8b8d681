from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from alexnet_keras.alexnet import AlexNet
from alexnet_keras.errors import UserError
from alexnet_keras.training import net
from alexnet_keras.training.net import build_net, make_repeatable
from alexnet_keras.variants import VARIANTS
from alexnet_keras.weights import PREPROCESSING, InputPreprocessing, preprocessing_of

PIXELS = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype(np.float32)
SMALL = {"image_size": 64, "width": 1 / 32}


def kernels(model):
    return {
        variable.path.rpartition("/")[0].rpartition("/")[2]: variable.numpy()
        for variable in model.trainable_variables
        if variable.path.endswith("/kernel")
    }


@pytest.mark.parametrize("variant", ["paper", "caffe"])
def test_the_net_is_alexnet_behind_its_preprocessing(variant):
    model = build_net(5, variant=variant, **SMALL)
    alone = AlexNet(variant=variant, classes=5, input_shape=(64, 64, 3), width=1 / 32)
    assert [v.shape for v in model.weights] == [v.shape for v in alone.weights]
    alone.set_weights(model.get_weights())
    convention = PREPROCESSING[VARIANTS[variant].preprocessing]
    inputs = (PIXELS.astype(np.float64) - convention.mean) / convention.std
    if convention.channels == "BGR":
        inputs = inputs[..., ::-1]
    given, expected = model(PIXELS).numpy(), alone(inputs.astype(np.float32)).numpy()
    np.testing.assert_allclose(given, expected, atol=1e-6)
    np.testing.assert_allclose(given.sum(1), 1, rtol=1e-5)
    assert preprocessing_of(model) == convention


def test_the_variants_own_size_is_taken_where_none_is_given():
    assert build_net(2, variant="caffe", width=1 / 32).input_shape == (None, 227, 227, 3)
    assert build_net(2, variant="caffe", **SMALL).input_shape == (None, 64, 64, 3)


@pytest.mark.parametrize(("normalization", "layers"), [("batch", 5), (None, 0)])
def test_normalization_is_ones_own_choice(normalization, layers):
    model = build_net(2, variant="alexnet", normalization=normalization, **SMALL)
    found = [layer for layer in model.layers if layer.name.startswith("norm")]
    assert len(found) == layers
    assert all(isinstance(layer, keras.layers.BatchNormalization) for layer in found)


def test_as_by_he_weights_keep_the_variance():
    options = {"variant": "alexnet", "image_size": 64, "width": 1 / 4}
    he, published = build_net(3, he=True, **options), build_net(3, **options)
    for name, kernel in kernels(he).items():
        # The classifier begins near even odds.
        expected = 0.01 if name == "fc8" else np.sqrt(2 / np.prod(kernel.shape[:-1]))
        # A twentieth more than the error of a standard deviation of so many.
        room = 0.05 + 4 / np.sqrt(2 * kernel.size)
        assert kernel.std() == pytest.approx(expected, rel=room), name
    assert all(not v.numpy().any() for v in he.trainable_variables if v.path.endswith("/bias"))
    assert preprocessing_of(he) == PREPROCESSING["torchvision"]
    assert kernels(published)["conv3"].std() == pytest.approx(0.01, rel=0.05)
    assert preprocessing_of(published) == PREPROCESSING["paper"]


def test_a_net_is_saved_with_its_preprocessing(tmp_path):
    model = build_net(2, variant="alexnet", **SMALL)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert any(isinstance(layer, InputPreprocessing) for layer in loaded.layers)
    np.testing.assert_allclose(loaded(PIXELS), model(PIXELS), atol=1e-6)


def test_images_too_small_for_the_net_are_refused():
    with pytest.raises(UserError, match="'alexnet' needs images of at least 63 px.*--image-size 4"):
        build_net(2, variant="alexnet", image_size=40)
    with pytest.raises(UserError, match="lenet"):
        build_net(2, variant="lenet")


def test_the_seed_decides_the_weights_and_kernels_are_deterministic(monkeypatch):
    asked = []
    # It cannot be taken back in this process.
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: asked.append(True))
    drawn = []
    for seed in (3, 3, 4):
        make_repeatable(seed)
        drawn.append(build_net(2, variant="alexnet", **SMALL).get_weights())
    assert asked == [True] * 3
    for first, again in zip(drawn[0], drawn[1], strict=True):
        np.testing.assert_array_equal(first, again)
    assert not np.array_equal(drawn[0][0], drawn[2][0])


def test_at_another_size_the_weights_are_the_same_ones():
    model = build_net(3, variant="modern", image_size=64, width=0.1)
    smaller = net.at_size(model, 40)
    assert net.at_size(model, 64) is model
    assert smaller.input_shape == (None, 40, 40, 3)
    assert all(a is b for a, b in zip(smaller.weights, model.weights, strict=True))
    alone = build_net(3, variant="modern", image_size=40, width=0.1)
    alone.set_weights(model.get_weights())
    pixels = PIXELS[:, :40, :40]
    np.testing.assert_allclose(smaller(pixels), alone(pixels), atol=1e-6)
    assert model(PIXELS).shape == (2, 3)


def test_the_modern_nets_own_initialization_and_preprocessing_are_hes_already():
    for he in (False, True):
        model = build_net(3, variant="modern", width=0.5, he=he)
        assert preprocessing_of(model) == PREPROCESSING["modern"]
        kernel = kernels(model)["conv4"]
        assert abs(kernel.std() / np.sqrt(2 / (9 * kernel.shape[2])) - 1) < 0.05
