"""Runs a fine-tuning recipe as it is, and measures each of its epochs afterwards.

    python benchmarks/watched_recipe.py --recipe finetune_flowers --output FOLDER ITS OPTIONS

Two functions that the recipe calls are stood in for: `transfer.fine_tune`, to copy the trained
layers' weights at the end of each epoch, and `evaluation.evaluate`, to note when it is done. Both
do what they do without. When the recipe has ended, the copies are measured on the centre views of
its validation part. A contestant of `time_to_accuracy.py`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from accuracy_curves import Curve, Point
from contestant import CURVE, seconds
from recipe_runs import RECIPES

sys.path.insert(0, str(RECIPES))

from command_line import quiet_tensorflow

Weights = dict[str, list[np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--output", type=Path, required=True)
    given, others = parser.parse_known_args()
    output = given.output
    sys.argv[1:] = [f"--output={output}", *others]
    quiet_tensorflow()
    from alexnet_keras import evaluation, transfer

    recipe = importlib.import_module(given.recipe).main

    watch = Watch(transfer.fine_tune, evaluation.evaluate)
    transfer.fine_tune, evaluation.evaluate = watch.fine_tune, watch.evaluate
    try:
        recipe()
    except SystemExit as ended:
        if ended.code:
            raise
    began = seconds()
    points = watch.points()
    metrics = json.loads((output / "metrics.json").read_text())
    curve = Curve(
        tuple(points),
        watch.rates(),
        measuring=seconds() - began,
        chosen=Point(watch.trained, metrics["val_top1"]),
        evaluated=watch.evaluated,
    )
    curve.write(output / CURVE)


class Epoch(NamedTuple):
    """When an epoch ended, and with which weights, by layer."""

    seconds: float
    phase: str
    weights: Weights


class Watch:
    """Stands in for two functions of the recipe.

    Attributes:
        trained: seconds from the start of the process to the net with its final weights.
        evaluated: to the recipe's own figure.
    """

    trained = evaluated = 0.0

    def __init__(self, fine_tune: Callable[..., Any], evaluate: Callable[..., Any]) -> None:
        self._fine_tune, self._evaluate = fine_tune, evaluate
        self._epochs: list[Epoch] = []

    def fine_tune(self, model: Any, splits: Any, phases: Any, *others: Any, log: Any, **more: Any):
        self._model, self._splits, self._phases, self._log = model, splits, phases, log
        trained = {phase.name: phase.trained for phase in phases}
        every = [layer.name for layer in model.layers if layer.weights]
        told = log.on_epoch_end

        def on_epoch_end(epoch: int, logs: dict[str, Any] | None = None) -> None:
            told(epoch, logs)
            when, phase = seconds(), log.rows[-1]["phase"]
            # Between phases any layer may change; within one, only those that it trains.
            if self._epochs and self._epochs[-1].phase == phase:
                weights = self._epochs[-1].weights | weights_of(model, trained[phase])
            else:
                weights = weights_of(model, every)
            self._epochs.append(Epoch(when, phase, weights))

        log.on_epoch_end = on_epoch_end
        result = self._fine_tune(model, splits, phases, *others, log=log, **more)
        self.trained = seconds()
        return result

    def evaluate(self, *given: Any, **more: Any) -> Any:
        result = self._evaluate(*given, **more)
        self.evaluated = self.evaluated or seconds()
        return result

    def points(self) -> list[Point]:
        """The accuracy of each epoch's weights on the validation part, with the mirrors' help."""
        import keras

        from alexnet_keras.evaluation import Evaluation, predict
        from alexnet_keras.transfer import split_model
        from alexnet_keras.weights import preprocessing_of

        found, validation = [], self._splits.validation
        labels = validation.labels.astype(int)
        for phase in self._phases:
            epochs = [epoch for epoch in self._epochs if epoch.phase == phase.name]
            if not epochs:
                continue
            # What stands before the trained layers gives the same all through a phase.
            set_weights(self._model, epochs[0].weights)
            trunk, tail = split_model(self._model, phase.trained[0])
            pixels = keras.Input(trunk.input_shape[1:])
            mirroring = keras.Model(pixels, trunk(keras.ops.flip(pixels, 2)))
            mirroring.preprocessing = preprocessing_of(trunk)
            looks = [predict(one, validation).astype(np.float32) for one in (trunk, mirroring)]
            for epoch in epochs:
                set_weights(self._model, epoch.weights)
                both = sum(tail.predict(look, verbose=0) for look in looks) / len(looks)
                found.append(Point(epoch.seconds, Evaluation(both, labels).top(1)))
        return found

    def rates(self) -> dict[str, float]:
        """Photographs a second that each phase's epochs go through."""
        spent: dict[str, list[float]] = {}
        for row in self._log.rows:
            spent.setdefault(row["phase"], []).append(row["seconds"])
        count = len(self._splits.train)
        return {phase: len(each) * count / sum(each) for phase, each in spent.items()}


def weights_of(model: Any, names: Any) -> Weights:
    return {name: model.get_layer(name).get_weights() for name in names}


def set_weights(model: Any, weights: Weights) -> None:
    for name, values in weights.items():
        model.get_layer(name).set_weights(values)


if __name__ == "__main__":
    main()
