"""A learning rate for each layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops

Schedule = keras.optimizers.schedules.LearningRateSchedule

#: of AdamW, times the rate, a step
WEIGHT_DECAY = 0.05

#: from a rate and a weight decay, which plain SGD has no use for
OPTIMIZERS: dict[str, Callable[[float | Schedule, float], keras.optimizers.Optimizer]] = {
    "sgd": lambda rate, _: keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
    "adamw": lambda rate, decay: keras.optimizers.AdamW(rate, weight_decay=decay),
}


@keras.saving.register_keras_serializable(package="alexnet_keras")
class Linear(Schedule):
    """A rate that rises from zero, then falls along a straight line, or stays.

    Args:
        rate: the largest.
        steps: until the rate is zero.
        warmup_steps: of these, in which it rises.
        falling: False for a rate that stays once it has risen.
    """

    def __init__(self, rate: float, steps: int, warmup_steps: int, falling: bool = True) -> None:
        self.rate, self.steps, self.warmup_steps = rate, steps, warmup_steps
        self.falling = falling

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "float32")
        share = ops.minimum(step / self.warmup_steps, 1.0) if self.warmup_steps else 1.0
        if self.falling:
            left = (self.steps - step) / max(self.steps - self.warmup_steps, 1)
            share = ops.minimum(share, ops.maximum(left, 0.0))
        return self.rate * share

    def get_config(self) -> dict[str, Any]:
        return dict(vars(self))


#: from the largest rate, the steps until it is zero and those of them in which it rises
SCHEDULES: dict[str, Callable[[float, int, int], Schedule]] = {
    "cosine": lambda rate, steps, warmup: keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else rate,
        max(steps - warmup, 1),
        warmup_target=rate if warmup else None,
        warmup_steps=warmup,
    ),
    "linear": Linear,
    "constant": lambda rate, steps, warmup: Linear(rate, steps, warmup, falling=False),
}


def layerwise(
    kind: str,
    model: keras.Model,
    rates: Mapping[str, float],
    steps: int | None = None,
    *,
    warmup_steps: int = 0,
    schedule: str = "cosine",
    weight_decay: float = WEIGHT_DECAY,
) -> keras.optimizers.Optimizer:
    """An optimizer whose rates follow a schedule, each layer's from its own.

    Args:
        kind: a key of `OPTIMIZERS`: `"sgd"` (Nesterov momentum .9) or `"adamw"`.
        model: its trainable layers are the ones to be trained.
        rates: the largest rate of each of these layers, by name.
        steps: number of steps until the rates are zero; `None` for rates that stay until they are
            set, each by the `learning_rate` of its part of the optimizer.
        warmup_steps: number of these steps in which the rates rise from zero first.
        schedule: a key of `SCHEDULES`: to zero along half a cosine or a straight line, or constant
            once they have risen.
        weight_decay: of AdamW.

    Raises:
        ValueError: a trainable layer has no rate.
    """
    trained = [layer for layer in model.layers if layer.trainable_weights]
    if missing := [layer.name for layer in trained if layer.name not in rates]:
        raise ValueError(f"No learning rate for the layers {missing}; rates has {sorted(rates)}.")

    def optimizer(rate: float) -> keras.optimizers.Optimizer:
        rates = rate if steps is None else SCHEDULES[schedule](rate, steps, warmup_steps)
        return OPTIMIZERS[kind](rates, weight_decay)

    distinct = {rate: optimizer(rate) for rate in {rates[layer.name] for layer in trained}}
    if len(distinct) == 1:
        return next(iter(distinct.values()))
    by_variable = keras.optimizers.OptimizerMap(distinct[max(distinct)])
    for layer in trained:
        for variable in layer.trainable_weights:
            by_variable[variable.path] = distinct[rates[layer.name]]
    return keras.optimizers.MultiOptimizer(by_variable)
