"""The bilinear head, and what of a photograph a classifier is to see."""

from __future__ import annotations

import io
from dataclasses import replace

import keras
import numpy as np
import pytest
from PIL import Image

from alexnet_keras.data import Examples
from alexnet_keras.evaluation import centre_batches, evaluate
from alexnet_keras.transfer import build_classifier, classifier, plan_phases, split_model
from alexnet_keras.variants import VARIANTS
from alexnet_keras.weights import preprocessing_of

#: of 8 channels, in each of three convolutions
PAIRS = 3 * (8 * 9 // 2)


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """Variants of 8 channels a layer."""

    def row(name):
        return replace(VARIANTS[name], filters=(8, 8, 8, 8, 8), hidden_units=(8, 8))

    monkeypatch.setattr(classifier, "variant_row", row)


def built(variant="torchvision", classes=3, head="bilinear", crop="centre"):
    keras.utils.set_random_seed(0)
    return build_classifier(classes, variant=variant, head=head, crop=crop, image_size=64)


def trained(model):
    """The model with a classifier that prefers some class."""
    model.get_layer("fc8").kernel.assign(np.random.default_rng(0).normal(0, 0.05, (PAIRS, 3)))
    return model


def pixels(count=2, side=64):
    return np.random.default_rng(0).uniform(0, 255, (count, side, side, 3)).astype("float32")


@pytest.mark.parametrize(
    ("variant", "seen", "sides"),
    [
        ("alexnet", ("conv3", "conv4", "conv5"), (3, 3, 3)),
        ("torchvision", ("conv3", "conv4", "conv5"), (3, 3, 3)),
        ("caffe", ("conv3", "conv4", "conv5"), (3, 3, 3)),
        ("caffenet", ("conv3", "conv4", "conv5"), (3, 3, 3)),
        ("paper", ("conv3_maps", "conv4_maps", "conv5_maps"), (3, 3, 3)),
        # The released net pools conv5 before its activation.
        ("release", ("conv3_maps", "conv4_maps", "relu5_maps"), (3, 3, 1)),
        ("modern", ("relu3", "relu4", "relu5"), (7, 7, 7)),
    ],
)
def test_the_bilinear_head_sees_the_last_three_convolutions_activations(variant, seen, sides):
    model = built(variant).model
    for number, name, side in zip((3, 4, 5), seen, sides, strict=True):
        maps = model.get_layer(f"pairs{number}").input
        assert maps is model.get_layer(name).output
        assert maps.shape == (None, side, side, 8)
        assert np.min(keras.Model(model.input, maps)(pixels())) >= 0
    assert model.get_layer("fc8").input.shape == (None, PAIRS)
    assert model.output_shape == (None, 3)
    assert not {"fc6", "fc7", "fc6a", "flatten"} & {layer.name for layer in model.layers}


@pytest.mark.parametrize("variant", ["torchvision", "paper"])
def test_it_is_a_linear_classifier_on_products_of_channels(variant):
    model = trained(built(variant).model)
    model.get_layer("fc8").bias.assign([0.1, 0.5, -0.2])
    kernel, bias = (np.asarray(value, np.float64) for value in model.get_layer("fc8").weights)
    vectors = []
    for number in (3, 4, 5):
        maps = keras.Model(model.input, model.get_layer(f"pairs{number}").input)(pixels())
        maps = np.asarray(maps, np.float64).reshape(2, -1, 8)
        moments = np.einsum("bpi,bpj->bij", maps, maps)
        roots = np.sqrt([[m[i, j] for i in range(8) for j in range(i, 8)] for m in moments])
        vectors.append(roots / np.linalg.norm(roots, axis=1, keepdims=True))
    # All three together are 32 long.
    logits = 32 / 3**0.5 * np.concatenate(vectors, axis=1) @ kernel + bias
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.ptp(expected) > 0.2
    # The layer rounds the roots of small products down.
    np.testing.assert_allclose(model(pixels()), expected, atol=0.01)


def test_before_training_all_classes_are_equally_probable():
    model = built(classes=5).model
    np.testing.assert_allclose(model(pixels()), 0.2, rtol=1e-6)
    assert not np.asarray(model.get_layer("fc8").kernel).any()


@pytest.mark.parametrize("variant", ["torchvision", "modern"])
def test_all_below_the_bilinear_heads_fc8_is_one_trunk(variant):
    model = trained(built(variant).model)
    convolutions = [layer.name for layer in model.layers if layer.weights][:-1]
    look, phase = plan_phases(
        model,
        convolutions,
        head="bilinear",
        unfreeze_from=(),
        head_epochs=1,
        epochs=0,
        learning_rate=0.01,
    )
    assert look.trained == phase.trained == ("fc8",)
    trunk, tail = split_model(model, "fc8")
    assert trunk.layers[-1].name == "length" and trunk.output_shape == (None, PAIRS)
    np.testing.assert_allclose(tail(trunk(pixels())), model(pixels()), atol=1e-6)


def test_a_bilinear_classifier_is_saved_whole(tmp_path):
    model = trained(built().model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(pixels()), model(pixels()))


@pytest.mark.parametrize("variant", ["torchvision", "modern"])
@pytest.mark.parametrize("head", ["fc", "pooled", "bilinear"])
def test_whole_photographs_change_the_geometry_and_not_the_arithmetic(variant, head, tmp_path):
    centre, whole = (built(variant, head=head, crop=crop).model for crop in ("centre", "whole"))
    assert preprocessing_of(whole).geometry == {"resize_ratio": 1.0, "keep_aspect": False}
    assert preprocessing_of(centre).geometry["keep_aspect"]
    np.testing.assert_array_equal(whole(pixels()), centre(pixels()))
    whole.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert preprocessing_of(loaded) == preprocessing_of(whole)


def wide_photograph():
    """Smooth colours, as photographs have them: resizing noise would test only the filter."""
    coarse = Image.fromarray(np.random.default_rng(0).integers(64, 192, (6, 6, 3), dtype=np.uint8))
    image = coarse.resize((200, 120), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "PNG")
    return image, Examples(
        "wide", ("a", "b", "c"), ("0",), np.zeros(1, np.int32), [file.getvalue()]
    )


def test_a_whole_photograph_is_seen_stretched_to_a_square():
    image, examples = wide_photograph()
    stretched = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR), np.float32)
    shown = {}
    for crop in ("centre", "whole"):
        model = built(head="fc", crop=crop).model
        ((images, _),) = centre_batches(model, examples, 4)
        shown[crop] = np.asarray(images[0])
        alone = model(shown[crop][None])
        np.testing.assert_allclose(evaluate(model, examples).probabilities, alone, atol=1e-5)
    assert np.abs(shown["whole"] - stretched).mean() < 1
    assert np.abs(shown["centre"] - stretched).mean() > 3


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"head": "linear"}, "head='linear' .* 'auto', 'fc', 'pooled', 'bilinear'"),
        ({"crop": "middle"}, "crop='middle' is not one of 'centre', 'whole'"),
    ],
)
def test_an_unknown_head_or_crop_is_named_with_those_there_are(wrong, words):
    with pytest.raises(ValueError, match=words):
        build_classifier(3, **wrong)
