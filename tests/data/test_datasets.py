from __future__ import annotations

import functools
import hashlib
import shutil
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import command_line
from alexnet_keras.data import (
    AUGMENTATIONS,
    DATASETS,
    datasets,
    load_examples,
    screen,
    tfds_source,
)
from alexnet_keras.data.tfds_source import Unavailable, read_tfds


def jpeg(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return tf.io.encode_jpeg(pixels).numpy()


def test_the_command_line_names_what_there_is():
    from alexnet_keras.alexnet import VARIANTS
    from alexnet_keras.training.precision import POLICIES
    from alexnet_keras.transfer import HEADS
    from alexnet_keras.transfer.classifier import CROPS
    from alexnet_keras.transfer.plan import HEAD_TRAINING

    assert command_line.DATASETS == DATASETS
    assert tuple(VARIANTS) == command_line.VARIANTS
    assert tuple(AUGMENTATIONS) == command_line.AUGMENTATIONS
    assert set(HEADS) == set(HEAD_TRAINING) == set(command_line.HEADS) - {"auto"}
    assert tuple(CROPS) == command_line.CROPS
    # float16 loses small gradients without a scale on the loss.
    assert set(command_line.FINE_TUNE_PRECISIONS) == {"auto", *POLICIES} - {"float16"}


@pytest.fixture
def few_drawn(monkeypatch):
    monkeypatch.setattr(datasets, "DRAWN_TRAIN_PER_CLASS", 3)
    monkeypatch.setattr(datasets, "DRAWN_VALIDATION_PER_CLASS", 2)


def test_drawn_flowers_have_parts_that_share_no_drawing(few_drawn):
    training, stopping, validation = load_examples("drawn_flowers")
    assert (len(training), stopping, len(validation)) == (15, None, 10)
    assert list(training.counts) == [3] * 5
    assert not set(training.contents) & set(validation.contents)


def test_auto_says_why_it_takes_the_drawn_flowers(few_drawn, monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tfds_source, "unreachable", lambda address: "no route")
    said = []
    training, _, _ = load_examples("auto", say=said.append)
    assert training.name == "drawn_flowers"
    assert "tf_flowers" in said[0] and "no route" in said[0] and "drawn_flowers" in said[0]


def test_a_dataset_asked_for_by_name_is_not_replaced(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tfds_source, "unreachable", lambda address: "no route")
    with pytest.raises(Unavailable, match=r"oxford_flowers102 .*no route.*--data-dir"):
        load_examples("oxford_flowers102")


@pytest.mark.parametrize("name", ["tf_flowers", "oxford_flowers102"])
def test_tfds_datasets_arrive_as_encoded_images(name, monkeypatch, tmp_path):
    import tensorflow_datasets as tfds

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tfds_source, "unreachable", lambda address: None)
    with tfds.testing.mock_data(num_examples=6):
        training, stopping, validation = read_tfds(name)
    official = name == "oxford_flowers102"
    assert (stopping is not None) == (validation is not None) == official
    assert len(training) == 6
    assert len(set(training.keys)) == 6
    assert training.labels.max() < len(training.class_names) == (102 if official else 5)
    assert training.labels.dtype == np.int32


