from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from alexnet_keras.data import AUGMENTATIONS, Examples, pipeline
from alexnet_keras.data.augmentation import Augmentation, Unchanged
from alexnet_keras.data.mixing import GROUP, Mixing
from alexnet_keras.data.pipeline import augmented_view, centre_view, view_seed
from alexnet_keras.data.stream import (
    Share,
    evaluation_stream,
    examples_of_step,
    steps_in_epoch,
    training_stream,
)
from alexnet_keras.errors import UserError

SIDE, SEED, COUNT, BATCH = 8, 3, 27, 16
#: of an epoch of COUNT examples: the second step has 5 rows that fill it up
STEPS = 2
MIXING = Mixing(mixup=0.2, cutmix=1.0)
PUBLISHED = AUGMENTATIONS["alexnet2012"]()


@pytest.fixture(scope="module", autouse=True)
def simple_decoding():
    """Decoding has tests of its own, and takes seconds to trace for each stream."""

    def decode_window(content, window, size):
        image = tf.io.decode_png(content, channels=3)
        top, left, height, width = tf.unstack(window(tf.shape(image)[0], tf.shape(image)[1]))
        return tf.image.resize(image[top : top + height, left : left + width], [size, size])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "decode_window", decode_window)
        yield


def encoded(number):
    rng = np.random.default_rng(number)
    file = io.BytesIO()
    pixels = rng.integers(0, 255, (10 + number % 5, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def examples_of(count, unreadable=()):
    contents = [b"no image" if i in unreadable else encoded(i) for i in range(count)]
    return Examples(
        "some", tuple("abc"), list(map(str, range(count))), np.arange(count) % 3, contents
    )


EXAMPLES = examples_of(COUNT)


def training(steps, examples=EXAMPLES, augmentation=PUBLISHED, share=None, threads=None, **options):
    """The first batches, as NumPy."""
    share = share or Share(BATCH)
    options = {"seed": SEED} | options
    stream = training_stream(examples, augmentation, image_size=SIDE, share=share, **options)
    if threads is not None:
        limits = tf.data.Options()
        limits.threading.private_threadpool_size = threads
        stream = stream.with_options(limits)
    return list(stream.take(steps).as_numpy_iterator())


def assert_equal(given, expected):
    assert len(given) == len(expected)
    for ours, theirs in zip(given, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def joined(batches):
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


@pytest.fixture(scope="module")
def mixed():
    """Two epochs and a half, with everything on."""
    return training(5, mixing=MIXING, color_until=3)


@pytest.fixture(scope="module")
def plain():
    """Three epochs without mixtures."""
    return training(6)


def test_an_epoch_has_as_many_steps_as_its_examples_fill():
    assert [steps_in_epoch(count, 4) for count in (1, 4, 5, 8)] == [1, 1, 2, 2]


def test_every_example_counts_exactly_once_an_epoch(plain):
    for epoch in range(3):
        rows = joined(plain[STEPS * epoch : STEPS * (epoch + 1)])
        assert set(rows["weights"]) == {0.0, 1.0}
        counted = rows["examples"][rows["weights"] == 1]
        assert sorted(counted) == list(range(COUNT))
        # Only the end of the last batch is filled up.
        np.testing.assert_array_equal(rows["weights"], np.arange(STEPS * BATCH) < COUNT)


def test_rows_say_what_they_hold(plain):
    for batch in plain:
        assert {name: (value.shape, value.dtype.name) for name, value in batch.items()} == {
            "images": ((BATCH, SIDE, SIDE, 3), "float32"),
            "labels": ((BATCH, 3), "float32"),
            "truths": ((BATCH,), "int32"),
            "weights": ((BATCH,), "float32"),
            "rows": ((BATCH,), "int32"),
            "examples": ((BATCH,), "int64"),
            "unreadable": ((BATCH,), "bool"),
        }
        np.testing.assert_array_equal(batch["rows"], np.arange(BATCH))
        np.testing.assert_array_equal(batch["truths"], batch["examples"] % 3)
        np.testing.assert_array_equal(batch["labels"], np.eye(3)[batch["truths"]])
        assert not batch["unreadable"].any()


def test_views_are_keyed_by_seed_step_and_example(plain):
    for step, row in ((0, 0), (1, 9), (1, 15), (4, 7)):  # (1, 15) fills up
        example = int(plain[step]["examples"][row])
        seed = view_seed(SEED, step, tf.constant(example))
        expected = augmented_view(tf.constant(encoded(example)), PUBLISHED, SIDE, seed)
        np.testing.assert_allclose(plain[step]["images"][row], expected, atol=1e-3)


def test_epochs_and_seeds_have_orders_of_their_own(plain):
    orders = [batch["examples"].tolist() for batch in plain[::STEPS]]
    orders.append(training(1, seed=SEED + 1)[0]["examples"].tolist())
    assert len(set(map(tuple, orders))) == 4
    assert list(range(BATCH)) not in orders


def test_which_examples_a_step_trains_on_can_be_told_without_reading_them(plain):
    for step, batch in enumerate(plain):
        told = examples_of_step(COUNT, BATCH, SEED, step)
        assert told.dtype == np.int64
        np.testing.assert_array_equal(told, batch["examples"][batch["weights"] == 1])


@pytest.mark.parametrize("first", [1, 2, 3])
def test_a_stream_can_begin_at_any_step(mixed, first):
    began = training(5 - first, mixing=MIXING, color_until=3, first_step=first)
    assert_equal(began, mixed[first:])


@pytest.mark.parametrize(("processes", "replicas"), [(1, 2), (2, 2)])
def test_shares_make_up_the_whole_with_mixtures(mixed, processes, replicas):
    steps = range(1, 4)
    per_process = replicas // processes
    parts = [
        training(
            per_process * len(steps),
            share=Share(BATCH, processes, process, replicas),
            mixing=MIXING,
            color_until=3,
            first_step=steps[0],
        )
        for process in range(processes)
    ]
    for number, step in enumerate(steps):
        of_step = slice(number * per_process, (number + 1) * per_process)
        together = joined([batch for part in parts for batch in part[of_step]])
        assert_equal([together], [mixed[step]])


def test_shares_without_mixtures_may_be_of_any_size(plain):
    parts = [training(4, share=Share(BATCH, 4, process, 8)) for process in range(4)]
    assert parts[0][0]["images"].shape[0] == 2
    for step in range(2):
        together = joined([batch for part in parts for batch in part[2 * step : 2 * step + 2]])
        assert_equal([together], [plain[step]])


def test_a_strategy_asks_for_its_share():
    context = tf.distribute.InputContext(
        num_input_pipelines=2, input_pipeline_id=1, num_replicas_in_sync=4
    )
    share = Share.of(context, 32)
    assert share == Share(32, processes=2, process=1, replicas=4)
    assert (share.rows, share.replica_batch) == (slice(16, 32), 8)


def test_shares_that_would_cut_a_group_of_mixtures_are_refused():
    with pytest.raises(UserError, match=r"batch of 24 shared by 2 devices gives each 12.*16 div"):
        training(1, share=Share(24, replicas=2), mixing=MIXING)
    assert len(training(1, share=Share(24, replicas=2))) == 1


def test_batches_are_the_same_whatever_the_number_of_threads(mixed):
    assert_equal(training(3, mixing=MIXING, color_until=3, threads=1), mixed[:3])


def test_mixtures_are_keyed_by_seed_step_and_place():
    # With a class for each example, its own share in each mixture can be told.
    base = examples_of(BATCH)
    names, labels = list(map(str, range(BATCH))), np.arange(BATCH)
    alone = Examples("some", names, base.keys, labels, base.contents)

    def shares(seed):
        for batch in training(2, alone, mixing=Mixing(mixup=1.0), seed=seed):
            own = batch["labels"][np.arange(BATCH), batch["truths"]]
            assert (own < 1).sum() > GROUP
            yield from np.split(own, BATCH // GROUP)

    groups = [*shares(SEED), *shares(SEED + 1)]
    assert len({own.tobytes() for own in groups}) == len(groups) == 8


def test_mixtures_change_images_and_labels_only(mixed, plain):
    for batch, unmixed in zip(mixed, plain, strict=False):
        for name in ("truths", "weights", "rows", "examples", "unreadable"):
            np.testing.assert_array_equal(batch[name], unmixed[name])
        np.testing.assert_allclose(batch["labels"].sum(1), 1, atol=1e-6)
    assert any((batch["labels"].max(1) < 0.99).any() for batch in mixed)


def test_mixing_with_neither_kind_is_none(plain):
    assert_equal(training(2, mixing=Mixing()), plain[:2])


def test_the_colour_noise_ends_exactly_at_its_step(plain):
    until = 3
    ending = training(5, color_until=until)
    without = training(5, augmentation=Augmentation(PUBLISHED.crop, Unchanged()))
    assert_equal(ending[:until], plain[:until])
    assert_equal(ending[until:], without[until:])
    assert np.abs(plain[until]["images"] - without[until]["images"]).max() > 1


def test_what_cannot_be_read_is_black_weighs_nothing_and_moves_nothing(plain):
    bad = int(plain[0]["examples"][4])
    batches = training(STEPS, examples_of(COUNT, unreadable=[bad]))
    for batch, whole in zip(batches, plain, strict=False):
        of_bad = batch["examples"] == bad
        np.testing.assert_array_equal(batch["examples"], whole["examples"])
        assert not batch["images"][of_bad].any()
        assert not batch["weights"][of_bad].any()
        np.testing.assert_array_equal(batch["images"][~of_bad], whole["images"][~of_bad])
        np.testing.assert_array_equal(batch["weights"][~of_bad], whole["weights"][~of_bad])
    assert np.flatnonzero(batches[0]["unreadable"]).tolist() == [4]
    # The same example fills up the last batch too (row 4 of the order): told once.
    assert bad in batches[1]["examples"]
    assert not batches[1]["unreadable"].any()


def test_what_cannot_be_read_is_mixed_into_nothing():
    # Class 2 is of the unreadable examples alone; of them, those that fill up count as well.
    count = 12
    order = examples_of_step(count, BATCH, SEED, 0)
    bad = [int(order[1]), int(order[7])]
    given = examples_of(count, unreadable=bad)
    labels = np.where(np.isin(np.arange(count), bad), 2, np.arange(count) % 2)
    given = Examples("some", given.class_names, given.keys, labels, given.contents)
    for batch in training(6, given, mixing=Mixing(mixup=1.0)):
        readable = ~np.isin(batch["examples"], bad)
        assert not batch["labels"][readable, 2].any()
        assert (batch["labels"][readable].max(1) < 1).any()


def test_fewer_examples_than_a_batch_are_repeated_at_no_weight():
    for batch in training(3, examples_of(3)):
        assert sorted(batch["examples"][:3]) == [0, 1, 2]
        np.testing.assert_array_equal(batch["weights"], np.arange(BATCH) < 3)
        np.testing.assert_array_equal(batch["examples"], np.resize(batch["examples"][:3], BATCH))


def evaluation(examples, **options):
    share = options.pop("share", Share(4))
    stream = evaluation_stream(
        examples,
        lambda content: centre_view(content, SIDE, 256 / 224),
        (SIDE, SIDE, 3),
        share=share,
        **options,
    )
    return list(stream.as_numpy_iterator())


def test_evaluation_goes_once_through_all_examples_in_order():
    batches = evaluation(examples_of(6, unreadable=[2]))
    rows = joined(batches)
    assert len(batches) == 2
    np.testing.assert_array_equal(rows["examples"], [0, 1, 2, 3, 4, 5, 0, 1])
    np.testing.assert_array_equal(rows["weights"], [1, 1, 0, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(rows["unreadable"], np.arange(8) == 2)
    np.testing.assert_array_equal(rows["labels"], np.eye(3)[rows["examples"] % 3])
    for row in (0, 4, 7):
        expected = centre_view(encoded(rows["examples"][row]), SIDE, 256 / 224)
        np.testing.assert_allclose(rows["images"][row], expected, atol=1e-3)


def test_evaluation_begins_at_any_step_and_is_shared():
    examples = examples_of(6)
    whole = evaluation(examples)
    assert_equal(evaluation(examples, first_step=1), whole[1:])
    halves = [evaluation(examples, share=Share(4, 2, process, 2)) for process in range(2)]
    for step in range(2):
        assert_equal([joined([half[step] for half in halves])], [whole[step]])
