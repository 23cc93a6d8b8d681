from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest

from alexnet_keras import AlexNet, UserError
from alexnet_keras.alexnet import VARIANTS, build
from alexnet_keras.evaluation import answers
from alexnet_keras.feature_extraction import features
from alexnet_keras.serving import net as net_module
from alexnet_keras.serving.net import served_net
from alexnet_keras.transfer import HeadShape, build_classifier
from alexnet_keras.weights import PREPROCESSING, InputPreprocessing
from served_model import SIDE, small_classifier


def pixels(count=3, side=SIDE):
    return np.random.default_rng(5).uniform(0, 255, (count, side, side, 3)).astype(np.float32)


def narrow(variant):
    keras.utils.set_random_seed(0)
    row = replace(VARIANTS[variant], filters=(8, 8, 8, 8, 8), hidden_units=(16, 16))
    image = keras.Input((SIDE, SIDE, 3))
    preprocessing = InputPreprocessing.of(PREPROCESSING[row.preprocessing])
    model = build(row, input_tensor=preprocessing(image), classes=3)
    rng = np.random.default_rng(1)
    for variable in model.weights:
        value = rng.normal(0, 0.15, variable.shape)
        variable.assign(np.abs(value) if variable.name == "moving_variance" else value)
    return model


def folds(model):
    both = features(model, ["fc8"])
    folded = net_module._Folded(both, net_module.preprocessing_of(both))
    return folded.gives(pixels(), "fc8", np.asarray(both(pixels())["fc8"]))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("constant", [False, True])
def test_what_is_served_is_the_model(variant, mirrored, constant):
    model = narrow(variant)
    net = served_net(model, mirrored=mirrored, constant=constant)
    found = net.function(pixels())["probabilities"]
    expected = np.asarray(answers(model, pixels(), mirrored))
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert folds(model)  # else nothing was arranged
    assert constant == (not net.variables)


@pytest.mark.parametrize("head", ["fc", "pooled", "bilinear"])
def test_every_head_is_served(head):
    model = small_classifier(head)
    net = served_net(model)
    found = net.function(pixels())
    np.testing.assert_allclose(found["probabilities"], model(pixels()), atol=1e-5)
    assert net.embedding == ("fc7" if head == "fc" else "pool5")
    np.testing.assert_allclose(np.linalg.norm(found["embedding"], axis=1), 1, atol=1e-5)


def test_an_alexnet_with_its_own_classes_is_served_with_its_preprocessing():
    model = AlexNet(classes=4, input_shape=(SIDE, SIDE, 3), variant="caffe", width=0.1)
    net = served_net(model)
    prepared = PREPROCESSING["caffe"].apply(pixels())
    np.testing.assert_allclose(net.function(pixels())["probabilities"], model(prepared), atol=1e-5)
    assert net.classes == 4


class TestEmbeddings:
    def test_are_a_layers_activations_at_unit_length(self):
        model = narrow("caffe")
        expected = np.array(features(model, ["fc6"])(pixels())["fc6"])
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        found = served_net(model, embedding="fc6", mirrored=True).function(pixels())["embedding"]
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_of_both_towers_are_side_by_side(self):
        model = narrow("paper")
        fc7 = features(model, ["fc7"])(pixels())["fc7"]
        found = served_net(model).function(pixels())["embedding"]
        assert found.shape == fc7.shape
        expected = np.asarray(fc7) / np.linalg.norm(fc7, axis=1, keepdims=True)
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_of_a_bilinear_head_are_the_pool5_that_it_does_without(self):
        model = small_classifier("bilinear")
        plain = small_classifier("pooled")
        plain.get_layer("conv5").set_weights(model.get_layer("conv5").get_weights())
        maps = np.asarray(features(plain, ["pool5"])(pixels())["pool5"]).mean((1, 2))
        maps /= np.linalg.norm(maps, axis=1, keepdims=True)
        found = served_net(model).function(pixels())["embedding"]
        np.testing.assert_allclose(found, maps, atol=1e-5)

    @pytest.mark.parametrize("cut", ["conv4", "conv3"])
    def test_of_a_net_that_is_cut_earlier_are_its_last_maps(self, cut):
        shape = HeadShape(cut=cut)
        model = build_classifier(
            3, variant="torchvision", image_size=SIDE, head="bilinear", shape=shape
        ).model
        net = served_net(model)
        maps = np.asarray(features(model, [cut])(pixels())[cut]).mean((1, 2))
        maps /= np.linalg.norm(maps, axis=1, keepdims=True)
        assert net.embedding == cut
        np.testing.assert_allclose(net.function(pixels())["embedding"], maps, atol=1e-5)

    def test_of_no_layer_are_refused_with_those_there_are(self):
        with pytest.raises(UserError, match="no layer 'fc9' for embeddings; its .*conv1"):
            served_net(narrow("caffe"), embedding="fc9")


def test_another_layer_that_sees_three_channels_is_left_alone():
    model = small_classifier("fc")
    given = model.input
    x = keras.layers.Conv2D(3, 1, name="colours")(model.get_layer("preprocessing").output)
    x = keras.layers.Conv2D(4, 5, 4, name="other")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool5")(x)
    odd = keras.Model(given, keras.layers.Dense(3, "softmax", name="fc8")(x))
    assert not folds(odd)
    found = served_net(odd).function(pixels())["probabilities"]
    np.testing.assert_allclose(found, odd(pixels()), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"input_shape": (None, None, 3), "include_top": False}, "squares of RGB pixels"),
        ({"input_shape": (SIDE, SIDE, 3), "include_top": False}, r"probabilities \(batch, classes"),
    ],
)
def test_what_is_no_classifier_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        served_net(AlexNet(**options))


def test_what_gives_no_probabilities_is_refused():
    logits = AlexNet(classes=3, input_shape=(SIDE, SIDE, 3), classifier_activation=None, width=0.1)
    with pytest.raises(UserError, match="add up to 1; those of this one add up to"):
        served_net(logits)
    lost = narrow("caffe")
    lost.get_layer("fc8").bias.assign([np.nan] * 3)
    with pytest.raises(UserError, match="add up to nan"):
        served_net(lost)
