from __future__ import annotations

import io
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from alexnet_keras.data import load_examples, prepare_splits, read_folder
from alexnet_keras.data.folders import read_tree
from alexnet_keras.errors import UserError


def photograph(seed=0, kind="JPEG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.fixture
def make(tmp_path):
    """Writes {relative path: bytes, or None for a folder} below a fresh folder."""

    def write(files, name="photos"):
        for path, content in files.items():
            target = tmp_path / name / path
            if content is None:
                target.mkdir(parents=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
        return tmp_path / name

    return write


def two_classes(count=40):
    return {f"{c}/{i}.jpg": photograph(i) for c in ("daisy", "tulip") for i in range(count)}


def test_classes_are_the_subfolders_and_keys_the_relative_paths(make):
    folder = make(
        {
            "tulip/b.PNG": photograph(kind="PNG"),
            "daisy/deep/a.jpeg": photograph(),
            "daisy/notes.txt": b"no image",
            "daisy/.hidden.jpg": photograph(),
            ".git/x.jpg": photograph(),
            "__MACOSX/x.jpg": photograph(),
        }
    )
    examples = read_folder(folder)
    assert examples.class_names == ("daisy", "tulip")
    assert examples.keys == ("daisy/deep/a.jpeg", "tulip/b.PNG")
    assert list(examples.labels) == [0, 1]
    assert list(examples.counts) == [1, 1]
    assert examples.read(1) == photograph(kind="PNG")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"readme.txt": b""}, ["No photograph", "0 subfolders and 1 files"]),
        ({"daisy": None, "tulip": None}, ["No photograph", "2 subfolders"]),
        ({"daisy/a.jpg": b"x"}, ["only one class", "'daisy'"]),
        ({"daisy/a.jpg": b"x", "tulip": None}, ["'tulip'", "hold no photograph"]),
    ],
    ids=["loose files", "empty classes", "one class", "an empty class"],
)
def test_folders_that_are_no_class_folders_are_refused(files, words, make):
    folder = make(files)
    with pytest.raises(UserError) as caught:
        read_folder(folder)
    assert all(word in str(caught.value) for word in [*words, str(folder)])


def of(*parts):
    return {f"{part}/{c}/{i}.jpg": b"x" for part in parts for c in "ab" for i in range(2)}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (of("train", "val"), ["train", "val"]),
        (of("Training", "validation", "test"), ["train", "val", "test"]),
        (of("train"), ["train"]),
        (of("train", "testing") | {"devkit/readme.txt": b""}, ["train", "test"]),
        (of("train", "val") | {"test/1.jpg": b"x"}, ["train", "val"]),
    ],
    ids=["two", "three", "one", "beside another folder", "a test part without labels"],
)
def test_parts_of_class_folders_are_told_apart(files, expected, make):
    folder = make(files, "flowers")
    parts = read_tree(folder)
    assert list(parts) == expected
    for part in parts.values():
        assert (part.name, part.class_names) == ("flowers", ("a", "b"))
        assert part.keys == ("a/0.jpg", "a/1.jpg", "b/0.jpg", "b/1.jpg")
        assert list(part.labels) == [0, 0, 1, 1]
        assert part.read(3) == b"x"


def test_a_train_beside_a_bus_is_a_class(make):
    parts = read_tree(make({"train/1.jpg": b"x", "bus/1.jpg": b"x"}))
    assert parts["train"].class_names == ("bus", "train")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (of("val", "test"), ["'test', 'val'", "none to train on"]),
        (of("train", "val", "validation"), ["'val' and 'validation'", "same part"]),
        (of("train") | {"val/rose/1.jpg": b"x"}, ["'rose'", "not among the training classes"]),
        (
            of("train") | {f"val/ILSVRC2012_val_0000000{i}.JPEG": b"x" for i in range(3)},
            ["ImageNet's validation images", "3 files", "one subfolder for each class"],
        ),
    ],
    ids=["nothing to train on", "one part twice", "another class", "ImageNet's val, flat"],
)
def test_parts_that_make_no_sense_are_refused(files, words, make):
    with pytest.raises(UserError) as caught:
        read_tree(make(files))
    assert all(word in str(caught.value) for word in words)


