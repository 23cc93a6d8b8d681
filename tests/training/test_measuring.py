from __future__ import annotations

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from alexnet_keras.data import Examples, pipeline
from alexnet_keras.data.pipeline import ten_views
from alexnet_keras.evaluation import Evaluation, evaluate
from alexnet_keras.training import measuring
from alexnet_keras.training.measuring import COLUMNS, Measurement
from alexnet_keras.weights import PREPROCESSING, InputPreprocessing, preprocessing_of

SIDE, COUNT, CLASSES, BATCH = 16, 11, 7, 4
STEPS = 3
ONE = tf.distribute.get_strategy()


@pytest.fixture(scope="module", autouse=True)
def simple_decoding():
    """Decoding has tests of its own, and takes seconds to trace for each stream."""

    def decode_window(content, window, size):
        image = tf.io.decode_png(content, channels=3)
        top, left, height, width = tf.unstack(window(tf.shape(image)[0], tf.shape(image)[1]))
        return tf.image.resize(image[top : top + height, left : left + width], [size, size])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "decode_window", decode_window)
        yield


def encoded(number):
    rng = np.random.default_rng(number)
    file = io.BytesIO()
    coarse = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8))
    coarse.resize((30 + number, 26), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def examples_of(count=COUNT, unreadable=()):
    contents = [b"no image" if i in unreadable else encoded(i) for i in range(count)]
    labels = np.random.default_rng(1).integers(0, CLASSES, COUNT)[:count]
    return Examples("some", tuple("abcdefg"), list(map(str, range(count))), labels, contents)


def net(convention="paper"):
    """A classifier that tells places and colours apart, with its preprocessing."""
    pixels = keras.Input((SIDE, SIDE, 3))
    x = InputPreprocessing.of(PREPROCESSING[convention])(pixels)
    x = keras.layers.AveragePooling2D(4)(x)
    x = keras.layers.Dropout(0.5)(keras.layers.Flatten()(x))
    model = keras.Model(pixels, keras.layers.Dense(CLASSES, "softmax")(x))
    rng = np.random.default_rng(2)
    model.set_weights([rng.normal(0, 0.01, v.shape) for v in model.weights])
    return model


@pytest.fixture(scope="module")
def model():
    return net()


@pytest.fixture(scope="module")
def two():
    """Two virtual CPUs."""
    return tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )


@pytest.fixture(scope="module")
def examples():
    return examples_of()


def measured(model, examples, strategy=ONE, **options):
    measurement = Measurement(model, examples, strategy, **{"batch_size": BATCH} | options)
    assert [done for done, _ in measurement.run()] == list(range(1, measurement.steps + 1))
    return measurement


@pytest.fixture(scope="module")
def whole(model, examples):
    return measured(model, examples)


def assert_equal(columns, expected, exact=True):
    assert columns.keys() == expected.keys() == COLUMNS.keys()
    for name, dtype in COLUMNS.items():
        assert columns[name].dtype == dtype
        if exact or dtype != np.float32:
            np.testing.assert_array_equal(columns[name], expected[name], err_msg=name)
        else:
            np.testing.assert_allclose(columns[name], expected[name], rtol=1e-5, err_msg=name)


def assert_answers(answers, probabilities, labels):
    """As scored in NumPy."""
    expected = Evaluation(np.asarray(probabilities, np.float64), labels)
    np.testing.assert_array_equal(answers.labels, labels)
    np.testing.assert_array_equal(answers.predictions, expected.predictions)
    np.testing.assert_allclose(answers.confidence, expected.confidence, rtol=1e-5)
    np.testing.assert_array_equal(answers.ranks, expected.ranks)
    np.testing.assert_array_equal(answers.confusion(), expected.confusion())
    for k in (1, 5):
        assert answers.top(k) == expected.top(k)


def test_the_centre_crops_answers_are_those_of_evaluate(model, examples, whole):
    expected = evaluate(model, examples, batch_size=5)
    assert_answers(whole.answers, expected.probabilities, examples.labels)
    assert len(set(whole.answers.predictions)) > 2
    losses = -np.log(expected.probabilities[np.arange(COUNT), examples.labels])
    np.testing.assert_allclose(whole.columns["losses"], losses, rtol=1e-5)
    assert whole.loss == pytest.approx(losses.mean(), rel=1e-6)
    assert whole.unreadable == 0


