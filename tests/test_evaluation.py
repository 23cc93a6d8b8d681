from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from alexnet_keras.evaluation import Answers, Evaluation, accuracy_difference


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
