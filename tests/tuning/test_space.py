from __future__ import annotations

import keras_tuner
import pytest

from alexnet_keras.transfer import Choices
from alexnet_keras.transfer.heads import DROPOUT
from alexnet_keras.transfer.plan import HEAD_TRAINING
from alexnet_keras.tuning import REASONS
from alexnet_keras.tuning.space import ask, net_of, plain, sees_no_more, sizes

HEADS = ("bilinear", "pooled", "fc")


def asked(heads=HEADS, defaults=None, **values):
    """Hyperparameters with everything declared, those given, and what they choose."""
    hp = keras_tuner.HyperParameters()
    defaults = defaults or Choices()
    ask(hp, defaults, image_size=256, heads=heads)
    hp.values.update(values)
    hp.ensure_active_values()
    return hp, ask(hp, defaults, image_size=256, heads=heads)


def test_every_choice_has_a_reason_and_every_reason_a_choice():
    hp, _ = asked()
    assert {one.name.split(":")[0] for one in hp.space} == set(REASONS)
    assert all(reason.endswith(".") for reason in REASONS.values())


@pytest.mark.parametrize("head", HEADS)
def test_the_default_is_what_the_recipe_does(head):
    _, chosen = asked((head, *(other for other in HEADS if other != head)))
    rate = HEAD_TRAINING[head][1]
    dropout = DROPOUT.get(head, 0.5)
    size = None if head == "fc" else 256
    expected = Choices(head=head, image_size=size, head_rate=rate, dropout=dropout)
    if head == "bilinear":
        expected = Choices(**{**vars(expected), "paired": 3})
    assert chosen == expected


def test_only_what_belongs_together_is_chosen_together():
    hp, chosen = asked(**{"head": "pooled", "views": 2, "unfreeze": 0})
    assert chosen.head == "pooled"
    found = plain(hp)
    assert not {"paired", "augmentation", "strength", "learning_rate"} & set(found)
    assert {"hidden_units", "cut", "dropout", "head_rate", "weight_decay"} <= set(found)
    hp, _ = asked(**{"head": "fc"})
    assert not {"cut", "paired", "hidden_units", "weight_decay"} & set(plain(hp))
    hp, _ = asked(**{"cut:bilinear": "conv3"})
    assert "paired" not in plain(hp)  # there is but one


def test_fc6_takes_the_size_that_it_was_trained_on():
    hp, chosen = asked(("bilinear", "fc"), head="fc", image_size=288)
    assert chosen.image_size is None and "image_size" not in plain(hp)
    assert asked(("bilinear", "fc"), image_size=288)[1].image_size == 288


def test_layers_are_unfrozen_from_the_cut_down():
    assert asked(unfreeze=0)[1].unfreeze_from == ()
    assert asked(unfreeze=1)[1].unfreeze_from == ("conv5",)
    assert asked(**{"unfreeze": 2, "cut:bilinear": "conv4"})[1].unfreeze_from == ("conv3",)
    assert asked(**{"unfreeze": 3, "head": "fc"})[1].unfreeze_from == ("conv3",)


def test_without_mirrors_two_views_hold_a_random_one():
    assert "augmentation" not in plain(asked(views=2)[0])
    assert "augmentation" in plain(asked(defaults=Choices(mirror=False), views=2)[0])


def test_whatever_is_drawn_is_sound(tmp_path):
    oracle = keras_tuner.oracles.RandomSearchOracle(objective="val_accuracy", seed=3)
    oracle.update_space(asked()[0])
    seen = set()
    for _ in range(300):
        hp = oracle.get_space()
        hp.values = oracle._random_values()
        chosen = ask(hp, Choices(), image_size=256, heads=HEADS)  # checks itself
        assert chosen.shape.pairs[-1] == int(chosen.cut[-1])
        seen.add((chosen.head, chosen.cut, chosen.shape.paired))
    assert len(seen) == 6 + 3 + 1


def test_sizes_are_about_the_default():
    assert sizes(256) == [192, 224, 256, 288]
    assert sizes(128) == [96, 112, 128, 144]
    assert sizes(227) == [160, 192, 224, 227, 256]
    assert sizes(64) == [64]


def test_epochs_of_the_head_are_about_the_default():
    for given, tried in ((20, [10, 20, 40]), (1, [1, 2])):
        hp, chosen = asked(defaults=Choices(head_epochs=given))
        (choice,) = (one for one in hp.space if one.name == "head_epochs")
        assert (choice.values, chosen.head_epochs) == (tried, given)


def test_an_unknown_head_is_refused():
    with pytest.raises(ValueError, match="'linear' is not one of fc, pooled, bilinear"):
        asked(("linear",))


def test_what_was_stored_for_some_settings_serves_others():
    def settings(views, *random, size=256, crop="centre", head="pooled"):
        named = dict(zip(("augmentation", "strength"), random, strict=False))
        sized = {} if size is None else {"image_size": size}
        return {"head": head, **sized, "crop": crop, "views": views, **named}

    four = settings(4, "gentle", 1.0, head="bilinear")
    for views in ([1], [2], [3, "gentle", 1.0], [4, "gentle", 1.0]):
        assert sees_no_more(settings(*views), four)
    assert not sees_no_more(settings(3, "gentle", 0.5), four)
    assert not sees_no_more(settings(3, "paper", 1.0), four)
    assert not sees_no_more(four, settings(3, "gentle", 1.0))
    assert not sees_no_more(settings(2), settings(1))
    assert not sees_no_more(settings(1, size=224), four)
    assert not sees_no_more(settings(1, crop="whole"), four)
    own = settings(2, size=None, head="fc")
    assert sees_no_more(settings(1, size=None, head="fc"), own)
    assert not sees_no_more(settings(1), own) and not sees_no_more(own, four)


def test_a_net_is_its_head_cut_size_and_crop():
    hp, _ = asked(**{"cut:bilinear": "conv4"})
    # As a worker's trial has them: with what its conditions rule out.
    values = {**hp.values, "cut:pooled": "conv3"}
    assert net_of(values) == net_of(plain(hp)) == ("bilinear", "conv4", 256, "centre")
    assert net_of({"head": "fc", "crop": "whole"}) == ("fc", None, None, "whole")
