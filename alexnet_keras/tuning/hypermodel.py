"""The fine-tuning of this package as keras-tuner takes it: build by choices, fit in phases."""

from __future__ import annotations

import math
import os
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
import keras_tuner
import numpy as np
from scipy import optimize, special

from alexnet_keras.data import CentreView, Splits
from alexnet_keras.data.pipeline import steps_per_epoch
from alexnet_keras.errors import UserError
from alexnet_keras.evaluation import Evaluation, evaluate
from alexnet_keras.training import EpochLog
from alexnet_keras.transfer import Choices, Classifier, FeatureCache, build_readings, fine_tune
from alexnet_keras.transfer.fine_tune import measured_views, stored_views
from alexnet_keras.tuning.budget import OutOfTime
from alexnet_keras.tuning.feature_bank import FeatureBank
from alexnet_keras.tuning.space import ask
from alexnet_keras.weights import open_weights, preprocessing_of

#: of what frozen layers give, on disk: trials of many sizes and augmentations need more than a run
DISK_BYTES = 16 * 2**30
#: of it, kept in memory by each process: an eighth of the machine's, at most so much
MEMORY_BYTES = min(3 * 2**30, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 8)
#: steps after which it is reckoned how long all of them will take
PACED = 4
#: the accuracy on the photographs that settings are chosen by, 0..1
OBJECTIVE = keras_tuner.Objective("val_accuracy", "max")


@dataclass(frozen=True)
class Scores:
    """What a trial came to, on the photographs that settings are chosen by.

    Attributes:
        accuracy: the share of them that is labelled right.
        loss: mean cross-entropy after the best temperature for these photographs, so that label
            smoothing, which makes probabilities less sure, neither helps nor harms.
    """

    accuracy: float
    loss: float

    @classmethod
    def of(cls, result: Evaluation) -> Scores:
        return cls(result.top(1), calibrated_loss(result))


