from __future__ import annotations

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps
from scipy import stats
from sklearn import metrics

from alexnet_keras.data import Examples, pipeline
from alexnet_keras.evaluation import (
    Answers,
    Evaluation,
    accuracy_difference,
    answers,
    evaluate,
    predict,
    wilson_interval,
)
from alexnet_keras.training import choose_strategy
from alexnet_keras.weights import PREPROCESSING, InputPreprocessing


@pytest.fixture
def result():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 300)
    probabilities = rng.dirichlet(np.ones(7), 300)
    probabilities[np.arange(300), labels] += 0.2
    return Evaluation(probabilities / probabilities.sum(1, keepdims=True), labels)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_is_scikit_learns(result, k):
    expected = metrics.top_k_accuracy_score(result.labels, result.probabilities, k=k)
    assert result.top(k) == pytest.approx(expected)


def test_confusion_is_scikit_learns(result):
    expected = metrics.confusion_matrix(result.labels, result.predictions)
    np.testing.assert_array_equal(result.confusion(), expected)


def test_confusion_has_a_row_for_a_class_without_examples():
    result = Evaluation(np.eye(4)[[0, 1]], np.array([0, 3]))
    np.testing.assert_array_equal(
        result.confusion(), [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]]
    )


def test_mistakes_come_most_confident_first(result):
    found = result.mistakes(10)
    confidence = result.probabilities.max(1)[found]
    assert (result.predictions[found] != result.labels[found]).all()
    assert (np.diff(confidence) <= 0).all()
    wrong = result.predictions != result.labels
    assert confidence[0] == result.probabilities.max(1)[wrong].max()


def test_a_net_that_answers_the_same_for_all_classes_gets_no_credit():
    assert Evaluation(np.full((4, 2), 0.5), np.array([0, 0, 1, 1])).top(1) == 0


def answered(right: np.ndarray, labels: np.ndarray | None = None) -> Answers:
    """Answers of two classes that are right where `right` says so."""
    right = np.asarray(right, bool)
    labels = np.zeros(len(right), int) if labels is None else labels
    return Answers(
        labels=labels,
        predictions=np.where(right, labels, 1 - labels),
        confidence=np.full(len(right), 0.9),
        ranks=np.where(right, 1, 2),
        classes=2,
    )


def test_balanced_accuracy_is_scikit_learns(result):
    expected = metrics.balanced_accuracy_score(result.labels, result.predictions)
    assert result.balanced_accuracy() == pytest.approx(expected)


def test_balanced_accuracy_passes_over_classes_without_examples():
    assert Evaluation(np.eye(4)[[0, 1, 3]], np.array([0, 0, 3])).balanced_accuracy() == 0.75
    assert np.isnan(answered([]).balanced_accuracy())


def test_the_bootstrap_interval_of_many_answers_is_the_normal_one():
    right = np.random.default_rng(0).random(20_000) < 0.8
    low, high = answered(right).bootstrap_interval()
    share = right.mean()
    half = 1.96 * (share * (1 - share) / len(right)) ** 0.5
    assert (low, high) == pytest.approx((share - half, share + half), abs=0.05 * half)


def test_the_bootstrap_interval_of_few_answers_is_that_of_the_binomial_distribution():
    # A resample of n answers of which a share is right has a binomial number of right ones.
    low, high = answered(np.arange(40) < 30).bootstrap_interval()
    expected = stats.binom(40, 30 / 40).ppf([0.025, 0.975]) / 40
    assert (low, high) == pytest.approx(expected, abs=1.01 / 40)


def test_a_bootstrap_interval_is_the_same_again_and_needs_two_examples():
    few = answered(np.arange(30) < 20)
    assert few.bootstrap_interval() == few.bootstrap_interval()
    assert few.bootstrap_interval(seed=1) == pytest.approx(few.bootstrap_interval(), abs=0.04)
    assert answered(np.ones(5)).bootstrap_interval() == (1, 1)
    assert np.isnan(answered([True]).bootstrap_interval()).all()


def test_the_paired_bootstrap_is_that_of_resampling_by_hand():
    rng = np.random.default_rng(0)
    easy = rng.random(500)
    first, second = answered(easy < 0.9), answered((easy < 0.8) ^ (rng.random(500) < 0.05))
    difference, low, high = accuracy_difference(first, second)
    chosen = rng.integers(0, 500, (4000, 500))
    by_hand = first.right[chosen].mean(axis=1) - second.right[chosen].mean(axis=1)
    assert difference == pytest.approx(first.right.mean() - second.right.mean())
    assert (low, high) == pytest.approx(np.percentile(by_hand, [2.5, 97.5]), abs=0.004)


def test_what_both_nets_find_hard_does_not_widen_their_difference():
    hard = np.arange(400) < 200
    better = answered(~hard | (np.arange(400) < 20))
    _, low, high = accuracy_difference(better, answered(~hard))
    assert 0 < low < 0.05 < high < 0.075  # unpaired, 0.05 -+ 0.07


def test_a_net_does_not_differ_from_itself(result):
    assert accuracy_difference(result, result) == (0, 0, 0)


def test_answers_to_other_examples_are_not_compared():
    labels = np.array([0, 1, 0])
    with pytest.raises(ValueError, match="3 and 3 answers, whose true classes differ"):
        accuracy_difference(answered([1, 1, 1], labels), answered([1, 1, 1], 1 - labels))
    with pytest.raises(ValueError, match="3 and 2 answers"):
        accuracy_difference(answered([1, 1, 1]), answered([1, 1]))


