from __future__ import annotations

import errno
import io
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from alexnet_keras.data import convert as module
from alexnet_keras.data import load_examples, read_folder, records
from alexnet_keras.data.convert import convert, verify
from alexnet_keras.data.records import read_records
from alexnet_keras.errors import UserError


def photograph(height=20, width=30, seed=0, **options):
    """Smooth colours, as photographs have them."""
    coarse = np.random.default_rng(seed).integers(64, 192, (5, 5, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, **options)
    return file.getvalue()


def fill(folder, files):
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


@pytest.fixture
def photos(tmp_path):
    """Two classes of 20, one of them torn."""
    files = {
        f"{name}/{i}.jpg": photograph(seed=i + 100 * label)
        for label, name in enumerate(("daisy", "tulip"))
        for i in range(20)
    }
    return fill(tmp_path / "photos", files | {"tulip/7.jpg": files["tulip/7.jpg"][:-200]})


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def quietly(*arguments, **options):
    return convert(*arguments, verbose=0, **options)


def test_every_readable_photograph_is_in_one_shard_with_its_bytes_label_and_key(photos, tmp_path):
    said = quietly(photos, tmp_path / "out", shards=3)
    assert "39 images in 3 shards" in said and "1 unreadable left out" in said
    assert set(files_of(tmp_path / "out")) == {
        *(f"train-0000{i}-of-00003.tfrecord" for i in range(3)),
        "train.index.npz",
        "manifest.json",
        "skipped.txt",
    }
    seen = {}
    for shard in (tmp_path / "out").glob("*.tfrecord"):  # read by TensorFlow, not by us
        for record in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            key = features["file_name"].bytes_list.value[0].decode()
            seen[key] = features["image"].bytes_list.value[0], features["label"].int64_list.value[0]
    source = read_folder(photos)
    assert seen == {
        key: (source.read(i), source.labels[i])
        for i, key in enumerate(source.keys)
        if key != "tulip/7.jpg"
    }
    assert (tmp_path / "out" / "skipped.txt").read_text() == "tulip/7.jpg\ttruncated JPEG\n"


def test_the_result_is_a_data_dir(photos, tmp_path):
    quietly(photos, tmp_path / "out", shards=3)
    training, stopping, validation = load_examples("auto", tmp_path / "out")
    assert (stopping, validation) == (None, None)
    assert (training.name, training.class_names) == ("photos", ("daisy", "tulip"))
    source = read_folder(photos)
    where = {key: i for i, key in enumerate(source.keys)}
    for i, key in enumerate(training.keys):
        assert training.read(i) == source.read(where[key])
        assert training.labels[i] == source.labels[where[key]]


def test_shards_are_mixed_and_the_same_each_time(photos, tmp_path):
    for name in ("a", "b"):
        quietly(photos, tmp_path / name, shards=3)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    labels = read_records(tmp_path / "a")["train"].labels
    # In the order of the folders there would be one change of class; by chance about 19.
    assert 10 < np.count_nonzero(np.diff(labels)) < 29


def test_training_and_validation_folders_become_parts(photos, tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    photos.rename(tree / "train")
    fill(
        tree,
        {f"val/tulip/{i}.jpg": photograph(seed=i) for i in range(10)} | {"val/tulip/x.jpg": b""},
    )
    quietly(tree, tmp_path / "out", shards=4)
    parts = read_records(tmp_path / "out")
    assert {name: len(part) for name, part in parts.items()} == {"train": 39, "val": 10}
    assert parts["train"].name == "tree"
    assert set(parts["val"].labels) == {1}
    # Of about the same size as the four of the 40.
    assert len(list((tmp_path / "out").glob("val-*.tfrecord"))) == 1
    lines = (tmp_path / "out" / "skipped.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["train/tulip/7.jpg", "val/tulip/x.jpg"]


def test_shards_are_about_as_large_as_asked(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 300, 400, 3), dtype=np.uint8)
    folder = tmp_path / "photos"
    for i, pixels in enumerate(noise):
        (folder / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / "ab"[i % 2] / f"{i}.png")  # 0.36 MB
    quietly(folder, tmp_path / "out", shard_megabytes=3)
    sizes = [path.stat().st_size / 1e6 for path in (tmp_path / "out").glob("*.tfrecord")]
    assert len(sizes) == 5 and all(2.5 < size < 3.5 for size in sizes)


def test_only_larger_photographs_are_resized_as_pillow_does(tmp_path):
    large, tall = photograph(90, 160, seed=1), photograph(200, 100, seed=2)
    turned = Image.Exif()
    turned[0x0112] = 6  # seen turned by a quarter
    files = {
        "a/large.jpg": large,
        "a/tall.jpg": tall,
        "b/small.jpg": photograph(48, 60),
        "b/turned.jpg": photograph(90, 160, exif=turned.tobytes()),
    }
    quietly(fill(tmp_path / "photos", files), tmp_path / "out", resize=48, quality=90)
    part = read_records(tmp_path / "out")["train"]
    stored = {key: part.read(i) for i, key in enumerate(part.keys)}
    images = {key: Image.open(io.BytesIO(content)) for key, content in stored.items()}
    assert stored["b/small.jpg"] == files["b/small.jpg"]
    sizes = {key: image.size for key, image in images.items()}
    assert sizes["a/large.jpg"] == (85, 48)
    assert sizes["a/tall.jpg"] == (48, 96)
    assert sizes["b/turned.jpg"] == (48, 85) and not images["b/turned.jpg"].getexif()
    for key, original in (("a/large.jpg", large), ("a/tall.jpg", tall)):
        by_pillow = Image.open(io.BytesIO(original)).resize(sizes[key], Image.Resampling.BILINEAR)
        difference = np.asarray(by_pillow, float) - np.asarray(images[key], float)
        assert np.abs(difference).mean() < 2  # what JPEG at quality 90 costs


def test_a_finished_conversion_is_kept_and_only_what_differs_is_made_again(photos, tmp_path):
    out = tmp_path / "out"
    quietly(photos, out, shards=3)
    before, times = files_of(out), {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    damaged, missing = out / "train-00001-of-00003.tfrecord", out / "train-00002-of-00003.tfrecord"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    missing.unlink()
    with pytest.raises(UserError, match="2 of 4 files .*train-00001.*train-00002"):
        verify(out, verbose=0)
    quietly(photos, out, shards=3)
    assert files_of(out) == before
    first = out / "train-00000-of-00003.tfrecord"
    assert first.stat().st_mtime_ns == times[first.name]
    assert "All 4 files" in verify(out, verbose=0) and "39 images" in verify(out, verbose=0)


@pytest.mark.parametrize("written", [0, 1, 17, 30, 38])
def test_after_a_full_disk_it_goes_on_to_the_same_bytes(written, photos, tmp_path, monkeypatch):
    quietly(photos, tmp_path / "whole", shards=3)
    calls = itertools.count()

    def example(*arguments):
        if next(calls) == written:
            raise OSError(errno.ENOSPC, "No space left on device")
        return records.example(*arguments)

    monkeypatch.setattr(module, "example", example)
    out = tmp_path / "out"
    with pytest.raises(UserError, match="The disk is full.*same command again"):
        quietly(photos, out, shards=3)
    assert not list(out.glob(".*"))  # what was torn has made space
    with pytest.raises(UserError, match="unfinished.*once more"):
        verify(out, verbose=0)
    if written:
        with pytest.raises(UserError, match="unfinished|No photograph"):
            load_examples("auto", out)
    monkeypatch.undo()
    quietly(photos, out, shards=3)
    assert files_of(out) == files_of(tmp_path / "whole")


def change_a_size(photos):
    path = photos / "daisy" / "3.jpg"
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize(
    "change",
    [
        change_a_size,
        lambda photos: (photos / "daisy" / "3.jpg").unlink(),
        lambda photos: (photos / "daisy" / "new.jpg").write_bytes(photograph()),
        lambda photos: (photos / "daisy" / "3.jpg").rename(photos / "daisy" / "x.jpg"),
        lambda photos: (photos / "daisy").rename(photos / "bellis"),
    ],
    ids=["a size", "one less", "one more", "a name", "a class"],
)
def test_photographs_that_changed_since_are_refused(change, photos, tmp_path):
    quietly(photos, tmp_path / "out", shards=3)
    before = files_of(tmp_path / "out")
    change(photos)
    with pytest.raises(UserError, match="are not those .* began with"):
        quietly(photos, tmp_path / "out", shards=3)
    assert files_of(tmp_path / "out") == before


def test_other_options_are_refused_and_named(photos, tmp_path):
    quietly(photos, tmp_path / "out", shards=3)
    with pytest.raises(UserError, match=r"resize None there, 16 now"):
        quietly(photos, tmp_path / "out", shards=3, resize=16)
    with pytest.raises(UserError, match="shards .*3.* there, .*4.* now"):
        quietly(photos, tmp_path / "out", shards=4)


def test_it_does_not_write_among_other_files_nor_among_the_photographs(photos, tmp_path):
    fill(tmp_path / "out", {"thesis.txt": b"x"})
    with pytest.raises(UserError, match="holds other files .'thesis.txt'"):
        quietly(photos, tmp_path / "out")
    with pytest.raises(UserError, match="inside the photographs' folder"):
        quietly(photos, photos / "out")


def test_two_conversions_do_not_write_into_one_folder(photos, tmp_path):
    with (
        module._for_this_process(tmp_path / "out"),
        pytest.raises(UserError, match="Another process"),
    ):
        quietly(photos, tmp_path / "out")


def test_photographs_none_of_which_can_be_read_are_refused(tmp_path):
    folder = fill(tmp_path / "photos", {"a/1.jpg": b"x", "b/2.jpg": b"y"})
    with pytest.raises(UserError, match="None of the 2 images"):
        quietly(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda out: (out / "train-00001-of-00003.tfrecord").unlink(), "train-00001"),
        (lambda out: (out / "train-00001-of-00003.tfrecord").write_bytes(b"short"), "train-00001"),
        (lambda out: (out / "train.index.npz").unlink(), "train.index.npz"),
        (lambda out: (out / "train.index.npz").write_bytes(b"x"), "train.index.npz"),
        (lambda out: (out / "manifest.json").write_text("{"), "manifest.json"),
        (lambda out: (out / "manifest.json").write_text('{"format": "x"}'), "'x', not"),
    ],
)
def test_what_is_not_as_it_was_written_is_not_trained_on(spoil, words, photos, tmp_path):
    quietly(photos, tmp_path / "out", shards=3)
    spoil(tmp_path / "out")
    with pytest.raises(UserError, match=words):
        load_examples("auto", tmp_path / "out")


def test_no_more_than_a_few_images_wait_to_be_written():
    begun = []
    with ThreadPoolExecutor(4) as pool:
        results = module._in_order(pool, begun.append, range(1000), ahead=8)
        for taken in range(1, 1001):
            next(results)
            assert len(begun) <= taken + 8
    assert sorted(begun) == list(range(1000))


def test_the_manifest_holds_no_path_of_this_machine(photos, tmp_path):
    quietly(photos, tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert str(Path(tmp_path)) not in json.dumps(manifest)
