from __future__ import annotations

import re

import numpy as np
import pytest

from alexnet_keras.evaluation import Answers
from alexnet_keras.viewing import cautions

NAMES = ["daisy", "roses", "tulips"]
EVEN = [100, 110, 120]


def answers(right: list[int], count: list[int]) -> Answers:
    """So many of each class right; the others taken for the next class."""
    labels = np.repeat(np.arange(len(count)), count)
    hit = np.concatenate([np.arange(n) < r for r, n in zip(right, count, strict=True)])
    return Answers(
        labels=labels,
        predictions=np.where(hit, labels, (labels + 1) % len(count)),
        confidence=np.full(len(labels), 0.9),
        ranks=np.where(hit, 1, 2),
        classes=len(count),
    )


def test_many_photographs_of_even_classes_need_no_caution():
    assert cautions(EVEN, NAMES, answers([900, 920, 880], [1000, 1000, 1000])) == []


def test_a_wide_interval_says_which_differences_are_noise():
    (sentence,) = cautions(EVEN, NAMES, answers([80, 90, 70], [100, 100, 100]))
    # 240 of 300: .8 -+ 1.96 sqrt(.8 x .2 / 300) by the normal approximation, 75.5 to 84.5, and the
    # difference of two such 1.96 sqrt(2 x .8 x .2 / 300): 6.4.
    found = re.search(r"less than ([\d.]+) points.*interval ([\d.]+) to ([\d.]+) by", sentence)
    assert [float(figure) for figure in found.groups()] == pytest.approx([6.4, 75.5, 84.5], abs=0.5)
    assert "points between two runs is within noise: 95% interval" in sentence
    assert sentence.endswith("by bootstrap, 300 photographs.")


def test_an_accuracy_that_answering_the_same_would_reach_is_told():
    sentences = cautions(EVEN, NAMES, answers([20, 200, 20], [100, 250, 100]))
    assert any(
        "accuracy of 53.3% is not shown to be better than always answering 'roses', which would be "
        "right in 55.6%" in sentence
        for sentence in sentences
    )


def test_an_accuracy_below_that_of_the_same_answer_is_told_too():
    sentences = cautions(EVEN, NAMES, answers([0, 10, 0], [500, 5000, 500]))
    assert len(sentences) == 1 and "'roses', which would be right in 83.3%" in sentences[0]


def test_unbalanced_classes_are_told_with_both_accuracies():
    result = answers([1900, 500, 50], [2000, 600, 200])
    (sentence,) = cautions([2000, 600, 400], NAMES, result)
    assert "2,000 photographs of 'daisy' to learn from, 400 of 'tulips'" in sentence
    # (95 + 83.33 + 25) / 3, and 2450 of 2800
    assert "the mean of the classes' accuracies is 67.8% (balanced accuracy)" in sentence
    assert "beside 87.5% of all photographs" in sentence
    assert cautions([1999, 600, 400], NAMES, result) == []


def test_answers_that_are_all_right_are_no_proof_of_a_narrow_interval():
    (sentence,) = cautions(EVEN, NAMES, answers([7, 7, 6], [7, 7, 6]))
    # Wilson's interval of 20 of 20 is that of none of 20 upside down: Newcombe (1998).
    assert "95% interval 83.9 to 100.0 by Wilson's score, 20 photographs" in sentence


@pytest.mark.parametrize("count", [[0, 0, 0], [1, 0, 0]])
def test_hardly_any_photographs_are_no_error(count):
    for sentence in cautions([10, 1, 0], NAMES, answers(count, count)):
        assert "nan" not in sentence


def test_names_are_written_so_that_every_terminal_can_show_them():
    names = ["\udcff\x07", "roses", "tulips"]
    for sentence in cautions([900, 1, 1], names, answers([9, 1, 1], [90, 10, 10])):
        assert sentence.isprintable()
        sentence.encode("utf-8")