@pytest.mark.parametrize("convention", ["paper", "caffe"])
def test_ten_crops_are_averaged(convention):
    model, examples = net(convention), examples_of()
    geometry = preprocessing_of(model).geometry
    views = np.concatenate([ten_views(encoded(i), SIDE, **geometry) for i in range(COUNT)])
    ten = model.predict(views, verbose=0).astype(np.float64).reshape(COUNT, 10, CLASSES)
    found = measured(model, examples, batch_size=40, ten_crop=True)
    assert found.steps == STEPS  # as many views a step as images otherwise
    assert_answers(found.answers, ten.mean(1), examples.labels)
    losses = -np.log(ten.mean(1)[np.arange(COUNT), examples.labels])
    np.testing.assert_allclose(found.columns["losses"], losses, rtol=1e-5)
    # The views do not all say the same.
    assert ten.std(1).max() > 0.01


def test_a_batch_of_a_few_is_one_photograph_a_step_with_ten_crops(model, two):
    examples = examples_of(2)
    assert Measurement(model, examples, ONE, batch_size=4, ten_crop=True).steps == 2
    assert Measurement(model, examples, two, batch_size=4, ten_crop=True).steps == 1


@pytest.mark.parametrize("done", [1, 2])
def test_what_was_interrupted_goes_on_with_the_same_columns(model, examples, whole, done):
    first = Measurement(model, examples, ONE, batch_size=BATCH)
    for now, _ in first.run():
        if now == done:
            break
    assert first.done == done
    assert first.columns["readable"].sum() == done * BATCH
    again = Measurement(model, examples, ONE, batch_size=BATCH)
    again.done = first.done
    again.columns = {name: column.copy() for name, column in first.columns.items()}
    assert [now for now, _ in again.run()] == list(range(done + 1, STEPS + 1))
    assert_equal(again.columns, whole.columns)


def test_a_finished_measurement_measures_nothing_more(model, examples, whole):
    again = Measurement(model, examples, ONE, batch_size=BATCH)
    again.done, again.columns = STEPS, whole.columns
    assert list(again.run()) == []


def test_after_a_restart_the_same_stream_serves_again(model, examples, whole, monkeypatch):
    made = []
    stream = measuring.evaluation_stream
    monkeypatch.setattr(
        measuring, "evaluation_stream", lambda *a, **b: made.append(1) or stream(*a, **b)
    )
    measurement = measured(model, examples)
    columns = measurement.columns
    measurement.restart()
    assert measurement.done == 0
    assert not any(column.any() for column in measurement.columns.values())
    list(measurement.run())
    assert_equal(measurement.columns, columns)
    assert_equal(measurement.columns, whole.columns)
    assert made == [1]
    # With other weights it finds other answers.
    before = model.get_weights()
    model.set_weights([-w for w in before])
    measurement.restart()
    list(measurement.run())
    model.set_weights(before)
    assert (measurement.columns["predictions"] != columns["predictions"]).mean() > 0.5


@pytest.mark.parametrize("ten_crop", [False, True])
def test_two_devices_find_what_one_does(examples, model, two, ten_crop):
    with two.scope():
        mirrored = net()
    batch_size = 40 if ten_crop else BATCH
    found = measured(mirrored, examples, two, batch_size=batch_size, ten_crop=ten_crop)
    expected = measured(model, examples, batch_size=batch_size, ten_crop=ten_crop)
    assert_equal(found.columns, expected.columns, exact=False)


def test_what_cannot_be_read_is_left_out(model, whole):
    bad = [2, 9]
    found = measured(model, examples_of(unreadable=bad))
    good = np.setdiff1d(np.arange(COUNT), bad)
    np.testing.assert_array_equal(found.readable, good)
    assert found.unreadable == 2
    for name in COLUMNS:
        np.testing.assert_array_equal(found.columns[name][good], whole.columns[name][good])
    assert len(found.answers) == COUNT - 2
    np.testing.assert_array_equal(found.answers.labels, whole.answers.labels[good])
    assert found.loss == pytest.approx(whole.columns["losses"][good].astype(np.float64).mean())


def test_where_nothing_can_be_read_there_is_no_loss(model):
    found = measured(model, examples_of(2, unreadable=[0, 1]))
    assert found.unreadable == 2 and len(found.answers) == 0
    assert np.isnan(found.loss)


def test_a_request_to_stop_comes_back_with_the_next_batch(model, examples):
    asked = iter([False, True, True])
    measurement = Measurement(model, examples, ONE, batch_size=BATCH)
    assert list(measurement.run(lambda: next(asked))) == [(1, False), (2, True), (3, True)]


def test_a_net_that_answers_no_numbers_gets_no_credit(examples):
    model = net()
    model.set_weights([np.full(v.shape, np.nan) for v in model.weights])
    found = measured(model, examples)
    assert found.answers.top(1) == found.answers.top(5) == 0
    assert evaluate(model, examples).top(5) == 0
