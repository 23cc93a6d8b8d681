from __future__ import annotations

import hashlib
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from alexnet_keras.data import Examples
from alexnet_keras.data.contents import FileContents, MemoryContents, Names, as_contents
from alexnet_keras.data.examples import key_shares
from alexnet_keras.data.records import RecordContents, example, scan_shard

ODD = ["a", "", "rose/größe.jpg", os.fsdecode(b"\xff\xfe.jpg"), "花/1.png", "a"]


def test_names_are_a_sequence_of_the_strings_they_were_made_of():
    names = Names(ODD)
    assert list(names) == ODD
    assert names == ODD and names == Names(ODD) and names != ODD[::-1] and names != ODD[:-1]
    assert [names[i] for i in range(-6, 6)] == ODD + ODD
    assert names[1:4] == ODD[1:4]
    assert list(names.encoded()) == [os.fsencode(name) for name in ODD]
    for outside in (6, -7):
        with pytest.raises(IndexError):
            names[outside]
    assert len(Names()) == 0 and Names() == []


def test_names_are_selected_and_joined():
    names = Names(ODD)
    assert names.select([3, 0, 3]) == [ODD[3], ODD[0], ODD[3]]
    assert names.select([]) == []
    assert Names.joined([names.select([0, 1]), Names(), names.select([2, 3, 4, 5])]) == ODD
    assert Names.joined([]) == []
    assert Names.joined([names, names]).digest() == Names(ODD + ODD).digest()
    # The same letters, cut elsewhere.
    assert Names(["ab", "c"]).digest() != Names(["a", "bc"]).digest()


def test_a_name_takes_eight_bytes_besides_its_letters():
    count, letters = 200_000, 14
    tracemalloc.start()
    names = Names(f"class{i % 10}/{i:07d}" for i in range(count))
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(names[-1]) == letters
    assert held < 1.01 * count * (8 + letters)


IMAGES = [bytes([65 + i]) * (10 + i) for i in range(7)]


def make(kind, folder, images=IMAGES):
    """Seven images held in the way `kind`."""
    folder.mkdir(exist_ok=True)
    if kind == "memory":
        return MemoryContents(images)
    if kind == "records":
        shards = [folder / f"{i}.tfrecord" for i in range(2)]
        for shard, some in zip(shards, (images[:3], images[3:]), strict=True):
            with tf.io.TFRecordWriter(str(shard)) as writer:
                for image in some:
                    writer.write(example(image, 0, b""))
        places = [scan_shard(shard).places for shard in shards]
        places[1]["shard"] = 1
        return RecordContents(shards, np.concatenate(places))
    paths = [folder / f"größe {i}.jpg" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(image)
    if kind == "paths":
        return as_contents(paths)
    return FileContents(folder, Names(path.name for path in paths))


KINDS = ["memory", "files", "paths", "records"]


@pytest.fixture(params=KINDS)
def contents(request, tmp_path):
    return make(request.param, tmp_path / "held")


def loaded(contents, order):
    indices = tf.data.Dataset.from_tensor_slices(np.array(order, np.int64))
    batches = indices.map(contents.loader(), num_parallel_calls=3, deterministic=True)
    return list(batches.as_numpy_iterator())


def test_any_image_is_read_by_its_number_on_the_host_and_in_a_graph(contents):
    order = [6, 0, 3, 3, 5, 1, 2, 4]
    assert [contents.read(i) for i in order] == loaded(contents, order)
    assert loaded(contents, order) == [IMAGES[i] for i in order]
    assert list(contents) == IMAGES and len(contents) == 7


def test_a_selection_of_a_selection_keeps_its_order(contents):
    some = contents.select(np.array([5, 1, 6, 2])).select(np.array([2, 0]))
    assert list(some) == loaded(some, [0, 1]) == [IMAGES[6], IMAGES[5]]
    assert len(contents.select(np.array([], np.int64))) == 0


def test_sizes_are_told_without_reading(contents, tmp_path):
    extra = len(example(IMAGES[0], 0, b"")) - 10 if isinstance(contents, RecordContents) else 0
    assert list(contents.sizes()) == [len(image) + extra for image in IMAGES]


@pytest.mark.parametrize("kind", ["files", "paths", "records"])
def test_an_image_that_cannot_be_read_leaves_the_others_alone(kind, tmp_path):
    contents = make(kind, tmp_path / "held")
    if kind == "records":
        shard = tmp_path / "held" / "1.tfrecord"
        torn = shard.read_bytes().replace(IMAGES[4], b"?" + IMAGES[4][1:])
        shard.write_bytes(torn)
    else:
        next((tmp_path / "held").glob("*4.jpg")).unlink()
        assert contents.sizes()[4] == -1
    with pytest.raises(OSError):
        contents.read(4)
    with pytest.raises(tf.errors.OpError):
        loaded(contents, [4])
    assert loaded(contents, [3, 5]) == [IMAGES[3], IMAGES[5]]


def examples(contents, **changes):
    given = {
        "name": "some",
        "class_names": ("a", "b"),
        "keys": [str(i) for i in range(7)],
        "labels": np.array([0, 1, 0, 1, 0, 1, 0], np.int32),
    }
    return Examples(contents=contents, **(given | changes))


@pytest.mark.parametrize("kind", KINDS)
def test_the_fingerprint_is_of_what_is_learnt_from_not_of_where_it_lies(kind, tmp_path):
    print_of = [
        examples(make(kind, tmp_path / place), name=place).fingerprint()
        for place in ("here", "there")
    ]
    assert print_of[0] == print_of[1]
    held = make(kind, tmp_path / "here")
    longer = [*IMAGES[:6], IMAGES[6] + b"!"]
    changed = [
        examples(held, class_names=("a", "c")),
        examples(held, keys=["x", *map(str, range(1, 7))]),
        examples(held, labels=np.array([0, 1, 0, 1, 0, 1, 1], np.int32)),
        examples(make(kind, tmp_path / "longer", longer)),
        examples(held).select([1, 0, 2, 3, 4, 5, 6]),
        examples(held).select(range(6)),
    ]
    prints = {other.fingerprint() for other in changed}
    assert len(prints) == len(changed) and print_of[0] not in prints


@pytest.mark.parametrize("kind", ["memory", "records"])
def test_the_fingerprint_sees_a_changed_byte_where_that_costs_nothing(kind, tmp_path):
    other = [*IMAGES[:6], b"?" + IMAGES[6][1:]]
    assert make(kind, tmp_path / "a").digest() != make(kind, tmp_path / "b", other).digest()


def test_examples_take_bytes_paths_and_contents_alike(tmp_path):
    path = tmp_path / "0.jpg"
    path.write_bytes(b"x")
    for given in ((b"x",), [Path(path)], MemoryContents([b"x"])):
        one = Examples("one", ("a",), ("k",), np.zeros(1, int), given)
        assert one.read(0) == b"x" and one.keys == ("k",) and one.labels.dtype == np.int32
        assert one.loader()(tf.constant(0, tf.int64)).numpy() == b"x"
    none = Examples("none", ("a",), (), np.zeros(0, int), ())
    assert len(none) == 0 and none.fingerprint()
    with pytest.raises(ValueError, match="2 keys, 1 labels, 1 contents"):
        Examples("two", ("a",), ("k", "l"), np.zeros(1, int), (b"x",))


def test_the_place_of_a_key_is_a_hash_of_salt_and_key():
    keys = [*ODD, *map(str, range(50))]

    def by_hand(key):
        digest = hashlib.sha256(b"some salt:" + os.fsencode(key)).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    assert list(key_shares(Names(keys), "some salt")) == [by_hand(key) for key in keys]
