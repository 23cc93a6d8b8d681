from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from alexnet_keras.data.mixing import GROUP, Mixing
from alexnet_keras.errors import UserError

SIDE = 12
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0, 255, (GROUP, SIDE, SIDE, 3)).astype(np.float32)
#: a class for each example, so that labels tell who was mixed and how much
LABELS = np.eye(GROUP, dtype=np.float32)
ALL = np.ones(GROUP, bool)


def mixer(**alphas):
    """`Mixing.mixer` for many groups at once, as (groups, GROUP, ...) NumPy arrays."""
    mix = Mixing(**alphas).mixer()

    @tf.function(autograph=False)
    def of_seeds(images, usable, seeds):
        return tf.map_fn(
            lambda seed: mix(images, LABELS, usable, seed),
            seeds,
            fn_output_signature=(tf.float32, tf.float32),
        )

    def mixed(groups, usable=ALL, first_seed=0, images=IMAGES):
        seeds = np.stack([np.full(groups, 5), first_seed + np.arange(groups)], 1)
        return [value.numpy() for value in of_seeds(images, usable, seeds)]

    return mixed


@pytest.fixture(scope="module")
def mixup():
    return mixer(mixup=0.2)


@pytest.fixture(scope="module")
def cutmix():
    return mixer(cutmix=1.0)


@pytest.fixture(scope="module")
def either():
    return mixer(mixup=0.2, cutmix=1.0)


def pairs(images, labels):
    """Row, partner (None: itself), weight of the row's own label, and pixels of each mixture."""
    for group_images, group_labels in zip(images, labels, strict=True):
        for row in range(GROUP):
            others = np.flatnonzero(group_labels[row] * (np.arange(GROUP) != row))
            assert len(others) <= 1
            partner = int(others[0]) if len(others) else None
            yield row, partner, float(group_labels[row, row]), group_images[row]


def is_box(replaced):
    rows, columns = np.flatnonzero(replaced.any(1)), np.flatnonzero(replaced.any(0))
    box = np.zeros_like(replaced)
    if len(rows):
        box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return np.array_equal(replaced, box)


def test_mixup_blends_pixels_as_labels(mixup):
    count = 0
    for row, partner, own, pixels in pairs(*mixup(6)):
        other = IMAGES[row if partner is None else partner].astype(np.float64)
        expected = own * IMAGES[row].astype(np.float64) + (1 - own) * other
        np.testing.assert_allclose(pixels, expected, atol=1e-3)
        count += 0.02 < own < 0.98
    assert count > 6


def test_cutmix_replaces_a_box_as_large_as_the_labels_say(cutmix):
    count = 0
    for row, partner, own, pixels in pairs(*cutmix(6)):
        kept = (pixels == IMAGES[row]).all(-1)
        if partner is None:
            assert kept.all()
            continue
        np.testing.assert_array_equal(pixels[~kept], IMAGES[partner][~kept])
        assert is_box(~kept)
        # Each side of the box is rounded to whole pixels.
        height, width = (~kept).any(1).sum(), (~kept).any(0).sum()
        replaced = (1 - own) * SIDE**2
        assert max(height - 1, 0) * max(width - 1, 0) - 0.01 <= replaced
        assert replaced <= (height + 1) * (width + 1) + 0.01
        count += 0 < kept.sum() < SIDE**2
    assert count > 12


def test_boxes_lie_anywhere(cutmix):
    middles = []
    for row, partner, own, pixels in pairs(*cutmix(40)):
        replaced = (pixels != IMAGES[row]).any(-1)
        if partner is not None and own > 0.5 and replaced.any():
            middles.append([np.flatnonzero(replaced.any(axis)).mean() for axis in (0, 1)])
    across, down = np.transpose(middles)
    assert abs(np.corrcoef(across, down)[0, 1]) < 4.5 / np.sqrt(len(middles))
    for places in (across, down):
        assert np.quantile(places, 0.1) < SIDE / 3 and np.quantile(places, 0.9) > SIDE / 2


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_weights_of_labels_are_a_beta_distribution(kind):
    alpha, groups = {"mixup": 0.2, "cutmix": 0.5}[kind], 400
    _, labels = mixer(**{kind: alpha})(groups, images=IMAGES[:, :2, :2])
    own = np.diagonal(labels, axis1=1, axis2=2).astype(np.float64).ravel()
    # One row in GROUP has itself for a partner, at any weight.
    itself, variance = 1 / GROUP, 1 / (4 * (2 * alpha + 1))
    mean = itself + (1 - itself) / 2
    square = itself + (1 - itself) * (variance + 1 / 4)
    error = 4.5 * math.sqrt(square - mean**2) / math.sqrt(len(own))
    assert own.mean() == pytest.approx(mean, abs=error)
    assert (own**2).mean() == pytest.approx(square, abs=error)


def test_labels_remain_shares(either):
    images, labels = either(10)
    np.testing.assert_allclose(labels.sum(-1), 1, atol=1e-6)
    assert (labels >= 0).all()
    assert images.min() >= 0 and images.max() <= 255.001


def test_with_both_on_each_group_takes_one_kind_at_random(either):
    kinds = []
    for group_images, group_labels in zip(*either(40), strict=True):
        # A blended pixel is of neither image, a replaced one of the partner's.
        blended = [
            ((pixels != IMAGES[row]).any(-1) & (pixels != IMAGES[partner]).any(-1)).any()
            for row, partner, own, pixels in pairs([group_images], [group_labels])
            if partner is not None and 0.01 < own < 0.99
        ]
        assert len(set(blended)) <= 1
        kinds += blended[:1]
    assert 8 < sum(kinds) < len(kinds) - 8


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_what_cannot_be_used_is_mixed_into_nothing(kind, request):
    usable = ALL.copy()
    usable[[1, 6]] = False
    images = IMAGES.copy()
    images[~usable] = 1e6  # would show
    found, labels = request.getfixturevalue(kind)(20, usable=usable, images=images)
    assert not labels[:, usable][:, :, ~usable].any()
    assert found[:, usable].max() <= 255.001
    # The others still mix.
    assert (np.diagonal(labels, axis1=1, axis2=2)[:, usable] < 0.99).mean() > 0.3


def test_seeds_decide(either):
    images, labels = either(3)
    again, labels_again = either(3)
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(labels, labels_again)
    _, moved = either(3, first_seed=1)
    np.testing.assert_array_equal(moved[:2], labels[1:])
    assert len({group.tobytes() for group in labels}) == 3


def test_no_alpha_is_no_mixing():
    assert not Mixing().is_on
    assert Mixing(mixup=0.1).is_on and Mixing(cutmix=0.1).is_on


@pytest.mark.parametrize(
    ("alphas", "what"),
    [
        ({"mixup": -0.1}, "mixup=-0.1"),
        ({"mixup": math.nan}, "mixup=nan"),
        ({"mixup": math.inf}, "mixup=inf"),
        ({"cutmix": -1.0}, "cutmix=-1.0"),
        ({"cutmix": 1.5}, "cutmix=1.5"),  # more than Keras's layer knows
    ],
)
def test_an_alpha_outside_its_range_is_refused(alphas, what):
    with pytest.raises(UserError, match=f"{what} .*give"):
        Mixing(**alphas)
