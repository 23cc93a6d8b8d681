from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from alexnet_keras.data.records import (
    RecordContents,
    RecordIndex,
    example,
    index_shards,
    is_record_folder,
    scan_shard,
)
from alexnet_keras.errors import UserError


def write(path, records):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    return path


@pytest.fixture
def shards(tmp_path):
    """Two shards of five records."""
    return [
        write(
            tmp_path / f"some-{s}.tfrecord",
            [example(bytes([65 + i]) * (50 * i + s), i, f"{s}/{i}.jpg".encode()) for i in range(5)],
        )
        for s in range(2)
    ]


def masked_crc32c(data):
    """Bit by bit from its polynomial; the mask is that of TensorFlow's core/lib/hash/crc32c.h."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_a_shard_is_indexed_as_tensorflow_reads_it(shards):
    index = scan_shard(shards[1])
    read = list(tf.data.TFRecordDataset(str(shards[1])).as_numpy_iterator())
    assert list(index.labels) == [0, 1, 2, 3, 4]
    assert index.keys == [f"1/{i}.jpg" for i in range(5)]
    assert list(index.places["length"]) == [len(record) for record in read]
    assert list(index.places["crc"]) == [masked_crc32c(record) for record in read]
    starts = np.cumsum([0, *(16 + len(record) for record in read)])
    assert list(index.places["offset"]) == list(starts[:-1])
    assert starts[-1] == shards[1].stat().st_size


def test_the_features_have_the_names_that_tfds_gives_imagenet():
    features = tf.train.Example.FromString(example(b"jpeg", 7, b"n1/n1_2.JPEG")).features.feature
    assert set(features) == {"image", "label", "file_name"}
    assert features["image"].bytes_list.value == [b"jpeg"]
    assert features["label"].int64_list.value == [7]
    assert features["file_name"].bytes_list.value == [b"n1/n1_2.JPEG"]


def test_a_record_of_any_length_is_read(tmp_path):
    # The reader's own default buffer is 256 KiB.
    images = [b"", b"x", b"y" * 300_000, b"z" * 262_144, b"w" * 5_000_000, b"v"]
    shard = write(tmp_path / "s", [example(image, 0, b"") for image in images])
    contents = RecordContents([shard], scan_shard(shard).places)
    assert list(contents) == images


def test_a_shard_whose_frame_is_broken_is_refused_with_the_place(shards):
    whole = shards[0].read_bytes()
    second = int(scan_shard(shards[0]).places["offset"][1])
    for damaged in (
        whole[:second] + b"\xff" * 8 + whole[second + 8 :],
        whole[: second + 7],
        whole[: second + 20],
    ):
        shards[0].write_bytes(damaged)
        with pytest.raises(UserError, match=f"some-0.tfrecord is damaged at byte {second} of"):
            scan_shard(shards[0])


def test_a_record_that_makes_no_sense_is_left_out(tmp_path):
    unlabelled = tf.train.Example(
        features=tf.train.Features(
            feature={"image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"x"]))}
        )
    ).SerializeToString()
    good = example(b"good", 3, b"good.jpg")
    shard = write(tmp_path / "s", [b"\xff\xff\xff", unlabelled, good])
    index = scan_shard(shard)
    assert (list(index.labels), index.keys) == ([3], ["good.jpg"])
    assert list(RecordContents([shard], index.places)) == [b"good"]


def test_an_index_is_the_same_after_a_round_through_its_file(shards, tmp_path):
    index = RecordIndex.joined(list(map(scan_shard, shards)))
    index.save(tmp_path / "a.npz")
    read = RecordIndex.load(tmp_path / "a.npz")
    read.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    np.testing.assert_array_equal(read.places, index.places)
    assert list(read.places["shard"]) == [0] * 5 + [1] * 5
    assert read.keys == index.keys
    images = list(RecordContents(shards, read.places))
    assert images == [bytes([65 + i]) * (50 * i + s) for s in range(2) for i in range(5)]


@pytest.mark.parametrize("content", [b"", b"PK torn", b"\x80\x04."])
def test_a_file_that_is_no_index_is_told(content, tmp_path):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ValueError, match="no index of records"):
        RecordIndex.load(tmp_path / "x.npz")


def test_foreign_shards_are_looked_through_once(shards, tmp_path):
    said, cache = [], tmp_path / "cache"
    first = index_shards(shards, "some", say=said.append, cache_dir=cache)
    assert "2 TFRecord files of some" in said[0] and str(cache) in said[0]
    again = index_shards(shards, "some", say=said.append, cache_dir=cache)
    assert len(said) == 1
    np.testing.assert_array_equal(first.places, again.places)
    # Other sizes: other shards.
    write(shards[1], [example(b"new", 1, b"new.jpg")])
    assert len(index_shards(shards, "some", say=said.append, cache_dir=cache).places) == 6
    assert len(said) == 2


def test_a_torn_index_in_the_cache_is_built_anew(shards, tmp_path):
    index_shards(shards, "some", say=lambda _: None, cache_dir=tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_bytes(kept.read_bytes()[:-9])
    said = []
    assert len(index_shards(shards, "some", say=said.append, cache_dir=tmp_path / "cache").places)
    assert "built anew" in said[0]
    RecordIndex.load(kept)


def test_without_a_cache_it_still_works(shards, tmp_path):
    (tmp_path / "file").write_text("in the way")
    said = []
    index = index_shards(shards, "some", say=said.append, cache_dir=tmp_path / "file")
    assert len(index.places) == 10
    assert "could not be written" in said[-1]


def test_a_missing_shard_is_named(shards, tmp_path):
    shards[1].unlink()
    with pytest.raises(UserError, match="some-1.tfrecord cannot be read"):
        index_shards(shards, "some", cache_dir=tmp_path)


def test_photographs_beside_a_manifest_of_another_program_are_no_records(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"name": "a web app"}))
    (tmp_path / "daisy").mkdir()
    assert not is_record_folder(tmp_path)
