"""How much each choice matters, judged by the trials of a search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance
from sklearn.model_selection import KFold

from alexnet_keras.tuning.outcomes import Outcome
from alexnet_keras.tuning.space import REASONS, THAWED

#: fewer trials than this tell nothing of some fifteen choices
LEAST_TRIALS = 20
FOLDS, TREES, SHUFFLES = 5, 200, 10


@dataclass(frozen=True)
class Importance:
    """What a random forest makes of the trials.

    Attributes:
        explained: the share of the accuracies' variance that it foretells for trials that it has
            not seen (R squared, five folds); 0 or less where it foretells nothing.
        lost: for each choice, the most important first, how much of that share goes when the
            choice's values are shuffled among these trials (permutation importance, Breiman 2001),
            0 at least.
    """

    explained: float
    lost: dict[str, float]


def importance(outcomes: Sequence[Outcome]) -> Importance | None:
    """Of every choice in which whole trials differ; `None` for fewer than `LEAST_TRIALS`.

    Accuracies are those of frozen convolutions, and whether any were trained after does not count:
    that was tried on the best only.
    """
    scored = [one for one in outcomes if one.accuracy is not None and one.epochs == 1]
    names = [
        name
        for name in REASONS
        if name not in THAWED and len({repr(one.settings.get(name)) for one in scored}) > 1
    ]
    if len(scored) < LEAST_TRIALS or not names:
        return None
    table = np.array([_encoded([one.settings.get(name) for one in scored]) for name in names]).T
    accuracy = np.array(
        [one.accuracy if one.frozen_accuracy is None else one.frozen_accuracy for one in scored]
    )
    lost, errors = np.zeros(len(names)), 0.0
    for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(table):
        forest = RandomForestRegressor(TREES, min_samples_leaf=2, random_state=0)
        forest.fit(table[train], accuracy[train])
        # Squared errors, added up over the folds: R squared of a few trials is no figure.
        found = permutation_importance(
            forest,
            table[test],
            accuracy[test],
            scoring="neg_mean_squared_error",
            n_repeats=SHUFFLES,
            random_state=0,
        )
        lost += found.importances_mean * len(test)
        errors += float(((forest.predict(table[test]) - accuracy[test]) ** 2).sum())
    variance = float(((accuracy - accuracy.mean()) ** 2).sum())
    if variance == 0:
        return None
    shares = {
        name: max(float(share), 0.0) for name, share in zip(names, lost / variance, strict=True)
    }
    ordered = dict(sorted(shares.items(), key=lambda item: -item[1]))
    return Importance(1 - errors / variance, ordered)


def _encoded(values: Sequence[Any]) -> list[float]:
    """Numbers that trees can part: those that are, else places in the alphabet; -1 for none."""
    known = sorted({value for value in values if value is not None}, key=lambda value: str(value))
    numeric = all(isinstance(value, int | float) for value in known)
    return [
        -1.0 if value is None else float(value) if numeric else float(known.index(value))
        for value in values
    ]