def test_classes_taken_for_each_other_count_both_ways():
    labels = np.repeat([0, 0, 1, 2, 2, 1, 3], [9, 2, 2, 3, 1, 1, 1])
    taken = np.repeat([0, 1, 0, 1, 2, 2, 0], [9, 2, 2, 3, 1, 1, 1])
    found = Evaluation(np.eye(4)[taken], labels)
    assert found.confused(6) == [(0, 1), (1, 2)]  # four each; one of 3 for 0 is no habit
    assert found.confused(1) == [(0, 1)]
    assert found.confused(6, at_least=1) == [(0, 1), (1, 2), (0, 3)]
    assert answered([True, True]).confused(6) == []


@pytest.fixture
def simple_decoding(monkeypatch):
    """Decoding has tests of its own, and takes seconds to trace for each prediction."""

    def decode_window(content, window, size):
        image = tf.io.decode_png(content, channels=3)
        top, left, height, width = tf.unstack(window(tf.shape(image)[0], tf.shape(image)[1]))
        return tf.image.resize(image[top : top + height, left : left + width], [size, size])

    monkeypatch.setattr(pipeline, "decode_window", decode_window)


def classifier():
    """One that sees whether something is on the left or on the right."""
    keras.utils.set_random_seed(0)
    pixels = keras.Input((16, 16, 3))
    x = InputPreprocessing.of(PREPROCESSING["torchvision"])(pixels)
    x = keras.layers.Flatten()(x)
    kernel = keras.initializers.RandomNormal(stddev=0.05)
    outputs = keras.layers.Dense(3, "softmax", kernel_initializer=kernel, name="fc8")(x)
    return keras.Model(pixels, outputs)


def photographs(count, turn=lambda image: image):
    """Squares of coloured patches, each seen through `turn`."""
    rng = np.random.default_rng(0)
    contents = []
    for _ in range(count):
        patches = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        file = io.BytesIO()
        turn(patches.resize((32, 32), Image.Resampling.BICUBIC)).save(file, "PNG")
        contents.append(file.getvalue())
    keys = tuple(map(str, range(count)))
    return Examples("patches", ("a", "b", "c"), keys, np.arange(count) % 3, tuple(contents))


def test_a_mirrored_prediction_is_the_mean_of_those_for_a_photograph_and_its_mirror(
    simple_decoding,
):
    model, plain, turned = classifier(), photographs(5), photographs(5, ImageOps.mirror)
    once, behind = predict(model, plain), predict(model, turned)
    assert np.abs(once - behind).max() > 0.1
    given = predict(model, plain, mirrored=True)
    assert (given.shape, given.dtype) == ((5, 3), np.float64)
    np.testing.assert_allclose(given, (once + behind) / 2, atol=1e-5)
    np.testing.assert_allclose(predict(model, turned, mirrored=True), given, atol=1e-5)


def test_upside_down_is_another_photograph_still(simple_decoding):
    model = classifier()
    given = predict(model, photographs(5), mirrored=True)
    flipped = predict(model, photographs(5, ImageOps.flip), mirrored=True)
    assert np.abs(flipped - given).max() > 0.1


def test_mirrored_answers_are_means_of_two_and_plain_ones_the_models():
    model = classifier()
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 16, 16, 3)).astype("float32")
    np.testing.assert_array_equal(answers(model, pixels), model(pixels))
    expected = (model(pixels) + model(pixels[:, :, ::-1])) / 2
    assert np.abs(expected - model(pixels)).max() > 0.1
    np.testing.assert_allclose(answers(model, pixels, mirrored=True), expected, atol=1e-6)


def test_evaluating_mirrored_judges_the_mirrored_predictions(simple_decoding):
    model, examples = classifier(), photographs(7)
    for mirrored in (False, True):
        result = evaluate(model, examples, mirrored=mirrored, batch_size=4)
        expected = predict(model, examples, mirrored=mirrored)
        np.testing.assert_allclose(result.probabilities, expected, atol=1e-6)
        np.testing.assert_array_equal(result.labels, examples.labels)


def test_a_model_that_was_seen_from_both_sides_is_saved_as_it_was(simple_decoding, tmp_path):
    model, examples = classifier(), photographs(3)
    before = predict(model, examples)
    predict(model, examples, mirrored=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in model.layers]
    np.testing.assert_array_equal(predict(loaded, examples), before)


def test_two_devices_share_the_mirrors_too(simple_decoding, monkeypatch):
    examples, devices, run = photographs(5), [], keras.Model.predict
    one = predict(classifier(), examples, mirrored=True)

    def noting(model, *given, **options):
        devices.append(model.distribute_strategy.num_replicas_in_sync)
        return run(model, *given, **options)

    monkeypatch.setattr(keras.Model, "predict", noting)
    with choose_strategy("mirrored", 8).scope():
        model = classifier()
    two = predict(model, examples, mirrored=True, batch_size=4)
    assert devices == [2]
    np.testing.assert_allclose(two, one, atol=1e-6)


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    # Examples of Newcombe (1998, method 3), also what statsmodels computes.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_intervals_are_the_published_ones(right, count, low, high):
    assert wilson_interval(right, count) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_of_nothing_is_undefined():
    assert np.isnan(wilson_interval(0, 0)).all()
    assert np.isnan(wilson_interval(np.nan, 10)).all()
