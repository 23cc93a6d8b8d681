from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from alexnet_keras import UserError
from alexnet_keras.data import AUGMENTATIONS
from alexnet_keras.transfer import Choices
from small_search import SHORT, make_narrow, write_trunk


def test_they_survive_json():
    chosen = Choices(head="pooled", cut="conv4", unfreeze_from=("conv4",), strength=1.5)
    assert Choices.of(json.loads(json.dumps(asdict(chosen)))) == chosen


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"colour": "red"}, "no setting 'colour'; the settings are head, cut"),
        ({"head": "linear"}, "head is 'linear'; give auto or fc or pooled or bilinear"),
        ({"crop": "top"}, "crop is 'top'; give centre or whole"),
        ({"augmentation": None}, "augmentation is None; give alexnet2012"),
        ({"schedule": "up"}, "schedule is 'up'; give cosine or linear or constant"),
        ({"views": 0}, "views is 0; give a whole number from 1 on"),
        ({"views": 2.5}, "views is 2.5; give a whole number"),
        ({"views": True}, "views is True; give a whole number"),
        ({"image_size": 12}, "image_size is 12; give a whole number from 63 on"),
        ({"head_rate": "fast"}, "head_rate is 'fast'; give a number from 0 on"),
        ({"weight_decay": -1}, "weight_decay is -1; give a number from 0 on"),
        ({"weight_decay": None}, "weight_decay is None"),
        ({"label_smoothing": 1}, "label_smoothing is 1; give a share below 1"),
        ({"cut": "conv1"}, "describe no head: cut='conv1' is not one of conv5, conv4, conv3"),
        ({"cut": "conv4", "paired": 3}, "describe no head: paired=3 is not from 1 to 2"),
        ({"dropout": 1}, "describe no head: dropout=1 is not from 0 to below 1"),
        ({"hidden_units": 0}, "describe no head: hidden_units=0"),
        ({"hidden_units": "many"}, "describe no head"),
    ],
)
def test_what_is_none_is_told_in_a_sentence(settings, words):
    with pytest.raises(UserError, match=words):
        Choices.of(settings)


def test_they_reach_net_phases_and_training(monkeypatch, tmp_path):
    make_narrow(monkeypatch.setattr)
    chosen = Choices.of(
        {
            **asdict(SHORT),
            **{"head": "bilinear", "cut": "conv4", "paired": 1, "dropout": 0.25},
            **{"unfreeze_from": ["conv4"], "head_rate": 0.002, "learning_rate": 0.05},
            **{"schedule": "linear", "weight_decay": 0.3, "label_smoothing": 0.2},
            **{"augmentation": "inception", "strength": 0.5, "mirror": False, "views": 3},
        }
    )
    built = chosen.build(2, weights=write_trunk(tmp_path / "t.npz"), variant="torchvision")
    names = [layer.name for layer in built.model.layers]
    assert "conv5" not in names and "pairs4" in names and "pairs3" not in names
    assert built.model.get_layer("head_dropout").rate == 0.25
    assert built.loaded.loaded == ("conv1", "conv2", "conv3", "conv4")
    phases = chosen.plan(built)
    assert phases[-2].rates == {"fc8": 0.002}
    assert phases[-1].name == "fine-tune from conv4" and max(phases[-1].rates.values()) == 0.05
    settings = chosen.training(seed=5, precision="bfloat16", search_rate=True)
    assert (settings.schedule, settings.weight_decay, settings.label_smoothing) == (
        "linear",
        0.3,
        0.2,
    )
    assert (settings.seed, settings.views, settings.batch_size) == (5, 3, 8)
    assert settings.augmentation.mirror is False
    usual = AUGMENTATIONS["inception"]()
    assert settings.augmentation.crop.area[0] == pytest.approx((1 + usual.crop.area[0]) / 2)
    assert settings.augmentation.recolor.contrast == usual.recolor.contrast / 2


def test_a_pooled_head_has_its_width_and_dropouts(monkeypatch, tmp_path):
    make_narrow(monkeypatch.setattr)
    chosen = Choices(head="pooled", hidden_units=7, dropout=0.3, cut="conv3", image_size=64)
    model = chosen.build(2, weights=write_trunk(tmp_path / "t.npz"), variant="torchvision").model
    assert model.get_layer("hidden").units == 7
    assert model.get_layer("hidden_dropout").rate == 0.3
    assert model.get_layer("head_dropout").rate == pytest.approx(0.2)
    assert "conv4" not in [layer.name for layer in model.layers]
    usual = Choices(head="pooled", image_size=64).build(2, variant="torchvision").model
    assert usual.get_layer("head_dropout").rate == pytest.approx(0.4)
    assert usual.get_layer("hidden_dropout").rate == 0.6
