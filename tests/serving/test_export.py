from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from alexnet_keras.data import Examples
from alexnet_keras.errors import UserError
from alexnet_keras.evaluation import centre_batches, evaluate
from alexnet_keras.feature_extraction import features
from alexnet_keras.serving import Limits, ModelCard, export
from alexnet_keras.training import choose_strategy
from served_model import NAMES, SIDE, as_example, picture, small_classifier

KINDS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")


@pytest.fixture(scope="module")
def model():
    return small_classifier()


@pytest.fixture(scope="module")
def version(model, tmp_path_factory):
    """Exported, and then moved elsewhere."""
    folder = tmp_path_factory.mktemp("exported")
    made = export(model, folder / "flowers", NAMES, mirrored=True, top=2)
    moved = tmp_path_factory.mktemp("moved") / "7"
    shutil.move(made, moved)
    return moved


@pytest.fixture(scope="module")
def signatures(version):
    return tf.saved_model.load(str(version)).signatures


def photographs(count, kind=None):
    contents = [picture(kind or KINDS[seed % 5], seed) for seed in range(count)]
    keys = tuple(map(str, range(count)))
    return Examples("some", NAMES, keys, np.zeros(count, np.int32), contents)


def probabilities_of(model, examples):
    return evaluate(model, examples, mirrored=True).probabilities


def check(answer, expected, top=2):
    """Labels, scores and probabilities as they follow from the expected probabilities."""
    order = np.argsort(-expected, axis=1)[:, :top]
    assert np.ptp(expected) > 0.01
    if "probabilities" in answer:
        np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)
        assert answer["error"].numpy().tolist() == [b""] * len(expected)
    np.testing.assert_allclose(
        answer["scores"], np.take_along_axis(expected, order, axis=1), atol=1e-5
    )
    labels = [[label.decode() for label in row] for row in answer["classes"].numpy()]
    assert labels == [[NAMES[i] for i in row] for row in order]


@pytest.mark.parametrize("count", [1, 2, 37, 256])
def test_encoded_images_are_answered_as_keras_answers_them(model, signatures, count):
    examples = photographs(count)
    images = tf.constant([examples.read(i) for i in range(count)])
    expected = probabilities_of(model, examples)
    check(signatures["serving_default"](images=images), expected)
    check(signatures["predict_top"](images=images, k=tf.constant(3)), expected, top=3)
    serialized = [as_example(examples.read(i)) for i in range(count)]
    check(signatures["classify"](inputs=tf.constant(serialized)), expected)


@pytest.mark.parametrize("count", [1, 37, 256])
def test_pixels_are_answered_as_keras_answers_them(model, signatures, count):
    pixels = np.random.default_rng(count).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
    as_float = pixels.astype(np.float32)
    expected = (model(as_float) + model(as_float[:, :, ::-1])) / 2
    check(signatures["predict_images"](images=tf.constant(as_float)), np.asarray(expected))
    check(signatures["predict_images_uint8"](images=tf.constant(pixels)), np.asarray(expected))


def test_embeddings_are_those_of_the_photograph(model, signatures):
    images = [picture(seed=seed) for seed in range(3)]
    answer = signatures["embed"](images=tf.constant([*images, b"hello"]))
    labels = np.zeros(len(images), np.int32)
    examples = Examples("some", NAMES, ("0", "1", "2"), labels, images)
    pixels, _ = next(iter(centre_batches(model, examples, len(images))))
    maps = features(model, ["conv5"])(pixels)["conv5"]
    pooled = np.array(tf.reduce_mean(tf.nn.max_pool2d(maps, 3, 2, "VALID"), [1, 2]))
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    np.testing.assert_allclose(answer["embedding"][:3], pooled, atol=1e-5)
    assert not np.any(answer["embedding"][3])
    assert [bool(error) for error in answer["error"].numpy()] == [False, False, False, True]


