from __future__ import annotations

from dataclasses import replace

import pytest

from alexnet_keras.alexnet import VARIANTS, build
from alexnet_keras.errors import UserError
from alexnet_keras.transfer import plan_phases
from alexnet_keras.transfer.plan import OLDER_SHARE

CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")
TOP = ("fc6", "fc7", "fc8")


@pytest.fixture(scope="module")
def model():
    row = replace(VARIANTS["alexnet"], filters=(4, 4, 4, 4, 4), hidden_units=(4, 4))
    return build(row, input_shape=(64, 64, 3), classes=3)


def plan(model, pretrained, unfreeze_from=("conv4",), epochs=6):
    return plan_phases(
        model,
        pretrained,
        unfreeze_from=unfreeze_from,
        head_epochs=3,
        epochs=epochs,
        learning_rate=0.01,
    )


def test_without_pretrained_layers_everything_is_trained_at_one_rate(model):
    (phase,) = plan(model, [])
    assert phase.trained == (*CONVOLUTIONS, *TOP)
    assert set(phase.rates.values()) == {0.01}
    assert phase.epochs == 6


def test_new_layers_come_first_and_then_pretrained_ones_at_smaller_rates(model):
    head, later = plan(model, CONVOLUTIONS)
    assert (head.trained, head.epochs) == (TOP, 3)
    assert (later.trained, later.epochs) == (("conv4", "conv5", *TOP), 6)
    assert later.rates["conv4"] < later.rates["conv5"] < later.rates["fc6"] == 0.01


@pytest.mark.parametrize(
    "pretrained",
    [[], ["conv1"], CONVOLUTIONS, (*CONVOLUTIONS, "fc6", "fc7"), ["conv1", "conv2", "conv5"]],
)
@pytest.mark.parametrize(
    "unfreeze_from", [(), ("conv1",), ("conv5",), ("fc6",), ("conv5", "conv3")]
)
def test_no_layer_with_random_weights_is_ever_frozen(model, pretrained, unfreeze_from):
    fresh = set((*CONVOLUTIONS, *TOP)) - set(pretrained)
    for phase in plan(model, pretrained, unfreeze_from):
        assert fresh <= set(phase.trained)


def test_towers_are_unfrozen_together_and_layers_of_one_number_learn_alike():
    row = replace(VARIANTS["paper"], filters=(4, 4, 4, 4, 4), hidden_units=(4, 4))
    towers = build(row, input_shape=(64, 64, 3), classes=3)
    pretrained = [f"conv{number}{tower}" for number in range(1, 6) for tower in "ab"]
    _, later = plan(towers, pretrained, ("conv4",))
    assert later.trained[:4] == ("conv4a", "conv4b", "conv5a", "conv5b")
    assert later.rates["conv4a"] == later.rates["conv4b"] < later.rates["conv5a"]
    assert later.rates["conv5b"] < later.rates["fc6a"] == later.rates["fc8"] == 0.01


def test_batch_normalization_without_pretrained_weights_is_trained():
    row = replace(VARIANTS["modern"], filters=(4, 4, 4, 4, 4))
    modern = build(row, input_shape=(64, 64, 3), classes=3)
    names = [layer.name for layer in modern.layers if layer.weights]
    (phase,) = plan(modern, [])
    assert phase.trained == tuple(names)
    _, later = plan(modern, set(names) - {"norm5", "fc8"}, ("conv4",))
    assert later.trained == ("conv4", "conv5", "norm5", "fc8")


def test_each_kind_of_head_has_its_own_optimizer(model):
    def head(kind):
        return plan_phases(
            model,
            CONVOLUTIONS,
            head=kind,
            unfreeze_from=(),
            head_epochs=3,
            epochs=0,
            learning_rate=0.01,
        )[-1]

    assert (head("fc").optimizer, head("pooled").optimizer) == ("sgd", "adamw")
    assert head("bilinear").optimizer == "adamw"
    rates = [head(kind).rates["fc8"] for kind in ("bilinear", "pooled", "fc")]
    assert rates == sorted(set(rates))


def test_the_second_phase_can_be_left_out(model):
    assert [p.name for p in plan(model, CONVOLUTIONS, unfreeze_from=())] == ["head"]
    assert [p.name for p in plan(model, CONVOLUTIONS, epochs=0)] == ["head"]


def test_each_layer_that_is_named_begins_a_phase_further_down(model):
    _, conv5, conv3 = plan(model, CONVOLUTIONS, ("conv5", "conv3"))
    assert conv5.trained == ("conv5", *TOP)
    assert conv3.trained == ("conv3", "conv4", "conv5", *TOP)
    assert (conv5.epochs, conv3.epochs) == (6, 6)
    assert conv5.rates["conv5"] == conv3.rates["conv5"]


@pytest.mark.parametrize("layers", [("conv3", "conv5"), ("conv4", "conv4")])
def test_layers_are_unfrozen_from_the_newest_to_the_oldest(model, layers):
    with pytest.raises(UserError, match=f"{layers[1]!r} is not older than {layers[0]!r}"):
        plan(model, CONVOLUTIONS, layers)


def test_an_unknown_layer_is_named(model):
    with pytest.raises(UserError, match="'conv9'.* fc8"):
        plan(model, CONVOLUTIONS, unfreeze_from=("conv9",))


def test_a_shortcut_is_as_old_as_its_convolution_and_norms_keep_their_statistics():
    row = replace(VARIANTS["modern"], filters=(4, 4, 4, 4, 8))
    model = build(row, input_shape=(64, 64, 3), classes=3)
    trunk = [layer.name for layer in model.layers if layer.weights and layer.name != "fc8"]
    assert "shortcut5" in trunk
    _, second = plan_phases(
        model, trunk, unfreeze_from=("conv4",), head_epochs=1, epochs=1, learning_rate=1.0
    )
    newest, older = OLDER_SHARE, OLDER_SHARE**2
    expected = {"conv4": older, "shortcut5": newest, "conv5": newest, "fc8": 1.0}
    assert second.rates == pytest.approx(expected)


def test_a_bilinear_head_takes_a_first_look_at_one_view(model):
    look, head = plan_phases(
        model,
        CONVOLUTIONS,
        head="bilinear",
        unfreeze_from=(),
        head_epochs=20,
        epochs=6,
        learning_rate=0.01,
    )
    assert (look.name, look.views, head.name, head.views) == ("first look", 1, "head", None)
    assert look.trained == head.trained and look.epochs < head.epochs == 20
    assert look.rates["fc8"] > head.rates["fc8"]
