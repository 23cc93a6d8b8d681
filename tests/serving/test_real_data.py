"""What is exported of a classifier that tells real photographs apart."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.linear_model import LogisticRegression

from alexnet_keras.data.folders import read_folder
from alexnet_keras.evaluation import centre_batches, evaluate
from alexnet_keras.feature_extraction import features
from alexnet_keras.serving import evaluate_exported, export, export_litert, export_onnx
from alexnet_keras.transfer import build_classifier
from served_model import as_example

TRAINED, MEASURED = 300, 256


def pixels(model, examples):
    return np.concatenate([batch.numpy() for batch, _ in centre_batches(model, examples, 64)])


@pytest.fixture(scope="module")
def flowers(flower_photos, torchvision_trunk):
    """A classifier with a linear head on ImageNet's convolutions, and photographs."""
    examples = read_folder(flower_photos)
    order = np.random.default_rng(0).permutation(len(examples))
    trained, measured = (
        examples.select(part) for part in np.split(order[: TRAINED + MEASURED], [TRAINED])
    )
    model = build_classifier(
        len(examples.class_names), weights=torchvision_trunk, image_size=128
    ).model
    before = keras.Model(model.input, model.get_layer("length").output)
    found = before.predict(pixels(model, trained), verbose=0)
    linear = LogisticRegression(C=0.01).fit(found, trained.labels)
    model.get_layer("fc8").set_weights([linear.coef_.T, linear.intercept_])
    return model, trained, measured


@pytest.mark.real_data
def test_every_signature_answers_photographs_as_keras_does(flowers, tmp_path):
    model, _, measured = flowers
    names = measured.class_names
    version = export(model, tmp_path / "flowers", names, mirrored=True)
    signatures = tf.saved_model.load(str(version)).signatures
    result = evaluate(model, measured, mirrored=True)
    assert result.top(1) > 0.7  # or the answers would be much the same
    contents = [measured.read(i) for i in range(len(measured))]
    seen = pixels(model, measured)
    maps = features(model, ["conv5"])(seen)["conv5"]
    vectors = np.array(tf.reduce_mean(tf.nn.max_pool2d(maps, 3, 2, "VALID"), [1, 2]))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rounded = np.round(seen)
    of_rounded = np.asarray((model(rounded) + model(rounded[:, :, ::-1])) / 2)
    for count in (1, 32, 256):
        images = tf.constant(contents[:count])
        examples = tf.constant([as_example(content) for content in contents[:count]])
        whole = np.uint8(rounded[:count])
        expected = result.probabilities[:count]
        for answer, right in (
            (signatures["serving_default"](images=images), expected),
            (signatures["predict_top"](images=images, k=tf.constant(5)), expected),
            (signatures["classify"](inputs=examples), expected),
            (signatures["predict_images"](images=tf.constant(seen[:count])), expected),
            (signatures["predict_images_uint8"](images=tf.constant(whole)), of_rounded[:count]),
        ):
            np.testing.assert_allclose(answer["scores"], -np.sort(-right, axis=1), atol=1e-5)
            best = [label.decode() for label in answer["classes"][:, 0].numpy()]
            assert best == [names[i] for i in right.argmax(1)]
        embedding = signatures["embed"](images=images)["embedding"]
        np.testing.assert_allclose(embedding, vectors[:count], atol=1e-5)


@pytest.mark.real_data
def test_int8_loses_little(flowers, tmp_path):
    model, trained, measured = flowers
    names, whole = measured.class_names, evaluate(model, measured)
    some = pixels(model, trained.select(np.arange(50)))
    for write, name in ((export_onnx, "model.onnx"), (export_litert, "model.tflite")):
        path = write(model, tmp_path / name, names, calibration=some)
        found = evaluate_exported(path, model, measured)
        # A lost photograph is .4 points. At full size: README.
        assert found.top(1) > whole.top(1) - 0.02
        assert (found.predictions == whole.predictions).mean() > 0.95
