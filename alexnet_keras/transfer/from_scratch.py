"""What pretrained weights are worth: the same photographs and the same time from random ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import keras

from alexnet_keras.data import Splits
from alexnet_keras.data.pipeline import steps_per_epoch, training_batches
from alexnet_keras.evaluation import Evaluation, centre_batches, evaluate
from alexnet_keras.training import EpochLog, computing_in, layerwise
from alexnet_keras.transfer.feature_cache import FeatureCache
from alexnet_keras.transfer.fine_tune import Settings, fine_tune
from alexnet_keras.transfer.plan import Phase

#: the most epochs on the way to the plateau, and the share of them without a new best one that
#: tells that it is reached
PLATEAU_EPOCHS, PLATEAU_PATIENCE = 60, 0.2
#: steps that the time of an epoch is estimated from, after as many that are not timed
PROBED_STEPS = 6
SAME_TIME, PLATEAU = "from scratch, same time", "from scratch, plateau"


@dataclass(frozen=True, eq=False)
class FromScratch:
    """What training from random weights came to.

    Attributes:
        same_time: answers to the validation part after the given time.
        plateau: after as long as training helped.
        history: rows of `EpochLog`, in the phases `SAME_TIME` and `PLATEAU`.
    """

    same_time: Evaluation
    plateau: Evaluation
    history: list[dict[str, Any]]


def train_from_scratch(
    model: keras.Model,
    splits: Splits,
    settings: Settings,
    *,
    seconds: float,
    learning_rate: float,
    log: EpochLog,
    say: Callable[[str], None] = print,
    verbose: int = 1,
) -> FromScratch:
    """Trains random weights for `seconds`, and then on until the early-stopping part says stop.

    The first part has as many epochs as fit into the time, at least one, and its rates fall to zero
    within it, so that it is the best that can be had in the time. The second begins where the first
    was best, at full rates again.

    Args:
        model: a classifier of `build_classifier` without weights, made in the scope of the strategy
            in force.
        seconds: how long training may take; what is taken from it are whole epochs.
        learning_rate: the largest, of all layers.
        say: receives a sentence about each choice made.

    Raises:
        UserError: as `fine_tune`.
    """
    names = [layer.name for layer in model.layers if layer.weights]
    rates = dict.fromkeys(names, learning_rate)
    with computing_in(settings.precision, model):
        epoch = _seconds_of_an_epoch(model, splits, settings, rates)
    epochs = max(round(seconds / epoch), 1)
    say(
        f"From scratch: {epochs} epochs of about {epoch:.0f} s for the same {seconds:.0f} s, then "
        f"at most {PLATEAU_EPOCHS} more to the plateau."
    )

    def train(name: str, epochs: int, patience: float) -> float:
        return fine_tune(
            model,
            splits,
            [Phase(name, rates, epochs, "adamw")],
            replace(settings, patience=patience, search_rate=False),
            log=log,
            cache=FeatureCache(),  # nothing is frozen, nothing is kept
            say=say,
            verbose=verbose,
        ).best

    best = train(SAME_TIME, epochs, 1.0)
    kept = model.get_weights()
    mirrored, batch_size = settings.augmentation.mirror, settings.batch_size
    same_time = evaluate(model, splits.validation, mirrored=mirrored, batch_size=batch_size)
    if train(PLATEAU, PLATEAU_EPOCHS, PLATEAU_PATIENCE) > best:
        model.set_weights(kept)
    plateau = evaluate(model, splits.validation, mirrored=mirrored, batch_size=batch_size)
    return FromScratch(same_time, plateau, log.rows)


def _seconds_of_an_epoch(
    model: keras.Model, splits: Splits, settings: Settings, rates: dict[str, float]
) -> float:
    """The time of an epoch, from a few steps; the weights are left as they were."""
    before = model.get_weights()
    size, batch = model.input_shape[1], settings.batch_size
    batches = training_batches(
        splits.train, settings.augmentation, image_size=size, batch_size=batch, seed=settings.seed
    )
    watched = centre_batches(model, splits.stopping, batch)
    timed = keras.Model(model.input, model.output)
    timed.compile(layerwise("adamw", timed, rates), "categorical_crossentropy")

    def seconds_of(run: Callable[[], Any]) -> float:
        run()  # traces
        began = time.monotonic()
        run()
        return time.monotonic() - began

    steps = seconds_of(
        lambda: timed.fit(batches, steps_per_epoch=PROBED_STEPS, epochs=1, shuffle=False, verbose=0)
    )
    watching = seconds_of(lambda: timed.evaluate(watched, verbose=0))
    model.set_weights(before)
    return steps / PROBED_STEPS * steps_per_epoch(len(splits.train), batch) + watching