def test_a_bad_image_has_no_label_and_the_others_theirs(model, signatures):
    good = [picture(seed=seed) for seed in range(4)]
    expected = probabilities_of(model, photographs(4, "JPEG"))
    mixed = [good[0], b"hello", good[1], b"", good[2], good[3][:200], good[3]]
    rows = [0, 2, 4, 6]
    serialized = [as_example(one) for one in mixed]
    for answer in (
        signatures["serving_default"](images=tf.constant(mixed)),
        signatures["classify"](inputs=tf.constant(serialized)),
    ):
        for i, best in enumerate(answer["classes"][:, 0].numpy()):
            right = NAMES[expected[rows.index(i)].argmax()] if i in rows else ""
            assert best.decode() == right
        assert not np.any(answer["scores"].numpy()[[1, 3, 5]])
    answer = signatures["serving_default"](images=tf.constant(mixed))
    np.testing.assert_allclose(answer["probabilities"].numpy()[rows], expected, atol=1e-5)
    assert not np.any(answer["probabilities"].numpy()[[1, 3, 5]])
    assert [error.decode() for error in answer["error"].numpy()] == [
        *("", "not a JPEG, PNG, GIF, BMP or WebP image", "", "no bytes", "", "damaged JPEG", "")
    ]


def test_all_bad_images_are_answered_too(signatures):
    answer = signatures["serving_default"](images=tf.constant([b"a", b"b"]))
    assert answer["classes"].numpy().tolist() == [[b"", b""]] * 2
    assert not np.any(answer["probabilities"])
    assert signatures["serving_default"](images=tf.constant([], tf.string))["scores"].shape == (
        0,
        2,
    )


def test_pixels_that_are_no_numbers_are_told_of(model, signatures):
    pixels = np.full((3, SIDE, SIDE, 3), 100, np.float32)
    pixels[1, 3, 3, 1] = np.nan
    pixels[2, 0, 0, 0] = 3e38  # finite, and too much for a net
    answer = signatures["predict_images"](images=tf.constant(pixels))
    assert [error.decode() for error in answer["error"].numpy()] == [
        "",
        "pixels that are no numbers, or far too large",
        "the net gives no number",
    ]
    assert np.isfinite(answer["probabilities"]).all()
    assert answer["classes"].numpy().tolist()[1:] == [[b"", b""]] * 2


# A process that imports TensorFlow alone: neither Keras nor this package may be needed.
READER = """
import json, sys
sys.modules["keras"] = sys.modules["alexnet_keras"] = None  # any import of them raises
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
files = [open(path, "rb").read() for path in sys.argv[2:]]
answer = model.signatures["serving_default"](images=tf.constant(files))
print(json.dumps(answer["probabilities"].numpy().tolist()))
"""


