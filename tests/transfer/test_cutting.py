from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from alexnet_keras.alexnet import VARIANTS, build
from alexnet_keras.transfer import split_model

#: the variants with fc6 and fc7
PUBLISHED = [name for name, row in VARIANTS.items() if row.head == "fc"]


def small(variant):
    row = replace(VARIANTS[variant], filters=(4, 6, 6, 6, 4), hidden_units=(8, 8))
    return build(row, input_shape=(64, 64, 3), classes=3)


@pytest.mark.parametrize("variant", PUBLISHED)
@pytest.mark.parametrize("first_trained", ["conv4", "fc6", "fc7", "fc8"])
def test_trunk_and_tail_together_are_the_model(variant, first_trained):
    model = small(variant)
    trunk, tail = split_model(model, first_trained)
    images = np.random.default_rng(0).normal(size=(5, 64, 64, 3)).astype(np.float32)
    np.testing.assert_allclose(tail(trunk(images)), model(images), atol=1e-6)
    assert trunk.count_params() + tail.count_params() == model.count_params()


@pytest.mark.parametrize("first_trained", ["conv2", "conv3", "conv5", "fc8"])
def test_a_net_with_residual_connections_is_cut_where_one_tensor_holds_all(first_trained):
    model = small("modern")
    trunk, tail = split_model(model, first_trained)
    images = np.random.default_rng(0).normal(size=(5, 64, 64, 3)).astype(np.float32)
    np.testing.assert_allclose(tail(trunk(images)), model(images), atol=1e-6)
    assert trunk.count_params() + tail.count_params() == model.count_params()


@pytest.mark.parametrize("variant", PUBLISHED)
def test_dropout_stays_in_the_tail(variant):
    trunk, _ = split_model(small(variant), "fc7")
    # The towers' fc6 is not one tensor before its dropout.
    assert trunk.layers[-1].name == ("flatten" if VARIANTS[variant].towers == 2 else "fc6")


def test_between_towers_the_cut_lies_where_they_were_last_joined():
    for first_trained in ("conv3", "conv3b", "conv4", "conv5a"):
        trunk, _ = split_model(small("paper"), first_trained)
        assert trunk.layers[-1].name == "pool2"
    with pytest.raises(ValueError, match="before 'conv2'"):
        split_model(small("release"), "conv2")


def test_training_the_tail_trains_the_model():
    model = small("torchvision")
    _, tail = split_model(model, "fc8")
    tail.get_layer("fc8").bias.assign([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(model.get_layer("fc8").bias, [1, 2, 3])


def test_where_nothing_can_be_cut_it_says_so():
    with pytest.raises(ValueError, match="'conv7'"):
        split_model(small("alexnet"), "conv7")
    with pytest.raises(ValueError, match="before 'conv1'"):
        split_model(small("alexnet"), "conv1")
