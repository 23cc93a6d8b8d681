from __future__ import annotations

from dataclasses import replace

import numpy as np

from alexnet_keras.tuning.importance import LEAST_TRIALS, importance
from alexnet_keras.tuning.outcomes import Outcome


def outcomes(count, accuracy):
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        settings = {
            "head": str(rng.choice(["bilinear", "pooled"])),
            "views": int(rng.choice([1, 2, 4])),
            "label_smoothing": float(rng.choice([0.0, 0.1])),
            "schedule": "cosine",
        }
        if settings["views"] == 4:
            settings["strength"] = float(rng.choice([0.5, 1.0]))
        found.append(
            Outcome(
                trial=str(number),
                settings=settings,
                status="completed",
                accuracy=accuracy(settings, rng),
                ended=number,
            )
        )
    return found


def test_what_decides_comes_first_and_what_does_not_has_none():
    found = importance(
        outcomes(80, lambda s, rng: 0.8 + 0.1 * (s["head"] == "bilinear") + 0.01 * s["views"])
    )
    assert list(found.lost)[:2] == ["head", "views"]
    assert found.explained > 0.8
    assert found.lost["label_smoothing"] < 0.05
    assert "schedule" not in found.lost  # all trials have the same


def test_what_was_tried_on_the_best_only_does_not_count():
    trials = outcomes(60, lambda s, rng: 0.8 + 0.1 * (s["head"] == "bilinear"))
    for one in trials[::3]:  # convolutions trained after, from the best frozen nets
        one.settings.update({"unfreeze": 1, "learning_rate": 0.01})
    chosen = [
        replace(one, frozen_accuracy=one.accuracy, accuracy=0.2) if number % 3 == 0 else one
        for number, one in enumerate(trials)
    ]
    found = importance(chosen)
    assert not {"unfreeze", "learning_rate"} & set(found.lost)
    assert found.explained > 0.8


def test_of_chance_it_says_that_it_tells_nothing():
    found = importance(outcomes(60, lambda s, rng: float(rng.uniform(0.8, 0.9))))
    assert found.explained <= 0.1


def test_too_few_trials_or_equal_ones_tell_nothing():
    assert importance(outcomes(LEAST_TRIALS - 1, lambda s, rng: float(rng.uniform()))) is None
    assert importance(outcomes(40, lambda s, rng: 0.5)) is None
