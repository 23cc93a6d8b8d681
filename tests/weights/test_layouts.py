"""Axis orders, told by what the layers compute: the same numbers in either layout."""

from __future__ import annotations

import numpy as np
import pytest

from alexnet_keras.weights import layouts
from alexnet_keras.weights.formats.unreadable import Unreadable


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize(("channels", "side"), [(4, 6), (5, 1), (1, 3), (3, 2)])
def test_fc6_gives_for_hwc_what_it_gave_for_chw(channels, side):
    image = rng().normal(size=(channels, side, side))
    kernel = rng().normal(size=(channels * side * side, 7))
    ours = image.transpose(1, 2, 0).ravel() @ layouts.chw_rows_to_hwc(kernel, channels)
    np.testing.assert_allclose(ours, image.ravel() @ kernel, rtol=1e-12)


def test_fc6_may_be_a_transposed_view():
    kernel = rng().normal(size=(7, 16))
    expected = layouts.chw_rows_to_hwc(np.ascontiguousarray(kernel.T), 4)
    np.testing.assert_array_equal(layouts.chw_rows_to_hwc(kernel.T, 4), expected)


@pytest.mark.parametrize("channels", [3, 7, 8, 32, 0, -4])
def test_rows_that_are_no_squares_of_the_channels_are_refused(channels):
    with pytest.raises(ValueError, match=f"16 inputs .* {channels} channels"):
        layouts.chw_rows_to_hwc(np.zeros((16, 2)), channels)


def test_a_kernel_keeps_what_it_does_to_each_pixel_and_channel():
    kernel = rng().normal(size=(5, 3, 2, 4))
    turned = layouts.oihw_to_hwio(kernel)
    patch = rng().normal(size=(3, 2, 4))
    expected = np.einsum("oihw,ihw->o", kernel, patch)
    np.testing.assert_allclose(np.einsum("hwio,ihw->o", turned, patch), expected, rtol=1e-12)
    assert np.shares_memory(turned, kernel)


def test_a_dense_kernel_gives_the_same_products_without_a_copy():
    kernel, x = rng().normal(size=(5, 3)), rng().normal(size=3)
    np.testing.assert_allclose(x @ layouts.out_in_to_in_out(kernel), kernel @ x, rtol=1e-12)
    assert np.shares_memory(layouts.out_in_to_in_out(kernel), kernel)


def net(**changed):
    shapes = {"conv5/kernel": (4, 2, 3, 3), "fc6/kernel": (5, 16), "fc6/bias": (5,)} | changed
    return {name: np.ones(shape) for name, shape in shapes.items() if shape}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"conv5/kernel": (4, 2)}, "conv5/kernel .* 4 dimensions"),
        ({"fc6/kernel": (5, 4, 2, 2)}, "fc6/kernel .* 2 dimensions"),
        ({"fc6/bias": (5, 1)}, "fc6/bias .* 1 dimensions"),
        ({"fc6/kernel": (5, 17)}, "fc6 does not fit conv5"),
        ({"conv5/kernel": None}, "fc6 without conv5"),
    ],
)
def test_a_net_whose_tensors_do_not_go_together_is_refused(changed, words):
    assert layouts.from_out_in(net())["fc6/kernel"].shape == (16, 5)
    with pytest.raises(Unreadable, match=words):
        layouts.from_out_in(net(**changed))
