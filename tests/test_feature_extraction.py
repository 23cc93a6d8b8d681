"""Activations of named layers, for people who measure with the net."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from alexnet_keras import AlexNet, UserError, features
from alexnet_keras.transfer import build_classifier
from alexnet_keras.weights import PREPROCESSING, from_pixels
from numpy_alexnet import forward

CONVOLUTIONS = ["conv1", "conv2", "conv3", "conv4", "conv5"]


def pixels(count=2, side=80):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.mark.reference
@pytest.mark.real_data
def test_the_shared_trunk_gives_pytorchs_activations_at_all_convolutions(
    torchvision_trunk, flower_photos
):
    pytest.importorskip("torch")
    from PIL import Image

    from torch_alexnet import TorchAlexNet

    photographs = sorted(flower_photos.glob("*/*.jpg"))[:: 2934 // 4][:4]
    images = np.stack(
        [np.asarray(Image.open(p).convert("RGB").resize((224, 224))) for p in photographs]
    )
    model = AlexNet(include_top=False, weights=torchvision_trunk)
    given = features(model, [*CONVOLUTIONS, "pool5"]).predict(images, verbose=0)
    with np.load(torchvision_trunk) as archive:
        reference = TorchAlexNet().load_trunk(dict(archive))
    mean, std = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
    expected = reference.activations(((images / 255 - mean) / std).astype(np.float32))
    assert set(given) == {*CONVOLUTIONS, "pool5"}
    for name, value in given.items():
        assert np.abs(value - expected[name]).max() <= 1e-5 * np.abs(expected[name]).max(), name


@pytest.mark.parametrize("variant", ["paper", "caffe"])
def test_features_are_those_of_a_float64_forward_pass_from_pixels(variant):
    model = AlexNet(variant=variant, include_top=False, input_shape=(80, 80, 3), width=0.1)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.1, w.shape) for w in model.get_weights()])
    tensors = {}
    for number in range(1, 6):
        for variable in ("kernel", "bias"):
            names = ["", "a", "b"]
            parts = [
                getattr(model.get_layer(f"conv{number}{name}"), variable)
                for name in names
                if f"conv{number}{name}" in [layer.name for layer in model.layers]
            ]
            tensors[f"conv{number}/{variable}"] = np.concatenate(parts, axis=-1)
    given = features(model, ["conv1", "conv4", "pool2"])(pixels())
    mean = 255 * np.array((0.485, 0.456, 0.406))
    if variant == "caffe":
        mean = np.array((104.00698793, 116.66876762, 122.67891434))
    images = pixels()[..., ::-1] if variant == "caffe" else pixels()
    for index, image in enumerate(images):
        expected = forward(variant, tensors, image - mean)
        for name, value in given.items():
            scale = np.abs(expected[name]).max()
            assert np.abs(value[index] - expected[name]).max() < 1e-5 * scale, name


def test_a_classifier_is_measured_through_the_preprocessing_that_it_has():
    built = build_classifier(3, image_size=80)
    measured = features(built.model, "pool5")
    inner = keras.Model(built.model.input, built.model.get_layer("pool5").output)
    np.testing.assert_array_equal(measured(pixels())["pool5"], inner(pixels()))


def test_layers_are_found_behind_a_preprocessing_too():
    model = AlexNet(variant="caffe", include_top=False, input_shape=(80, 80, 3), width=0.05)
    expected = features(model, "conv5")(pixels())["conv5"]
    whole = from_pixels(model)
    np.testing.assert_array_equal(features(whole, "conv5")(pixels())["conv5"], expected)


def test_a_net_that_was_saved_without_its_preprocessing_says_how_to_get_it(tmp_path):
    AlexNet(include_top=False, input_shape=(80, 80, 3), width=0.05).save(tmp_path / "net.keras")
    loaded = keras.models.load_model(tmp_path / "net.keras")
    with pytest.raises(UserError, match="records no preprocessing.*AlexNet\\(weights="):
        features(loaded, "conv1")
    loaded.preprocessing = PREPROCESSING["paper"]
    assert features(loaded, "conv1")(pixels())["conv1"].shape == (2, 19, 19, 4)


def test_weights_are_shared_and_any_size_goes_in_without_the_top():
    model = AlexNet(include_top=False, input_shape=(None, None, 3), width=0.05)
    measured = features(model, ["conv1", "norm2"])
    assert measured(pixels(1, 64))["conv1"].shape == (1, 15, 15, 4)
    model.get_layer("conv1").kernel.assign(np.zeros((11, 11, 3, 4)))
    assert np.ptp(measured(pixels(1, 96))["conv1"]) == 0


def test_features_are_saved_with_their_preprocessing(tmp_path):
    model = AlexNet(variant="torchvision", input_shape=(80, 80, 3), width=0.05)
    measured = features(model, ["conv5", "fc7"])
    measured.save(tmp_path / "features.keras")
    again = keras.models.load_model(tmp_path / "features.keras")
    for name, value in again(pixels()).items():
        np.testing.assert_array_equal(value, measured(pixels())[name])


def test_layers_that_are_not_there_are_named():
    model = AlexNet(include_top=False, input_shape=(80, 80, 3), width=0.05)
    with pytest.raises(UserError, match="no layer 'fc6'; its layers are .*conv1.*pool5"):
        features(model, ["conv1", "fc6"])
    with pytest.raises(UserError, match="No layer is named; name some of"):
        features(model, [])
