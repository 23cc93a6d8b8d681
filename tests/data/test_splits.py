from __future__ import annotations

import hashlib

import numpy as np
import pytest

from alexnet_keras.data import Examples, in_fraction, split
from alexnet_keras.data.splits import Splits, hold_out
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


class TestFolds:
    def test_hold_everything_but_validation_once(self):
        parts = split(examples(KEYS))
        folds = parts.folds(5)
        chosen = [key for fold in folds for key in fold.validation.keys]
        assert sorted(chosen) == sorted([*parts.train.keys, *parts.stopping.keys])
        for fold in folds:
            keys = [*fold.train.keys, *fold.stopping.keys, *fold.validation.keys]
            assert sorted(keys) == sorted(chosen)
            assert abs(len(fold.validation) - 320) < 3 * (1600 * 0.2 * 0.8) ** 0.5
            assert 0.05 < len(fold.stopping) / len(keys) < 0.12

    def test_depend_on_keys_alone(self):
        few = split(examples(KEYS[::2], [0, 1] * 500)).folds(3)
        many = split(examples(KEYS, [0, 1] * 1000)).folds(3)
        for before, after in zip(few, many, strict=True):
            assert set(before.validation.keys) <= set(after.validation.keys)

    def test_keep_groups_together(self):
        groups = np.arange(2000) // 4  # of consecutive keys
        place = {key: group for key, group in zip(KEYS, groups, strict=True)}
        parts = split(examples(KEYS), groups=groups)
        for fold in parts.folds(4):
            held = {place[key] for key in fold.validation.keys}
            watched = {place[key] for key in fold.stopping.keys}
            learned = {place[key] for key in fold.train.keys}
            assert not held & learned and not held & watched and not watched & learned

    def test_take_a_given_part_for_stopping_as_it_is(self):
        stopping = examples(["a/s", "b/s"])
        for fold in split(examples(KEYS), stopping).folds(2):
            assert fold.stopping is stopping

    def test_are_made_of_split_parts_only(self):
        parts = split(examples(KEYS))
        with pytest.raises(ValueError, match="2 folds or more, not 1"):
            parts.folds(1)
        with pytest.raises(ValueError, match="made by split"):
            Splits(parts.train, parts.stopping, parts.validation).folds(5)
