from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from keras.src.applications import imagenet_utils

from alexnet_keras import UserError
from alexnet_keras.imagenet import class_names, decode_predictions, preprocess_input


def class_index():
    """The content of keras.applications' imagenet_class_index.json, from our names."""
    return {str(i): list(names) for i, names in enumerate(class_names())}


def test_the_classes_are_exactly_those_of_keras_applications():
    # The MD5 by which Keras checks the class index that it downloads (imagenet_utils.py).
    text = json.dumps(class_index())
    assert hashlib.md5(text.encode()).hexdigest() == "c2c37ea517e94d9795004a39431a14cb"


def test_the_ids_are_those_of_tfds_in_order():
    (folder,) = importlib.util.find_spec("tensorflow_datasets").submodule_search_locations
    labels = Path(folder, "datasets", "imagenet2012", "labels.txt").read_text().split()
    assert [identity for identity, _ in class_names()] == labels
    assert labels == sorted(labels)


def test_two_pairs_of_classes_share_a_name():
    names = [name for _, name in class_names()]
    assert (names[134], names[517]) == ("crane", "crane")
    assert (names[638], names[639]) == ("maillot", "maillot")
    assert len(set(names)) == 998


def test_the_list_belongs_to_its_caller():
    class_names().clear()
    assert len(class_names()) == 1000


@pytest.mark.parametrize("top", [1, 5, 1000])
def test_predictions_are_decoded_as_by_keras_applications(top, monkeypatch):
    monkeypatch.setattr(imagenet_utils, "CLASS_INDEX", class_index())
    predictions = np.random.default_rng(0).dirichlet(np.ones(1000), 3).astype("float32")
    expected = imagenet_utils.decode_predictions(predictions, top=top)
    assert decode_predictions(predictions, top=top) == expected
    assert decode_predictions(keras.ops.convert_to_tensor(predictions), top=top) == expected
    assert [len(answers) for answers in expected] == [top] * 3


def test_five_classes_are_decoded_by_default_best_first():
    predictions = np.zeros((1, 1000), "uint8")
    predictions[0, [1, 985, 207, 0, 999]] = [200, 150, 100, 50, 25]
    assert [name for _, name, _ in decode_predictions(predictions)[0]] == [
        "goldfish",
        "daisy",
        "golden_retriever",
        "tench",
        "toilet_tissue",
    ]


@pytest.mark.parametrize("shape", [(1000,), (2, 999), (2, 1000, 1)])
def test_predictions_of_another_shape_are_refused_as_by_keras_applications(shape):
    for decode in (decode_predictions, imagenet_utils.decode_predictions):
        with pytest.raises(ValueError, match="1000"):
            decode(np.zeros(shape))


def pixels(batch=True, dtype="uint8"):
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (2, 5, 4, 3) if batch else (5, 4, 3)).astype(dtype)


def kinds(images):
    """An array and a tensor of the same pixels."""
    return images, keras.ops.convert_to_tensor(images)


@pytest.mark.parametrize("batch", [True, False], ids=["batch", "one image"])
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "float64"])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first", None])
def test_torchvisions_pixels_are_those_of_keras_applications_mode_torch(batch, dtype, data_format):
    images = pixels(batch, dtype)
    if data_format == "channels_first":
        images = np.moveaxis(images, -1, -3)
    expected = imagenet_utils.preprocess_input(images.astype("float64"), data_format, "torch")
    for given in kinds(images):
        prepared = preprocess_input(given, data_format)
        assert isinstance(prepared, np.ndarray) == isinstance(given, np.ndarray)
        assert keras.backend.standardize_dtype(prepared.dtype) == "float32"
        np.testing.assert_allclose(prepared, expected, atol=1e-5)


@pytest.mark.parametrize("variant", ["caffe", "caffenet"])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_caffes_pixels_are_blue_first_without_caffes_mean(variant, data_format):
    images = pixels().astype("float64")
    # python/caffe/imagenet/ilsvrc_2012_mean.npy, averaged over positions: blue, green, red.
    expected = images[..., ::-1] - [104.00698793, 116.66876762, 122.67891434]
    # The same channels as in keras.applications' mode "caffe", whose means are VGG's, up to 1.1.
    vgg = imagenet_utils.preprocess_input(images.copy(), "channels_last", "caffe")
    np.testing.assert_allclose(expected, vgg, atol=1.1)
    if data_format == "channels_first":
        images, expected = (np.moveaxis(values, -1, -3) for values in (images, expected))
    for given in kinds(images):
        prepared = preprocess_input(given, data_format, variant)
        np.testing.assert_allclose(prepared, expected, atol=1e-4)


def test_the_input_stays_as_it_is():
    images = pixels(dtype="float32")
    before = images.copy()
    preprocess_input(images)
    preprocess_input(images, variant="caffe")
    np.testing.assert_array_equal(images, before)


def test_keras_own_data_format_is_the_default():
    images = np.moveaxis(pixels(), -1, -3)
    keras.config.set_image_data_format("channels_first")
    try:
        prepared = preprocess_input(images)
    finally:
        keras.config.set_image_data_format("channels_last")
    np.testing.assert_array_equal(prepared, preprocess_input(images, "channels_first"))


def test_preprocessing_can_be_a_part_of_a_model():
    inputs = keras.Input((None, None, 3), dtype="uint8")
    model = keras.Model(inputs, preprocess_input(inputs, variant="caffe"))
    expected = preprocess_input(pixels(), variant="caffe")
    np.testing.assert_allclose(model(pixels()), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"variant": "vgg"}, ["no variant 'vgg'", "torchvision"]),
        ({"data_format": "channels"}, ["'channels' is not one of"]),
        ({"data_format": "channels_first"}, ["channels_first", "(2, 5, 4, 3)"]),
        ({"x": np.zeros((4, 4))}, ["channels_last", "(4, 4)"]),
        ({"x": np.zeros((1, 2, 4, 4, 3))}, ["RGB images, one or a batch"]),
    ],
    ids=["variant", "data format", "axis", "grey", "video"],
)
def test_what_is_no_batch_of_rgb_images_is_refused(arguments, words):
    with pytest.raises(UserError) as caught:
        preprocess_input(**{"x": pixels()} | arguments)
    assert all(word in str(caught.value) for word in words)
