"""The numbers here are typed from the sources, not taken from the table."""

from __future__ import annotations

import pytest

from alexnet_keras.alexnet import AlexNet
from alexnet_keras.errors import UserError
from alexnet_keras.training.presets import PRESETS
from alexnet_keras.training.schedules import Plateau
from alexnet_keras.variants import VARIANTS

PER_EPOCH = 1000
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
OWN = ("kernel", "bias", "gamma", "beta")


def group_of(preset, layer, own):
    """The only group that takes a variable."""
    (group,) = (group for group in preset.groups if group.takes(layer, own))
    return group


def rate_after(preset, layer, own, epochs):
    return group_of(preset, layer, own).schedule.rate(epochs * PER_EPOCH, PER_EPOCH)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_a_net_and_a_group_for_each_variable(name):
    preset = PRESETS[name]
    assert name == preset.variant
    assert preset.variant in VARIANTS
    for layer in (*LAYERS, "norm1", "shortcut5"):
        for own in OWN:
            # BVLC's decay_mult is 0 for biases; `wc` of the 2012 source is for weights only.
            assert group_of(preset, layer, own).weight_decay == (5e-4 if own == "kernel" else 0)
    assert preset.groups[0].name == "weights"
    assert preset.learning_rate == 0.01
    assert preset.momentum == 0.9


def test_the_papers_section_5():
    paper = PRESETS["paper"]
    assert (paper.batch_size, paper.epochs) == (128, 90)
    assert paper.color_until is None
    for layer in LAYERS:
        for own in OWN:
            schedule = group_of(paper, layer, own).schedule
            assert isinstance(schedule, Plateau)
            # "initialized at 0.01 and reduced three times", each time divided by ten, "equal"
            assert (schedule.base, schedule.factor, schedule.most_divisions) == (0.01, 10, 3)


# layer-params-145.cfg: epsW of conv2 to fc1000 (fc8) and of conv1, epsB of both, by epoch.
NET_145 = [
    (0, 1e-2, 1e-2, 0.02, 0.02),
    (24, 1e-2, 1e-2, 0.02, 0.02),
    (25, 1e-3, 1e-3, 0.02, 0.02),
    (50, 1e-3, 1e-3, 0.02, 0.02),
    (51, 1e-4, 1e-4, 0.02, 0.02),
    (66, 1e-4, 1e-4, 0.02, 0.02),
    (67, 1e-4, 1e-5, 0.02, 0.02),
    (72, 1e-4, 0.0, 0.02, 0.0),
    (78, 1e-4, 0.0, 0.02, 0.0),
    (79, 1e-5, 0.0, 0.02, 0.0),
    (90, 1e-5, 0.0, 0.02, 0.0),
]


@pytest.mark.parametrize("epoch, others, conv1, bias, conv1_bias", NET_145)
def test_net_145s_notes(epoch, others, conv1, bias, conv1_bias):
    release = PRESETS["release"]
    for layer in LAYERS:
        first = layer == "conv1"
        assert rate_after(release, layer, "kernel", epoch) == pytest.approx(
            conv1 if first else others
        )
        assert rate_after(release, layer, "bias", epoch) == (conv1_bias if first else bias)
        assert rate_after(release, "norm1", "gamma", epoch) == 0.02


def test_net_145s_run():
    release = PRESETS["release"]
    assert (release.batch_size, release.epochs, release.color_until) == (128, 91, 67)


# solver.prototxt: stepsize 100000 of max_iter 450000 at batches of 256.
@pytest.mark.parametrize("iteration", [0, 99_000, 101_000, 201_000, 301_000, 401_000, 449_000])
def test_caffes_solver(iteration):
    caffe = PRESETS["caffe"]
    epochs = iteration * 256 / 1_281_167
    expected = 0.01 * 0.1 ** (iteration // 100_000)
    for layer in LAYERS:
        # lr_mult 1 and 2
        for own, factor in (("kernel", 1), ("bias", 2)):
            rate = group_of(caffe, layer, own).schedule.rate(round(epochs * 5005), 5005)
            assert rate == pytest.approx(factor * expected)


def test_caffes_run():
    caffe = PRESETS["caffe"]
    assert (caffe.batch_size, caffe.epochs) == (256, 90)
    assert caffe.epochs == pytest.approx(450_000 * 256 / 1_281_167, abs=0.1)
    # "not training with the relighting data-augmentation"
    assert caffe.color_until == 0
    divisions = caffe.groups[0].schedule.epochs
    assert divisions == pytest.approx([19.982, 39.964, 59.945, 79.927], abs=5e-4)


def test_a_run_of_other_length_divides_and_stops_the_noise_at_the_same_shares():
    release = PRESETS["release"].over(182)
    assert (release.epochs, release.color_until) == (182, 134)
    assert group_of(release, "fc8", "kernel").schedule.epochs == (50, 102, 158)
    assert group_of(release, "conv1", "kernel").schedule.epochs == (50, 102, 134, 144)
    assert group_of(release, "conv1", "bias").schedule.epochs == (144,)
    assert PRESETS["paper"].over(18).groups[0].schedule.patience == 1
    assert PRESETS["paper"].over(18).color_until is None
    assert PRESETS["caffe"].over(9).color_until == 0
    assert PRESETS["release"].over(91) == PRESETS["release"]


@pytest.mark.parametrize("epochs", [0, -1, float("inf")])
def test_a_run_without_a_length_is_refused(epochs):
    with pytest.raises(UserError, match="give more than 0"):
        PRESETS["paper"].over(epochs)


def test_the_layers_named_here_are_those_of_the_net():
    net = AlexNet(variant="caffe", width=1 / 32, input_shape=(80, 80, 3), classes=2)
    assert tuple(layer.name for layer in net.layers if layer.weights) == LAYERS
