from __future__ import annotations

import hashlib

import numpy as np
import pytest

from alexnet_keras.data import Examples, in_fraction, split
from alexnet_keras.data.splits import hold_out
from alexnet_keras.errors import UserError


def examples(keys, labels=None, classes=("a", "b")):
    labels = [i % len(classes) for i in range(len(keys))] if labels is None else labels
    return Examples(
        "some", tuple(classes), tuple(keys), np.array(labels, np.int32), (b"x",) * len(keys)
    )


KEYS = [f"{'ab'[i % 2]}/{i}.jpg" for i in range(2000)]


def test_a_fifth_is_validation_and_a_tenth_of_the_rest_is_for_stopping():
    parts = split(examples(KEYS))
    # Three standard deviations of a draw with those chances.
    assert abs(len(parts.validation) - 400) < 3 * (2000 * 0.2 * 0.8) ** 0.5
    rest = 2000 - len(parts.validation)
    assert abs(len(parts.stopping) - rest / 10) < 3 * (rest * 0.1 * 0.9) ** 0.5
    keys = [*parts.train.keys, *parts.stopping.keys, *parts.validation.keys]
    assert sorted(keys) == sorted(KEYS)


def test_adding_files_moves_no_other():
    before = split(examples(KEYS[::2], [0, 1] * 500))
    after = split(examples(KEYS, [0, 1] * 1000))
    for name in ("train", "stopping", "validation"):
        assert set(getattr(before, name).keys) <= set(getattr(after, name).keys)


def test_the_choice_is_a_hash_of_the_key_alone():
    def by_hand(key):
        digest = hashlib.sha256(b"validation:" + key.encode()).digest()
        return int.from_bytes(digest[:8], "big") < 0.2 * 2**64

    assert [in_fraction(key, 0.2) for key in KEYS] == [by_hand(key) for key in KEYS]


def test_given_parts_are_taken_as_they_are():
    validation, stopping = examples(["a/v", "b/v"]), examples(["a/s", "b/s"])
    parts = split(examples(KEYS), stopping, validation)
    assert (parts.validation, parts.stopping) == (validation, stopping)
    assert len(parts.train) == 2000


def test_a_class_without_training_photographs_is_named():
    kept_out = next(key for key in KEYS if in_fraction(key, 0.2))
    with pytest.raises(UserError, match="class 'b' .* no photograph left to train on"):
        split(examples([*KEYS, kept_out], [0] * 2000 + [1]))


def test_an_empty_part_is_refused():
    few = [key for key in KEYS if not in_fraction(key, 0.2)][:4]
    with pytest.raises(UserError, match="validation part of some is empty"):
        split(examples(few), stopping=examples(["a/s", "b/s"]))


def test_a_share_is_held_out_by_the_keys_alone():
    training = examples(KEYS)
    rest, watched = hold_out(training, 0.05)
    assert sorted([*rest.keys, *watched.keys]) == sorted(KEYS)
    assert abs(len(watched) - 100) < 3 * (2000 * 0.05 * 0.95) ** 0.5
    assert set(hold_out(examples(KEYS[::2], [0, 1] * 500), 0.05)[1].keys) <= set(watched.keys)
    assert hold_out(training, 0) == (training, None)


def test_a_share_that_is_nothing_or_everything_is_refused():
    with pytest.raises(UserError, match="share of 0.01 of the 3 photographs of some is none"):
        hold_out(examples(KEYS[:3]), 0.01)
    with pytest.raises(UserError, match="class 'a' .* no photograph left"):
        hold_out(examples(KEYS[:3]), 1)
