"""What a bank gives and a tail makes of it is what the whole classifier gives."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from alexnet_keras.evaluation import evaluate
from alexnet_keras.transfer import Choices, FeatureCache, build_readings, split_model
from alexnet_keras.transfer.cutting import NothingBelow
from alexnet_keras.tuning import FeatureBank
from small_search import SIDE, write_trunk

HEADS = [
    {"head": "bilinear"},
    {"head": "bilinear", "paired": 1},
    {"head": "bilinear", "cut": "conv4", "paired": 2, "dropout": 0.3},
    {"head": "bilinear", "cut": "conv3"},
    {"head": "pooled"},
    {"head": "pooled", "cut": "conv4", "hidden_units": 7},
    {"head": "pooled", "cut": "conv3", "dropout": 0.2},
]


@pytest.fixture
def source(narrow, tmp_path):
    return {"weights": write_trunk(tmp_path / "trunk.npz"), "variant": "torchvision"}


@pytest.fixture
def bank(source, tmp_path):
    return FeatureBank(
        build_readings(image_size=SIDE, **source), FeatureCache(tmp_path / "cache"), 8, "float32"
    )


def built(source, classes=2, **choices):
    found = Choices(image_size=SIDE, **choices).build(classes, **source)
    rng = np.random.default_rng(1)
    fc8 = found.model.get_layer("fc8")
    fc8.kernel.assign(rng.normal(0, 0.3, fc8.kernel.shape))
    return found


@pytest.mark.parametrize("choices", HEADS)
def test_a_tail_on_the_bank_is_the_classifier(bank, source, choices):
    found = built(source, **choices)
    first = next(
        layer.name
        for layer in found.model.layers
        if layer.weights and layer.name not in found.loaded.loaded
    )
    trunk, tail, part = bank.cut(found.model, first)
    assert trunk is bank.model
    pixels = np.random.default_rng(0).uniform(0, 255, (3, SIDE, SIDE, 3)).astype("f4")
    np.testing.assert_allclose(tail(trunk(pixels)[:, part]), found.model(pixels), atol=1e-5)
    # The layers themselves, not copies: what the tail learns, the classifier knows.
    assert tail.get_layer("fc8") is found.model.get_layer("fc8")
    assert not [layer for layer in tail.layers if layer.name.startswith("conv")]
    assert tail.input_shape[1] < trunk.output_shape[1]  # no more is read than the head takes


@pytest.mark.parametrize("choices", HEADS[::3])
def test_answers_from_the_bank_are_those_from_pixels(bank, source, folds, choices):
    found = built(source, **choices)
    validation = folds[0].validation
    first = "head_norm" if choices["head"] == "pooled" else "fc8"
    for mirrored in (False, True):
        expected = evaluate(found.model, validation, mirrored=mirrored)
        given = bank.evaluate(found.model, first, validation, mirrored)
        # float16 in between.
        np.testing.assert_allclose(given.probabilities, expected.probabilities, atol=5e-3)
        np.testing.assert_array_equal(given.labels, expected.labels)


def test_without_room_the_whole_net_answers(source, folds, tmp_path):
    cache = FeatureCache(tmp_path / "cache", most_bytes=0)
    full = FeatureBank(build_readings(image_size=SIDE, **source), cache, 8, "float32")
    found, validation = built(source, head="pooled"), folds[0].validation
    expected = evaluate(found.model, validation)
    given = full.evaluate(found.model, "head_norm", validation, False)
    np.testing.assert_allclose(given.probabilities, expected.probabilities, atol=1e-6)


def test_heads_of_all_kinds_share_one_set(bank, source, folds, tmp_path):
    for choices in HEADS:
        first = "head_norm" if choices["head"] == "pooled" else "fc8"
        bank.evaluate(built(source, **choices).model, first, folds[0].validation, False)
    (stored,) = FeatureCache(tmp_path / "cache").sets()
    assert stored.outputs == len(folds[0].validation)


def test_what_lies_below_the_head_is_cut_as_always(bank, source):
    model = built(source, head="bilinear").model
    trunk, _, part = bank.cut(model, "conv5")
    expected, _ = split_model(model, "conv5")
    assert trunk.output_shape == expected.output_shape
    assert trunk is not bank.model and part == slice(None)
    with pytest.raises(NothingBelow):
        bank.cut(model, "conv1")
    fc = built(source, head="fc").model
    assert bank.cut(fc, "fc6")[0].output_shape == split_model(fc, "fc6")[0].output_shape
    keras.backend.clear_session()