class FineTuneHyperModel(keras_tuner.HyperModel):
    """A classifier on pretrained convolutions, with everything about its fine-tuning open.

    What is open, within which ranges and why: `tuning.REASONS`. With any tuner of keras-tuner:

    ```python
    hypermodel = FineTuneHyperModel(splits, weights="imagenet")
    tuner = keras_tuner.RandomSearch(hypermodel, objective=OBJECTIVE, max_trials=20)
    tuner.search()
    ```

    `tuning.FineTuneTuner` adds a budget in minutes and what else a long search needs.

    Args:
        splits: `train` and `stopping` are trained on, `validation` is what settings are chosen by:
            a fold of `Splits.folds`, so that the reported figure comes from other photographs.
        weights: pretrained, as in `build_classifier`.
        variant, crop: as in `build_classifier`.
        defaults: what is not open: mirrors, batches and epochs; and of what is, the default number
            of views and, where it is given, the size about which others are tried.
        heads: the kinds of head to be tried, keys of `HEADS`, the default first; `None` tries
            bilinear and pooled ones, and AlexNet's own where the weights hold fc6.
        precision: what convolutions compute in while training.
        seed: of every trial; two that choose the same come to the same, but for the order in which
            threads add up what a pooled head's layers give: a point or so of a few hundred
            photographs.
        cache: what frozen layers give, for all trials together.

    Raises:
        UserError: there are no pretrained weights; as `build_classifier`.
    """

    def __init__(
        self,
        splits: Splits,
        *,
        weights: str | Path,
        variant: str | None = None,
        crop: str = "centre",
        defaults: Choices | None = None,
        heads: Sequence[str] | None = None,
        precision: str = "float32",
        seed: int = 0,
        cache: FeatureCache | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if weights is None:
            raise UserError(
                "A search among fine-tuning settings needs pretrained weights, and there are none; "
                "give them with --weights starter, or the path of a file."
            )
        self.splits, self.defaults = splits, defaults or Choices()
        self.precision, self.seed = precision, seed
        # Read once: published weights are 244 MB, and a trial may take a few seconds.
        stored = open_weights(weights, variant)
        self._source = {"weights": stored, "variant": variant, "crop": crop}
        self._cache = cache or FeatureCache(most_bytes=DISK_BYTES, memory_bytes=MEMORY_BYTES)
        with_fc6 = "fc6/kernel" in stored.tensors
        self.heads = tuple(heads or ("bilinear", "pooled", *(("fc",) if with_fc6 else ())))
        default = replace(self.defaults, head=self.heads[0])
        built = default.build(len(splits.train.class_names), **self._source)
        self.image_size: int = built.model.input_shape[1]
        self._banks: dict[int, FeatureBank] = {}
        # Head, loaded layers and variant of each model.
        self._built: weakref.WeakKeyDictionary[keras.Model, tuple[Any, ...]]
        self._built = weakref.WeakKeyDictionary()

    def choices(self, hp: keras_tuner.HyperParameters) -> Choices:
        """What `hp` chooses; what it does not hold yet is declared in it, with its default."""
        return ask(hp, self.defaults, image_size=self.image_size, heads=self.heads)

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """The classifier, not compiled: `fit` does that for each phase."""
        classifier = self.choices(hp).build(len(self.splits.train.class_names), **self._source)
        model = classifier.model
        # Not the classifier, whose model would keep its own entry alive.
        self._built[model] = (classifier.head, classifier.loaded, classifier.variant)
        return model

    def fit(
        self,
        hp: keras_tuner.HyperParameters,
        model: keras.Model,
        *,
        splits: Splits | None = None,
        share: float = 1.0,
        thaws_for: Callable[[float], float] = lambda accuracy: math.inf,
        interrupt: Callable[[], None] = lambda: None,
        folder: Path | None = None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        verbose: int = 0,
        **_: Any,
    ) -> dict[str, float]:
        """Trains what `build` made of `hp`, and measures it.

        Args:
            splits: in place of those of the constructor.
            share: of the epochs, above 0 to 1.
            thaws_for: seconds that convolutions may be trained for after a frozen net of this
                accuracy, 0 for not at all. They are left alone too, as soon as it is seen, where
                that would not be enough.
            interrupt: as in `fine_tune`. Where it raises `OutOfTime`, what was learned until then
                is measured.
            folder: for `history.csv` and TensorBoard.
            callbacks: told of each epoch, with the whole classifier as their model.

        Returns:
            `val_accuracy` and `val_loss`, as `Scores`; `storing_seconds`, in which frozen layers
            were run; and, where convolutions were to be trained, `frozen_accuracy`, before they
            were, and `thawed`, 1 if they were; and `stopped`, where it was out of time.

        Raises:
            UserError: as `fine_tune`.
            OutOfTime: from `interrupt`, before anything was learned.
        """
        splits = splits or self.splits
        choices = self.choices(hp)
        head, loaded, variant = self._built[model]
        choices = replace(
            choices,
            head_epochs=max(round(share * choices.head_epochs), 1),
            epochs=max(round(share * choices.epochs), 1),
        )
        phases = choices.plan(Classifier(model, variant, head, loaded))
        pretrained = set(loaded.loaded)
        frozen = [phase for phase in phases if not pretrained & set(phase.trained)]
        thawed = phases[len(frozen) :]
        settings = choices.training(seed=self.seed, precision=self.precision)
        bank = self.bank(model.input_shape[1])
        options = {
            "cache": self._cache,
            "interrupt": interrupt,
            "callbacks": [_OfWhole(callback, model) for callback in callbacks],
            "say": lambda sentence: None,
            "verbose": verbose,
        }

        with TemporaryDirectory() as scratch:
            place = folder or Path(scratch)
            log = EpochLog(place / "history.csv", place / "tensorboard")
            with bank.computing():
                # Stored however few the epochs are: other trials will read it too.
                always = replace(settings, epochs_a_view=0.0)
                stopped = False
                first = frozen[0].trained[0]
                centre = CentreView(**preprocessing_of(model).geometry)
                views = stored_views(centre, settings)
                seen = measured_views(centre, choices.mirror)
                asked = [(splits.stopping, centre), *((splits.train, view) for view in views)]
                # What is measured at the end first: then there is time for it.
                asked = [*((splits.validation, view) for view in seen), *asked]
                began = time.monotonic()
                bank.store(model, first, asked, interrupt)
                storing = time.monotonic() - began
                try:
                    fine_tune(model, splits, frozen, always, log=log, cut=bank.cut, **options)
                except OutOfTime:
                    if not log.rows:
                        raise
                    stopped = True
            scores = Scores.of(
                bank.evaluate(model, first, splits.validation, mirrored=choices.mirror)
            )
            found = {"frozen_accuracy": scores.accuracy, "thawed": 0.0} if thawed else {}
            if thawed and not stopped and (allowed := thaws_for(scores.accuracy)):
                kept, frozen_epochs = model.get_weights(), len(log.rows)
                steps = steps_per_epoch(len(splits.train), settings.batch_size)
                pace = _Pace(allowed, steps * sum(phase.epochs for phase in thawed), interrupt)
                options |= {"interrupt": pace.check, "callbacks": [*options["callbacks"], pace]}
                try:
                    fine_tune(model, splits, thawed, settings, log=log, **options)
                    found["thawed"] = 1.0
                except OutOfTime:
                    stopped = True  # and no time to measure the whole net: what is known counts
                except _TooSlow:
                    pass
                losses = [row["stop_loss"] for row in log.rows]
                # As one run of all phases would: what decides is the early-stopping part.
                better = min(losses[frozen_epochs:], default=np.inf) < min(losses[:frozen_epochs])
                if better and found["thawed"]:
                    scores = Scores.of(evaluate(model, splits.validation, mirrored=choices.mirror))
                else:
                    model.set_weights(kept)
        found |= {"stopped": 1.0} if stopped else {}
        told = {"val_accuracy": scores.accuracy, "val_loss": scores.loss}
        return {**told, "storing_seconds": storing, **found}

    def bank(self, image_size: int) -> FeatureBank:
        """What frozen convolutions give at one size, for all heads."""
        if image_size not in self._banks:
            readings = build_readings(image_size=image_size, **self._source)
            self._banks[image_size] = FeatureBank(
                readings, self._cache, self.defaults.batch_size, self.precision
            )
        return self._banks[image_size]


def calibrated_loss(result: Evaluation) -> float:
    """Mean cross-entropy of probabilities sharpened or flattened as suits their own examples best.

    Temperature scaling (Guo et al. 2017, arXiv:1706.04599), fitted to what it is measured on: one
    number for all examples.
    """
    logits = np.log(np.maximum(result.probabilities, 1e-12))

    def loss(log_temperature: float) -> float:
        scaled = special.log_softmax(logits / np.exp(log_temperature), axis=1)
        return -float(np.take_along_axis(scaled, result.labels[:, None], axis=1).mean())

    return float(optimize.minimize_scalar(loss, bounds=(-3, 3), method="bounded").fun)


class _TooSlow(Exception):
    """Convolutions would take longer than they may."""


class _Pace(keras.callbacks.Callback):
    """Looks how long training takes, and whether that will do, until half of it is done.

    Args:
        allowed: seconds.
        steps: that there will be.
        interrupt: called at each look.
    """

    def __init__(self, allowed: float, steps: int, interrupt: Callable[[], None]) -> None:
        super().__init__()
        self._allowed, self._steps, self._interrupt = allowed, steps, interrupt
        self._began = time.monotonic()
        self._ends: list[float] = []

    def check(self) -> None:
        """
        Raises:
            _TooSlow: it has taken too long.
        """
        self._interrupt()
        self._check(time.monotonic() - self._began)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """
        Raises:
            _TooSlow: it will take too long.
        """
        now, first = time.monotonic(), PACED // 2  # the first steps wait for graphs
        self._ends.append(now)
        if len(self._ends) > PACED:
            of_each = (now - self._ends[first]) / (len(self._ends) - 1 - first)
            self._check(now - self._began + of_each * (self._steps - len(self._ends)))

    def _check(self, seconds: float) -> None:
        if seconds > self._allowed and len(self._ends) < self._steps / 2:
            raise _TooSlow


class _OfWhole(keras.callbacks.Callback):
    """Tells a callback of epochs, counted over all phases, as if the classifier were trained."""

    def __init__(self, callback: keras.callbacks.Callback, model: keras.Model) -> None:
        super().__init__()
        self._callback, self._epochs = callback, 0
        callback.set_model(model)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._callback.on_epoch_begin(self._epochs, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._callback.on_epoch_end(self._epochs, logs)
        self._epochs += 1