@pytest.fixture
def cars(tmp_path, monkeypatch):
    """The four archives of Stanford Cars with two photographs each, and where TFDS wants them."""
    savemat = pytest.importorskip("scipy.io").savemat
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.checksums import UrlInfo
    from tensorflow_datasets.image_classification.cars196 import Cars196

    manual = tmp_path / "tfds" / "downloads" / "manual"
    manual.mkdir(parents=True)
    monkeypatch.setattr(
        tfds, "builder", functools.partial(tfds.builder, data_dir=str(tmp_path / "tfds"))
    )

    def annotations(path, classes):
        fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
        rows = [(1, 1, 8, 8, label, f"{n:05}.jpg") for n, label in enumerate(classes, start=1)]
        savemat(path, {"annotations": np.array([rows], [(name, object) for name in fields])})

    def packed(name, folder):
        with tarfile.open(manual / name, "w:gz") as archive:
            archive.add(folder, folder.name)

    for part, classes in (("cars_train", (196, 1)), ("cars_test", (2, 3))):
        folder = tmp_path / part
        folder.mkdir()
        for number, label in enumerate(classes, start=1):
            Image.new("RGB", (16, 16), (label, 0, 0)).save(folder / f"{number:05}.jpg")
        packed(f"{part}.tgz", folder)
    annotations(manual / "cars_test_annos_withlabels.mat", (2, 3))
    (tmp_path / "devkit").mkdir()
    annotations(tmp_path / "devkit" / "cars_train_annos.mat", (196, 1))
    packed("car_devkit.tgz", tmp_path / "devkit")
    infos = {}
    for address, published in Cars196.url_infos.items():
        content = (manual / published.filename).read_bytes()
        checksum = hashlib.sha256(content).hexdigest()
        infos[address] = UrlInfo(len(content), checksum, published.filename)
    monkeypatch.setattr(Cars196, "url_infos", infos)
    monkeypatch.setattr(tfds_source, "unreachable", lambda address: pytest.fail("asked the host"))
    return manual


def test_cars_are_prepared_from_archives_that_were_put_where_tfds_looks(cars):
    training, stopping, validation = load_examples("cars196")
    assert stopping is None
    assert sorted(training.labels) == [0, 195] and sorted(validation.labels) == [1, 2]
    assert training.class_names[195] == "smart fortwo Convertible 2012"


def test_a_missing_archive_of_cars_is_named_with_its_place(cars):
    (cars / "cars_test.tgz").unlink()
    with pytest.raises(Unavailable, match=r"Put cars_test.tgz into .*manual .*--data-dir"):
        load_examples("cars196")


