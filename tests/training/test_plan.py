from __future__ import annotations

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from alexnet_keras.data.mixing import Mixing
from alexnet_keras.errors import UserError
from alexnet_keras.training.classic_sgd import ClassicSGD
from alexnet_keras.training.plan import CHANGEABLE, FREE, Plan, check_identity, set_up
from alexnet_keras.training.presets import PRESETS
from alexnet_keras.weights import preprocessing_of

SMALL = {"image_size": 64, "width": 1 / 32}
#: photographs that make ten steps an epoch at every preset's batch
TRAIN_IMAGES = {"paper": 1280, "release": 1279, "caffe": 2305}
PIXELS = tf.constant(np.random.default_rng(0).uniform(50, 200, (4, 4, 3)), tf.float32)


def made(train_images=1280, **options):
    keras.utils.set_random_seed(0)
    return set_up(Plan(**SMALL | options).resolved(), 3, train_images)


def has_color_noise(augmentation):
    seed = tf.constant([1, 2])
    return not np.array_equal(augmentation.recolor(PIXELS, seed), PIXELS)


def window(augmentation, height, width):
    return augmentation.crop(tf.constant(height), tf.constant(width), tf.constant([1, 2])).numpy()


@pytest.mark.parametrize(
    ("preset", "variant", "batch", "epochs"),
    [("paper", "paper", 128, 90), ("release", "release", 128, 91), ("caffe", "caffe", 256, 90)],
)
def test_what_is_not_given_is_the_presets(preset, variant, batch, epochs):
    plan = Plan(preset=preset).resolved()
    assert (plan.variant, plan.batch_size, plan.epochs) == (variant, batch, epochs)
    assert plan.published is PRESETS[preset]
    assert plan.resolved() == plan


def test_what_is_given_is_kept():
    plan = Plan(preset="caffe", variant="alexnet", batch_size=8, epochs=2).resolved()
    assert (plan.variant, plan.batch_size, plan.epochs) == ("alexnet", 8, 2)


def test_views_grow_over_two_thirds_of_a_run_in_steps_of_eight_pixels():
    plan = Plan(epochs=12, first_view_size=32).resolved()
    sizes = [plan.view_size(epoch, 64) for epoch in range(12)]
    assert sizes == [32, 32, 40, 40, 48, 48, 56, 56, 64, 64, 64, 64]
    assert plan.view_sizes(64) == [32, 40, 48, 56, 64]


def test_views_end_at_their_own_size_and_stay_the_same_where_nothing_is_asked():
    plan = Plan(epochs=6, first_view_size=36, last_view_size=52).resolved()
    assert [plan.view_size(epoch, 64) for epoch in range(6)] == [36, 40, 40, 48, 52, 52]
    assert Plan(epochs=6, last_view_size=52).resolved().view_sizes(64) == [52]
    assert Plan(epochs=6).resolved().view_sizes(64) == [64]


def test_what_cannot_grow_is_refused():
    options = {"variant": "modern", "width": 0.1, "image_size": 64}
    with pytest.raises(UserError, match="of 72 px cannot grow to 64 px"):
        made(**options, first_view_size=72)
    with pytest.raises(UserError, match="fc6 is made for images of 64 px .* on 56 px"):
        made(variant="alexnet", last_view_size=56)


def test_residual_connections_are_a_choice():
    options = {"variant": "modern", "width": 0.1, "image_size": 64}
    names = {
        choice: {layer.name for layer in made(**options, residual=choice).model.layers}
        for choice in ("auto", "yes", "no")
    }
    assert names["auto"] == names["yes"] == names["no"] | {"add4", "add5"}


def test_alphas_become_mixtures():
    assert Plan(mixup=0.2, cutmix=0.5).mixing == Mixing(0.2, 0.5)
    with pytest.raises(UserError, match="cutmix=2"):
        _ = Plan(cutmix=2.0).mixing


@pytest.mark.parametrize("preset", ["paper", "release", "caffe"])
def test_each_preset_is_set_up_as_published(preset):
    parts = made(TRAIN_IMAGES[preset], preset=preset)
    assert parts.model.input_shape == (None, 64, 64, 3)
    assert parts.model.output_shape == (None, 3)
    assert parts.average is None
    optimizer = parts.optimization.optimizer
    assert isinstance(optimizer, ClassicSGD) and optimizer.built
    groups = PRESETS[preset].groups
    assert parts.optimization.rates(0) == {group.name: group.schedule.base for group in groups}
    assert parts.optimization.needs_watching == (preset == "paper")
    # A training view has the shape that evaluation's centre crop has.
    geometry = preprocessing_of(parts.model).geometry
    rows, columns = window(parts.augmentation, 256, 400)[2:]
    assert rows == round(256 / geometry["resize_ratio"])
    assert columns == (round(400 / geometry["resize_ratio"]) if preset == "caffe" else rows)
    assert has_color_noise(parts.augmentation) == (preset != "caffe")
    # Net 145's colour noise ends after epoch 67, of ten steps each.
    assert parts.color_until == (670 if preset == "release" else None)