def test_a_process_without_keras_or_this_package_answers_the_same(model, version, tmp_path):
    examples = photographs(5)
    paths = [tmp_path / f"{i}" for i in range(len(examples))]
    for i, path in enumerate(paths):
        path.write_bytes(examples.read(i))
    done = subprocess.run(
        [sys.executable, "-c", READER, str(version), *map(str, paths)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = probabilities_of(model, examples)
    np.testing.assert_allclose(json.loads(done.stdout), expected, atol=1e-5)


class TestBesideTheGraph:
    def test_are_the_labels(self, version):
        labels = (version / "assets" / "labels.txt").read_text(encoding="utf-8")
        assert labels.splitlines() == list(NAMES)

    def test_are_requests_that_the_model_answers(self, version, signatures):
        file = version / "assets.extra" / "tf_serving_warmup_requests"
        seen = set()
        for record in tf.data.TFRecordDataset(str(file)):
            log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
            if log.HasField("classify_log"):
                request = log.classify_log.request
                examples = request.input.example_list.examples
                inputs = {"inputs": tf.constant([one.SerializeToString() for one in examples])}
            else:
                request = log.predict_log.request
                inputs = {
                    name: tf.constant(tf.make_ndarray(value))
                    for name, value in request.inputs.items()
                }
            assert request.model_spec.name == "flowers"
            answer = signatures[request.model_spec.signature_name](**inputs)
            if "error" in answer:
                assert not any(answer["error"].numpy())
            ((batch, *_),) = [value.shape for value in inputs.values()]
            seen.add((request.model_spec.signature_name, batch))
        assert seen == {
            (name, count) for name in {*signatures} - {"predict_top"} for count in (1, 8)
        }

    def test_is_a_card_that_says_what_is_known(self, model, tmp_path):
        metrics = {
            **{"val_images": 563, "val_top1": 523 / 563, "weights": "imagenet"},
            **{"train_images": 2371, "dataset": "flower_photos", "classes": 3},
        }
        card = ModelCard.of_run(metrics, "torchvision")
        limits = Limits(encoded_bytes=1234)
        made = export(model, tmp_path / "flowers", NAMES, card=card, limits=limits)
        text = (made / "README.md").read_text(encoding="utf-8")
        for part in (
            "3: daisy, rose, tulip",
            "2371 photographs of flower_photos, 3 classes",
            # statsmodels' proportion_confint(523, 563, method="wilson")
            "92.9% (95%: 90.5% to 94.7%) of 563 photographs",
            "BSD-3-Clause",
            "at most 1,234 bytes",
            "resized to 73 pixels (bilinear, antialiased) and the central 64 x 64",
            "divided by 58.395, 57.12, 57.375",
        ):
            assert part in text

    def test_are_labels_that_a_line_and_json_can_hold(self, model, tmp_path):
        made = export(model, tmp_path / "flowers", ["a|b", "c\udcff", "d\ne"], top=3)
        labels = (made / "assets" / "labels.txt").read_text(encoding="utf-8").splitlines()
        assert labels == ["a|b", "c\\udcff", "d\\ne"]
        answer = tf.saved_model.load(str(made)).signatures["serving_default"](
            images=tf.constant([picture()])
        )
        assert sorted(one.decode() for one in answer["classes"].numpy()[0]) == labels
        assert "3: a\\|b, c" in (made / "README.md").read_text(encoding="utf-8")

    def test_is_a_card_of_nothing_known(self, version):
        assert "| accuracy | not recorded |" in (version / "README.md").read_text(encoding="utf-8")


def test_a_model_on_two_devices_is_exported_as_one(tmp_path):
    with choose_strategy("mirrored", 2).scope():
        model = small_classifier()
    signature = tf.saved_model.load(str(export(model, tmp_path, NAMES))).signatures
    pixels = np.random.default_rng(0).uniform(0, 255, (2, SIDE, SIDE, 3)).astype(np.float32)
    found = signature["predict_images"](images=tf.constant(pixels))["probabilities"]
    np.testing.assert_allclose(found, small_classifier()(pixels), atol=1e-5)


def test_versions_grow_and_other_entries_are_left_alone(model, tmp_path):
    folder = tmp_path / "flowers"
    (folder / "7").mkdir(parents=True)
    (folder / "notes").mkdir()
    assert export(model, folder, NAMES).name == "8"
    assert sorted(entry.name for entry in folder.iterdir()) == ["7", "8", "notes"]


def test_a_full_disk_leaves_no_version_and_one_sentence(model, tmp_path, monkeypatch):
    folder = tmp_path / "flowers"
    (folder / "1").mkdir(parents=True)

    def fill(module, path, *_, **__):
        (tmp_path / path).mkdir()
        (tmp_path / path / "saved_model.pb").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", fill)
    with pytest.raises(UserError, match="disk is full: writing to .*flowers failed"):
        export(model, folder, NAMES)
    assert [entry.name for entry in folder.iterdir()] == ["1"]


def test_a_folder_that_cannot_be_written_to_is_named(model, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="file/flowers cannot be written to.*--export-dir"):
        export(model, tmp_path / "file" / "flowers", NAMES)


def test_the_number_of_names_has_to_be_the_models(model, tmp_path):
    with pytest.raises(ValueError, match="3 outputs; received 2"):
        export(model, tmp_path, NAMES[:2])
    with pytest.raises(ValueError, match="top=0 is not at least 1"):
        export(model, tmp_path, NAMES, top=0)