def test_a_damaged_archive_of_cars_is_refused(cars):
    with (cars / "cars_train.tgz").open("ab") as file:
        file.write(b"x")
    with pytest.raises(Unavailable, match="cars196 could not be downloaded and prepared"):
        load_examples("cars196")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """TFDS with datasets that were really prepared, by name, and where they lie."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")

    class WithNames(tfds.core.GeneratorBasedBuilder):
        """As imagenet2012: with file names, and a split without labels."""

        VERSION = tfds.core.Version("1.0.0")
        features = {"file_name": tfds.features.Text()}
        splits = {"train": 30, "validation": 7, "test": 4}

        def _info(self):
            common = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(names=["daisy", "rose", "tulip"]),
            }
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(common | self.features)
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in self.splits}

        def _generate_examples(self, split):
            for i in range(self.splits[split]):
                label = -1 if split == "test" and "validation" in self.splits else i % 3
                given = {"image": PHOTOGRAPHS[i], "label": label, "file_name": f"{split}_{i}.jpg"}
                yield i, {key: given[key] for key in self._info().features}

    class WithoutNames(WithNames):
        VERSION = tfds.core.Version("1.0.0")
        features = {}
        splits = {"train": 30, "test": 4}

    class TrainOnly(WithNames):
        VERSION = tfds.core.Version("1.0.0")
        splits = {"train": 3}

    class UnlabelledTrain(WithNames):
        VERSION = tfds.core.Version("1.0.0")
        splits = {"test": 3, "validation": 3}

    class ByHand(WithNames):
        VERSION = tfds.core.Version("1.0.0")
        MANUAL_DOWNLOAD_INSTRUCTIONS = "Put\n  photographs.tar there."

    class NoImages(WithNames):
        VERSION = tfds.core.Version("1.0.0")
        splits = {"train": 3}

        def _info(self):
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict({"file_name": tfds.features.Text()})
            )

    for builder in (WithNames, WithoutNames, TrainOnly, UnlabelledTrain, NoImages):
        builder(data_dir=folder).download_and_prepare(
            download_config=tfds.download.DownloadConfig(num_shards=3)
        )
    return folder


PHOTOGRAPHS = [jpeg(i) for i in range(30)]


@pytest.fixture
def here(prepared, tmp_path, monkeypatch):
    """TFDS looks for its datasets where `prepared` put them."""
    import tensorflow_datasets as tfds

    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(tfds, "builder", functools.partial(tfds.builder, data_dir=str(prepared)))
    return prepared


@pytest.mark.parametrize(
    ("name", "part", "count"), [("with_names", "validation", 7), ("without_names", "test", 4)]
)
def test_prepared_records_are_read_where_they_lie(name, part, count, here, tmp_path):
    import tensorflow_datasets as tfds

    said = []
    training, _, validation = load_examples(name, say=said.append)
    assert (len(training), len(validation)) == (30, count)
    assert training.class_names == ("daisy", "rose", "tulip")
    # The same by TFDS's own reader, which decodes.
    read = tfds.builder(name).as_dataset(
        split="train", read_config=tfds.ReadConfig(add_tfds_id=True), shuffle_files=False
    )
    expected = {}
    for seen in read.as_numpy_iterator():
        key = seen["file_name"] if name == "with_names" else seen["tfds_id"]
        expected[f"train/{key.decode()}"] = seen["label"], seen["image"]
    assert sorted(training.keys) == sorted(expected)
    for i, key in enumerate(training.keys):
        label, pixels = expected[key]
        assert training.labels[i] == label
        assert training.read(i) in PHOTOGRAPHS
        np.testing.assert_array_equal(tf.io.decode_jpeg(training.read(i)), pixels)
    assert validation.keys[0].startswith(f"{part}/")
    # Another start finds the index of where each image begins.
    assert len(said) == 2 and str(tmp_path / "keras") in said[0]
    again, *_ = load_examples(name, say=said.append)
    assert len(said) == 2 and again.fingerprint() == training.fingerprint()


def test_a_damaged_record_leaves_the_others_alone(here, tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(here, copy)
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds, "builder", functools.partial(tfds.builder, data_dir=str(copy)))
    shard = sorted((copy / "with_names").rglob("*train*tfrecord-00001*"))[0]
    content = shard.read_bytes()
    victim = next(i for i in range(30) if PHOTOGRAPHS[i] in content)
    where = content.index(PHOTOGRAPHS[victim]) + 300
    shard.write_bytes(content[:where] + bytes([content[where] ^ 1]) + content[where + 1 :])
    training, *_ = load_examples("with_names", say=lambda _: None)
    kept, skipped = screen(training)
    assert len(kept) == 29
    assert [bad.key for bad in skipped] == [f"train/train_{victim}.jpg"]
    assert "damaged" in skipped[0].reason


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("imagenet2012", ["is not prepared in", "ILSVRC2012_img_train.tar and", "image-net.org",
                          "downloads/manual", "`tfds build imagenet2012`"]),
        ("by_hand", ["downloads/manual: Put photographs.tar there. Then run `tfds build by_hand`"]),
        ("cifar10", ["cifar10 is not prepared", ". Run `tfds build cifar10` once"]),
        ("no_images", ["features are file_name", "'image' and 'label'"]),
        ("unlabelled_train", ["no split 'train'", "validation"]),
        ("no_such_set", ["no dataset 'no_such_set'"]),
    ],
)  # fmt: skip
def test_a_dataset_that_cannot_be_used_says_what_to_do_at_once(name, words, here):
    with pytest.raises(Unavailable) as caught:
        load_examples(name)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_dataset_without_a_part_to_measure_on_has_none(here):
    training, _, validation = load_examples("train_only", say=lambda _: None)
    assert (len(training), validation) == (3, None)


def test_drawn_flowers_can_be_trained_on_from_scratch(few_drawn):
    training, _, validation = load_examples("drawn_flowers")
    assert (len(training), len(validation)) == (15, 10)