def test_data_dir_takes_parts_and_val_dir_goes_before_them(make):
    three = make(of("train", "val", "test"), "three")
    other = make({"b/new.jpg": b"x"}, "other")
    training, stopping, validation = load_examples("auto", three)
    assert [len(part) for part in (training, stopping, validation)] == [4, 4, 4]
    two = load_examples("auto", make(of("train", "test"), "two"))
    assert two[1] is None and len(two[2]) == 4
    _, stopping, validation = load_examples("auto", three, other)
    assert (stopping, list(validation.labels)) == (None, [1])


def test_training_and_validation_subfolders_are_the_parts_of_a_run(make):
    files = {f"train/{path}": content for path, content in two_classes().items()}
    splits, _ = prepare_splits(
        "auto", make(files | {"val/tulip/1.jpg": photograph()}), say=lambda _: None, verbose=0
    )
    assert splits.validation.keys == ("tulip/1.jpg",)
    assert len(splits.train) + len(splits.stopping) == 80


def test_names_are_ordered_folder_by_folder_and_may_be_no_utf8(make):
    odd = os.fsdecode(b"b/\xff.jpg")
    examples = read_folder(
        make({"a/z/1.jpg": b"1", "a/z-y/1.jpg": b"2", "a/é.jpg": b"3", odd: b"4"})
    )
    assert examples.keys == ("a/z/1.jpg", "a/z-y/1.jpg", "a/é.jpg", odd)
    load = examples.loader()
    assert [load(tf.constant(i, tf.int64)).numpy() for i in range(4)] == [b"1", b"2", b"3", b"4"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="There is no folder .*nowhere"):
        read_folder(tmp_path / "nowhere")


def test_validation_classes_must_be_training_classes(make):
    other = make({"daisy/1.jpg": b"x", "rose/1.jpg": b"x"}, "other")
    with pytest.raises(UserError, match="'rose'"):
        read_folder(other, ("daisy", "tulip"))
    some = make({"tulip/1.jpg": b"x"}, "some")
    assert list(read_folder(some, ("daisy", "tulip")).labels) == [1]


def test_unreadable_images_are_left_out_and_listed(make, tmp_path):
    files = two_classes() | {"daisy/empty.jpg": b"", "tulip/photo.heic": b"ftypheic"}
    said = []
    splits, skipped = prepare_splits(
        "auto", make(files), say=said.append, skipped_path=tmp_path / "skipped.txt", verbose=0
    )
    assert [bad.key for bad in skipped] == ["daisy/empty.jpg", "tulip/photo.heic"]
    assert len(splits.train) + len(splits.stopping) + len(splits.validation) == 80
    lines = (tmp_path / "skipped.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["daisy/empty.jpg", "tulip/photo.heic"]
    assert "2 of 82 images cannot be read" in said[0]


def test_more_than_five_percent_unreadable_stops_unless_allowed(make, tmp_path):
    files = two_classes() | {f"daisy/bad{i}.jpg": b"torn" for i in range(5)}  # 5 of 85
    folder, listed = make(files), tmp_path / "skipped.txt"
    with pytest.raises(UserError, match="5 of 85 .* more than 5%.*--allow-bad"):
        prepare_splits("auto", folder, skipped_path=listed, verbose=0)
    assert len(listed.read_text().splitlines()) == 5
    _, skipped = prepare_splits("auto", folder, allow_bad=True, say=lambda _: None, verbose=0)
    assert len(skipped) == 5


def test_nothing_readable_stops_even_if_bad_images_are_allowed(make):
    folder = make({"daisy/a.jpg": b"x", "tulip/b.jpg": b"y"})
    with pytest.raises(UserError, match="None of the 2 images"):
        prepare_splits("auto", folder, allow_bad=True, verbose=0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_skipped(make):
    folder = make(two_classes())
    (folder / "daisy" / "0.jpg").chmod(0)
    _, skipped = prepare_splits("auto", folder, say=lambda _: None, verbose=0)
    assert [bad.key for bad in skipped] == ["daisy/0.jpg"]


def test_a_file_that_vanishes_is_skipped(make):
    folder = make(two_classes())
    (folder / "daisy" / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    _, skipped = prepare_splits("auto", folder, say=lambda _: None, verbose=0)
    assert [bad.key for bad in skipped] == ["daisy/gone.jpg"]
    assert "cannot be read" in skipped[0].reason
