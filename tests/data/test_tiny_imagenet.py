from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from alexnet_keras.data import load_examples, prepare_training
from alexnet_keras.data.convert import convert
from alexnet_keras.data.layouts import read_layout
from alexnet_keras.data.tiny_imagenet import is_tiny_imagenet, read_tiny_imagenet
from alexnet_keras.errors import UserError

WORDS = {
    "n01443537": "goldfish, Carassius auratus",
    "n02012849": "crane",
    "n03126707": "crane",
    "n09999999": "not in the set",
}
IDS = ("n03126707", "n01443537", "n02012849")  # wnids.txt is in no order
VALIDATION = {"val_0.JPEG": "n02012849", "val_1.JPEG": "n01443537", "val_10.JPEG": "n01443537"}


def jpeg(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((64, 64, 3), level, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "tiny-imagenet-200"
    for key in IDS:
        (root / "train" / key / "images").mkdir(parents=True)
        for number in range(4):
            path = root / "train" / key / "images" / f"{key}_{number}.JPEG"
            path.write_bytes(jpeg(10 * number))
        (root / "train" / key / f"{key}_boxes.txt").write_text(f"{key}_0.JPEG\t0\t0\t9\t9\n")
    (root / "val" / "images").mkdir(parents=True)
    for number, name in enumerate(VALIDATION):
        (root / "val" / "images" / name).write_bytes(jpeg(100 + number))
    lines = [f"{name}\t{key}\t0\t0\t9\t9\n" for name, key in VALIDATION.items()]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "test" / "images").mkdir(parents=True)
    (root / "test" / "images" / "test_0.JPEG").write_bytes(jpeg(1))
    (root / "wnids.txt").write_text("\n".join(IDS) + "\n")
    (root / "words.txt").write_text("".join(f"{k}\t{v}\n" for k, v in WORDS.items()))
    return root


def test_its_parts_have_the_classes_that_the_annotations_say(folder):
    parts = read_tiny_imagenet(folder)
    assert list(parts) == ["train", "val"]
    expected = ("goldfish", "crane (n02012849)", "crane (n03126707)")
    assert parts["train"].class_names == parts["val"].class_names == expected
    assert list(parts["train"].counts) == [4, 4, 4]
    by_key = dict(zip(parts["val"].keys, parts["val"].labels, strict=True))
    assert by_key == {"images/val_0.JPEG": 1, "images/val_1.JPEG": 0, "images/val_10.JPEG": 0}
    for number, key in enumerate(parts["val"].keys):
        assert parts["val"].read(number) == (folder / "val" / key).read_bytes()


def test_recipes_know_it_by_its_layout(folder):
    training, watched, validation = load_examples(data_dir=folder)
    assert (len(training), watched, len(validation)) == (12, None, 3)
    parts = prepare_training("imagenet2012", folder, watch_share=0.25)
    assert len(parts.train) + len(parts.watched) == 12
    assert len(parts.validation) == 3


def test_the_converter_keeps_it_as_it_is(folder, tmp_path):
    convert(folder, tmp_path / "records", verbose=0)
    before, after = read_tiny_imagenet(folder), load_examples(data_dir=tmp_path / "records")
    for part, examples in (("train", after[0]), ("val", after[2])):
        assert examples.class_names == before[part].class_names
        read = {key: examples.read(n) for n, key in enumerate(examples.keys)}
        assert read == {key: before[part].read(n) for n, key in enumerate(before[part].keys)}


def test_some_of_the_classes_are_a_set_too(folder):
    (folder / "train" / IDS[0]).rename(folder.parent / "elsewhere")
    (folder / "train" / IDS[2]).rename(folder.parent / "elsewhere too")
    (folder / "train" / "n09999999" / "images").mkdir(parents=True)
    (folder / "train" / "n09999999" / "images" / "a.JPEG").write_bytes(jpeg(3))
    parts = read_tiny_imagenet(folder)
    assert parts["train"].class_names == ("goldfish", "not in the set")
    assert list(parts["val"].labels) == [0, 0]


def test_class_folders_are_read_as_before(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(jpeg(1))
    assert not is_tiny_imagenet(tmp_path)
    assert list(read_layout(tmp_path)) == ["train"]


def test_damage_is_told(folder):
    (folder / "val" / "images" / "val_1.JPEG").unlink()
    with pytest.raises(UserError, match=r"1 of the 3 images .* val/images/val_1.JPEG"):
        read_tiny_imagenet(folder)
    (folder / "val" / "val_annotations.txt").write_text("val_0.JPEG n02012849\n")
    with pytest.raises(UserError, match=r"Line 1 of .* names no class"):
        read_tiny_imagenet(folder)


def test_without_words_the_ids_are_the_names(folder):
    (folder / "words.txt").unlink()
    assert read_tiny_imagenet(folder)["train"].class_names == tuple(sorted(IDS))


def test_by_name_it_says_how_it_is_had():
    with pytest.raises(UserError, match=r"tiny-imagenet-200.zip .* --data-dir"):
        load_examples("tiny_imagenet")
