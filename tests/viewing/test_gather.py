"""Which photographs a report shows of the classes that are taken for each other."""

from __future__ import annotations

import io

import keras
import numpy as np
import pytest
from PIL import Image

from alexnet_keras.data import AUGMENTATIONS, Examples
from alexnet_keras.evaluation import Answers
from alexnet_keras.viewing import Report, gather_report, render_report
from alexnet_keras.viewing.gather import confused_classes
from alexnet_keras.weights import PREPROCESSING, InputPreprocessing
from report_page import Page

TRAIN, VALIDATION = 50, 200


def plain_photographs(labels, classes: int, part: int) -> Examples:
    """Of one colour each, which tells class, number and part: see `seen`."""
    contents = []
    for i, label in enumerate(labels):
        file = io.BytesIO()
        colour = (20 + 5 * (label % 40), 5 * (i % 50), part)
        Image.new("RGB", (80, 60), colour).save(file, "PNG")
        contents.append(file.getvalue())
    names = [f"class {i}" for i in range(classes)]
    keys = [f"{part}/{i}.png" for i in range(len(labels))]
    return Examples("plain", names, keys, np.array(labels), contents)


def seen(jpeg: bytes) -> tuple[int, int, int]:
    """Class (modulo 40), number (modulo 50) and part of the photograph that was made to `jpeg`."""
    red, green, blue = np.asarray(Image.open(io.BytesIO(jpeg)), float).mean(axis=(0, 1))
    return round((red - 20) / 5), round(green / 5), TRAIN if blue < 125 else VALIDATION


def answers(labels, predictions, classes: int, confidence=None) -> Answers:
    labels, predictions = np.array(labels), np.array(predictions)
    confidence = np.full(len(labels), 0.9) if confidence is None else np.array(confidence)
    return Answers(labels, predictions, confidence, np.where(labels == predictions, 1, 2), classes)


def gathered(train: Examples, validation: Examples, result: Answers, side: int = 64) -> Report:
    pixels = keras.Input((side, side, 3))
    values = InputPreprocessing.of(PREPROCESSING["torchvision"])(pixels)
    pooled = keras.layers.GlobalAveragePooling2D()(values)
    model = keras.Model(pixels, keras.layers.Dense(result.classes)(pooled))
    return gather_report(
        model=model,
        title="plain",
        trained_in={},
        train=train,
        validation=validation,
        augmentation=AUGMENTATIONS["random_resized_crop"](),
        seed=0,
        result=result,
        history=[],
        metrics={},
        config={},
        notes=[],
    )


@pytest.fixture(scope="module")
def three():
    train = plain_photographs([0] * 6 + [1] * 6 + [2] * 3, 3, TRAIN)
    labels = [0] * 8 + [1] * 8 + [2] * 8
    taken = [1] * 3 + [0] * 5 + [0] * 3 + [1] * 5 + [0] + [2] * 7
    confidence = np.linspace(0.4, 0.9, len(labels))
    return train, plain_photographs(labels, 3, VALIDATION), answers(labels, taken, 3, confidence)


def test_a_pair_is_shown_with_its_surest_mistakes_and_some_it_was_learned_from(three):
    (pair,) = gathered(*three).confused  # one of class 2 taken for 0 makes no pair
    assert (pair.first, pair.second) == ("class 0", "class 1")
    assert (pair.first_taken, pair.second_taken) == (3, 3)
    # Wrong are 0 to 2 and 8 to 10; the later, the surer.
    assert [seen(mistake.image) for mistake in pair.mistakes] == [
        (1, 10, VALIDATION),
        (1, 9, VALIDATION),
        (1, 8, VALIDATION),
        (0, 2, VALIDATION),
    ]
    assert [(m.truth, m.predicted) for m in pair.mistakes] == [("class 1", "class 0")] * 3 + [
        ("class 0", "class 1")
    ]
    for label, shown in enumerate([pair.first_trained, pair.second_trained]):
        found = [seen(image) for image in shown]
        assert len(set(found)) == 4
        assert {(which, part) for which, _, part in found} == {(label, TRAIN)}


def test_the_same_run_shows_the_same_photographs(three):
    first, second = (gathered(*three).confused[0].first_trained for _ in range(2))
    assert first == second


def test_pictures_are_small_whatever_the_net_sees(three):
    (pair,) = gathered(*three, side=224).confused
    for image in [pair.mistakes[0].image, pair.first_trained[0]]:
        assert Image.open(io.BytesIO(image)).size == (160, 160)


def test_two_classes_are_one_pair_and_few_photographs_are_all_shown():
    labels = [0] * 5 + [1] * 5
    validation = plain_photographs(labels, 2, VALIDATION)
    result = answers(labels, [1, 1, 0, 0, 0, 1, 1, 1, 1, 1], 2)
    report = gathered(plain_photographs([0, 1, 1], 2, TRAIN), validation, result)
    (pair,) = report.confused
    assert (len(pair.mistakes), len(pair.first_trained), len(pair.second_trained)) == (2, 1, 2)
    assert "2 photographs of class 0 taken for class 1" in Page(render_report(report)).text


def test_of_two_hundred_classes_the_six_most_confused_pairs_are_shown():
    labels = np.repeat(np.arange(200), 5)
    taken = labels.copy()
    for i in range(10):  # classes 2 i and 2 i + 1: i // 2 + 1 mistakes, both ways in turn
        wrong = [10 * i, 10 * i + 5, 10 * i + 1, 10 * i + 6, 10 * i + 2][: i // 2 + 1]
        taken[wrong] = labels[wrong] ^ 1
    train = plain_photographs(np.repeat(np.arange(200), 4), 200, TRAIN)
    report = gathered(
        train, plain_photographs(labels, 200, VALIDATION), answers(labels, taken, 200)
    )
    assert [pair.first_taken + pair.second_taken for pair in report.confused] == [5, 5, 4, 4, 3, 3]
    assert [pair.first for pair in report.confused] == [
        f"class {i}" for i in (16, 18, 12, 14, 8, 10)
    ]
    pictures = [len(p.mistakes) + len(p.first_trained) for p in report.confused]
    assert pictures == [8, 8, 8, 8, 7, 7]


def test_a_net_without_mistakes_has_no_pairs():
    labels = [0, 0, 1, 1]
    validation = plain_photographs(labels, 2, VALIDATION)
    train = plain_photographs(labels, 2, TRAIN)
    assert gathered(train, validation, answers(labels, labels, 2)).confused == []


def test_unreadable_training_photographs_are_passed_over():
    labels = [0] * 3 + [1] * 3
    whole = plain_photographs(labels, 2, TRAIN)
    contents = [whole.read(i)[: 40 if i in (0, 1, 3) else None] for i in range(6)]
    torn = Examples("plain", whole.class_names, whole.keys, whole.labels, contents)
    validation = plain_photographs(labels, 2, VALIDATION)
    pixels = keras.Input((64, 64, 3))
    model = keras.Model(pixels, InputPreprocessing.of(PREPROCESSING["torchvision"])(pixels))
    result = answers(labels, [1, 1, 0, 1, 1, 1], 2)
    (pair,) = confused_classes(model, torn, validation, result, seed=0)
    assert [seen(image)[1] for image in pair.first_trained] == [2]
    assert sorted(seen(image)[1] for image in pair.second_trained) == [4, 5]
