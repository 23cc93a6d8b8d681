"""A learning rate for each layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras

Schedule = keras.optimizers.schedules.LearningRateSchedule

OPTIMIZERS: dict[str, Callable[[float | Schedule], keras.optimizers.Optimizer]] = {
    "sgd": lambda rate: keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
    "adamw": lambda rate: keras.optimizers.AdamW(rate, weight_decay=0.05),
}


def layerwise(
    kind: str,
    model: keras.Model,
    rates: Mapping[str, float],
    steps: int | None = None,
    *,
    warmup_steps: int = 0,
) -> keras.optimizers.Optimizer:
    """An optimizer whose rate falls from each layer's own to zero along half a cosine.

    Args:
        kind: a key of `OPTIMIZERS`: `"sgd"` (Nesterov momentum .9) or `"adamw"` (decay .05).
        model: its trainable layers are the ones to be trained.
        rates: the largest rate of each of these layers, by name.
        steps: number of steps until the rates are zero; `None` for rates that stay until they are
            set, each by the `learning_rate` of its part of the optimizer.
        warmup_steps: number of these steps in which the rates rise from zero first.

    Raises:
        ValueError: a trainable layer has no rate.
    """
    trained = [layer for layer in model.layers if layer.trainable_weights]
    if missing := [layer.name for layer in trained if layer.name not in rates]:
        raise ValueError(f"No learning rate for the layers {missing}; rates has {sorted(rates)}.")

    def optimizer(rate: float) -> keras.optimizers.Optimizer:
        if steps is None:
            return OPTIMIZERS[kind](rate)
        return OPTIMIZERS[kind](
            keras.optimizers.schedules.CosineDecay(
                0.0 if warmup_steps else rate,
                max(steps - warmup_steps, 1),
                warmup_target=rate if warmup_steps else None,
                warmup_steps=warmup_steps,
            )
        )

    distinct = {rate: optimizer(rate) for rate in {rates[layer.name] for layer in trained}}
    if len(distinct) == 1:
        return next(iter(distinct.values()))
    by_variable = keras.optimizers.OptimizerMap(distinct[max(distinct)])
    for layer in trained:
        for variable in layer.trainable_weights:
            by_variable[variable.path] = distinct[rates[layer.name]]
    return keras.optimizers.MultiOptimizer(by_variable)