def test_in_a_shorter_run_the_colour_noise_ends_in_proportion():
    parts = made(TRAIN_IMAGES["release"], preset="release", epochs=7)
    assert parts.color_until == math.ceil(67 * 7 / 91 * 10)
    rates = parts.optimization.rates
    assert rates(math.ceil(25 * 7 / 91 * 10) - 1)["weights"] == pytest.approx(0.01)
    assert rates(math.ceil(25 * 7 / 91 * 10))["weights"] == pytest.approx(0.001)


def test_adamw_warms_up_and_falls_to_nothing():
    parts = made(variant="alexnet", optimizer="adamw", epochs=18, weight_decay=0.1)
    optimizer = parts.optimization.optimizer
    assert isinstance(optimizer, keras.optimizers.AdamW) and optimizer.built
    assert optimizer.weight_decay == 0.1
    rates = [parts.optimization.rates(step)["all"] for step in range(18 * 10)]
    assert max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) == 10  # 5 of 90 epochs
    assert rates[0] == 0 and rates[-1] < 1e-6


def test_options_reach_the_optimizer():
    parts = made(
        variant="alexnet",
        batch_size=256,
        learning_rate=0.1,
        scale_rate=True,
        weight_decay=0.01,
        schedule="cosine",
        warmup_epochs=1.0,
    )
    assert parts.optimization.optimizer.weight_decays == [0.01, 0.0]
    assert parts.optimization.rates(5)["weights"] == pytest.approx(0.2)  # an epoch of 5 steps
    assert parts.optimization.rates(90 * 5)["weights"] == pytest.approx(0, abs=1e-9)


def test_the_nets_options_reach_it():
    parts = made(variant="alexnet", normalization="none", initialization="he")
    assert not [layer for layer in parts.model.layers if layer.name.startswith("norm")]
    assert preprocessing_of(parts.model).name == "torchvision"


def test_an_average_is_a_net_of_its_own():
    parts = made(variant="alexnet", normalization="batch", ema=0.99)
    assert [v.shape for v in parts.average.weights] == [v.shape for v in parts.model.weights]
    assert not {id(v) for v in parts.average.weights} & {id(v) for v in parts.model.weights}


def test_other_views_have_no_end_of_colours():
    parts = made(preset="release", variant="alexnet", augmentation="inception")
    assert parts.color_until is None
    assert has_color_noise(parts.augmentation)
    shapes = {tuple(window(parts.augmentation, 300, 300 + i)[2:]) for i in range(3)}
    assert any(rows != columns for rows, columns in shapes)


def test_in_float16_the_loss_is_scaled_so_that_small_gradients_survive():
    parts = made(variant="alexnet", precision="float16")
    optimizer = parts.optimization.optimizer
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    assert float(optimizer.scale_loss(1.0)) > 1000
    parts.optimization.set_rates(0)
    np.testing.assert_allclose(optimizer.inner_optimizer.rates.numpy(), [0.01, 0.01])
    for precision in ("float32", "bfloat16"):
        other = made(variant="alexnet", precision=precision).optimization.optimizer
        assert isinstance(other, ClassicSGD)


def test_the_identity_is_all_but_what_is_free():
    identity = Plan(seed=4, ema=0.9).resolved().identity
    assert not set(FREE) & set(identity)
    assert set(CHANGEABLE) < set(identity)
    assert set(identity) | set(FREE) == set(Plan.__dataclass_fields__)
    free = {"checkpoint_seconds": 1.0, "allow_bad": True}
    assert Plan(seed=4, ema=0.9, **free).resolved().identity == identity
    # It goes through a checkpoint's JSON unchanged.
    check_identity(json.loads(json.dumps(identity)), identity)


def test_a_run_that_goes_on_with_the_same_is_welcome():
    check_identity(Plan().identity, Plan().identity)


@pytest.mark.parametrize(
    ("name", "value"), [("seed", 1), ("variant", "caffe"), ("epochs", 3), ("precision", "bfloat16")]
)
def test_what_decides_which_step_sees_what_may_not_change(name, value):
    for allow in (False, True):
        with pytest.raises(
            UserError, match=f"began with {name}=.* now given {name}={value}.*another --output"
        ) as caught:
            check_identity(Plan().identity, Plan(**{name: value}).identity, allow)
        assert "--allow-changes" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"), [("learning_rate", 0.1), ("mixup", 0.2), ("clip_norm", 1.0)]
)
def test_rates_and_the_like_may_change_if_the_user_says_so(name, value):
    before, now = Plan().identity, Plan(**{name: value}).identity
    with pytest.raises(UserError, match=f"{name}={value}.*--allow-changes"):
        check_identity(before, now)
    check_identity(before, now, allow_changes=True)


def test_other_photographs_are_refused_whatever_is_allowed():
    before = {**Plan().identity, "training photographs": "aa", "watched photographs": None}
    for changed in ({"training photographs": "bb"}, {"watched photographs": "cc"}):
        with pytest.raises(UserError, match=f"The {next(iter(changed))} are not those"):
            check_identity(before, before | changed, allow_changes=True)


def test_an_option_that_one_side_does_not_know_is_told():
    with pytest.raises(UserError, match="began with older=1 and is now given older=None"):
        check_identity({"older": 1}, {})
