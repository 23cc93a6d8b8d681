from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from alexnet_keras.alexnet import VARIANTS, build
from alexnet_keras.data import Examples
from alexnet_keras.errors import UserError
from alexnet_keras.evaluation import centre_batches, evaluate
from alexnet_keras.serving import export
from alexnet_keras.weights import PREPROCESSING, InputPreprocessing

NAMES = ("daisy", "rose", "tulip")


def encoded(kind="JPEG", seed=0, size=(90, 120)):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    file = io.BytesIO()
    coarse.resize(size[::-1]).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module", params=VARIANTS)
def model(request):
    keras.utils.set_random_seed(0)
    row = VARIANTS[request.param]
    row = replace(row, filters=(6, 8, 8, 8, 8), hidden_units=(16, 16))
    pixels = keras.Input((64, 64, 3))
    preprocessing = InputPreprocessing.of(PREPROCESSING[row.preprocessing])
    net = build(row, input_tensor=preprocessing(pixels), classes=3)
    rng = np.random.default_rng(1)
    for variable in net.weights:
        value = rng.normal(0, 0.15, variable.shape)
        variable.assign(np.abs(value) if variable.name == "moving_variance" else value)
    return net


# A process that imports TensorFlow alone: neither Keras nor this package may be needed.
READER = """
import json, sys
sys.modules["keras"] = sys.modules["alexnet_keras"] = None  # any import of them raises
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
files = [open(path, "rb").read() for path in sys.argv[2:]]
answer = model.signatures["serving_default"](images=tf.constant(files))
print(json.dumps({
    "classes": [[c.decode() for c in row] for row in answer["classes"].numpy()],
    "scores": answer["scores"].numpy().tolist(),
    "probabilities": answer["probabilities"].numpy().tolist(),
}))
"""


def test_a_process_without_keras_or_this_package_answers_the_same(model, tmp_path):
    version = export(model, tmp_path / "flowers", NAMES)
    contents = [encoded(kind, seed) for seed, kind in enumerate(("JPEG", "PNG", "WEBP", "BMP"))]
    paths = [tmp_path / f"{i}" for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", READER, str(version), *map(str, paths)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    examples = Examples("some", NAMES, tuple(map(str, paths)), np.zeros(4, np.int32), tuple(paths))
    expected = evaluate(model, examples).probabilities
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)
    order = np.argsort(-expected, axis=1)
    assert answer["classes"] == [[NAMES[i] for i in row] for row in order]
    np.testing.assert_allclose(
        answer["scores"], np.take_along_axis(expected, order, axis=1), atol=1e-5
    )


def test_the_pixel_signature_takes_float_images(model, tmp_path):
    version = export(model, tmp_path / "flowers", NAMES)
    images = np.random.default_rng(0).uniform(0, 255, (3, 64, 64, 3)).astype(np.float32)
    signature = tf.saved_model.load(str(version)).signatures["predict_images"]
    np.testing.assert_allclose(
        signature(images=tf.constant(images))["probabilities"], model(images), atol=1e-5
    )


@pytest.mark.parametrize("model", ["torchvision", "caffe"], indirect=True)
def test_what_is_served_of_both_sides_is_what_was_measured(model, tmp_path):
    contents = tuple(encoded("PNG", seed) for seed in range(3))
    examples = Examples("some", NAMES, ("0", "1", "2"), np.zeros(3, np.int32), contents)
    exported = tf.saved_model.load(str(export(model, tmp_path, NAMES, mirrored=True)))
    answer = exported.signatures["serving_default"](images=tf.constant(contents))
    measured = evaluate(model, examples, mirrored=True).probabilities
    assert np.abs(measured - evaluate(model, examples).probabilities).max() > 0.001
    np.testing.assert_allclose(answer["probabilities"], measured, atol=1e-6)
    np.testing.assert_allclose(answer["scores"], -np.sort(-measured, axis=1), atol=1e-6)

    pixels = np.concatenate([images for images, _ in centre_batches(model, examples, 3)])
    answer = exported.signatures["predict_images"](images=tf.constant(pixels))
    np.testing.assert_allclose(answer["probabilities"], measured, atol=1e-6)
    expected = (model(pixels) + model(pixels[:, :, ::-1])) / 2
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-6)


def test_versions_grow_and_other_entries_are_left_alone(model, tmp_path):
    folder = tmp_path / "flowers"
    (folder / "7").mkdir(parents=True)
    (folder / "notes").mkdir()
    assert export(model, folder, NAMES).name == "8"
    assert sorted(entry.name for entry in folder.iterdir()) == ["7", "8", "notes"]


def test_a_full_disk_leaves_no_version_and_one_sentence(model, tmp_path, monkeypatch):
    folder = tmp_path / "flowers"
    export(model, folder, NAMES)

    def fill(archive, path, *_, **__):
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
