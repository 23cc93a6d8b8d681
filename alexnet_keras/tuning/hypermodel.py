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
from alexnet_keras.transfer.fine_tune import Settings, measured_views, stored_views
from alexnet_keras.transfer.plan import Phase
from alexnet_keras.tuning.budget import OutOfTime
from alexnet_keras.tuning.callbacks import OfWhole, Pace, TooSlow
from alexnet_keras.tuning.feature_bank import FeatureBank
from alexnet_keras.tuning.space import ask
from alexnet_keras.weights import open_weights, preprocessing_of

#: of what frozen layers give, on disk: trials of many sizes and augmentations need more than a run
DISK_BYTES = 16 * 2**30
#: of it, kept in memory by each process: an eighth of the machine's, at most so much
MEMORY_BYTES = min(3 * 2**30, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 8)
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
        variant: as in `build_classifier`.
        defaults: what is not open: mirrors, batches and epochs of convolutions; and of what is, the
            default number of views, the crop that is tried first, and the head's epochs and, where
            it is given, the size about which others are tried.
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
        self._source = {"weights": stored, "variant": variant}
        self._cache = cache or FeatureCache(most_bytes=DISK_BYTES, memory_bytes=MEMORY_BYTES)
        with_fc6 = "fc6/kernel" in stored.tensors
        self.heads = tuple(heads or ("bilinear", "pooled", *(("fc",) if with_fc6 else ())))
        default = replace(self.defaults, head=self.heads[0])
        built = default.build(len(splits.train.class_names), **self._source)
        self.image_size: int = built.model.input_shape[1]
        self._banks: dict[tuple[int, str], FeatureBank] = {}
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
            were, and `thawed`, 1 if they were; where that was begun, `thawing_seconds`, and
            `too_slow_in`, the seconds allowed where they would not have been enough; and
            `stopped`, where it was out of time.

        Raises:
            UserError: as `fine_tune`.
            OutOfTime: from `interrupt`, before anything was learned.
        """
        choices = self.choices(hp)
        choices = replace(
            choices,
            head_epochs=max(round(share * choices.head_epochs), 1),
            epochs=max(round(share * choices.epochs), 1),
        )
        head, loaded, variant = self._built[model]
        phases = choices.plan(Classifier(model, variant, head, loaded))
        pretrained = set(loaded.loaded)
        frozen = [phase for phase in phases if not pretrained & set(phase.trained)]
        thawed = phases[len(frozen) :]
        with TemporaryDirectory() as scratch:
            place = folder or Path(scratch)
            run = _Run(
                model=model,
                splits=splits or self.splits,
                settings=choices.training(seed=self.seed, precision=self.precision),
                mirrored=choices.mirror,
                bank=self.bank(model.input_shape[1], choices.crop),
                cache=self._cache,
                log=EpochLog(place / "history.csv", place / "tensorboard"),
                interrupt=interrupt,
                callbacks=[OfWhole(callback, model) for callback in callbacks],
                verbose=verbose,
            )
            storing = run.store(frozen)
            stopped = run.train_frozen(frozen)
            scores = run.frozen_scores(frozen)
            found = {"frozen_accuracy": scores.accuracy, "thawed": 0.0} if thawed else {}
            if thawed and not stopped and (allowed := thaws_for(scores.accuracy)):
                began = time.monotonic()
                try:
                    if run.train_thawed(thawed, allowed):
                        scores = run.scores()
                    found["thawed"] = 1.0
                except OutOfTime:
                    stopped = True  # and no time to measure the whole net: what is known counts
                except TooSlow:
                    found["too_slow_in"] = allowed
                found["thawing_seconds"] = time.monotonic() - began
        found |= {"stopped": 1.0} if stopped else {}
        told = {"val_accuracy": scores.accuracy, "val_loss": scores.loss}
        return {**told, "storing_seconds": storing, **found}

    def bank(self, image_size: int, crop: str) -> FeatureBank:
        """What frozen convolutions give at one size and crop, for all heads."""
        key = image_size, crop
        if key not in self._banks:
            readings = build_readings(image_size=image_size, crop=crop, **self._source)
            self._banks[key] = FeatureBank(
                readings, self._cache, self.defaults.batch_size, self.precision
            )
        return self._banks[key]


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


@dataclass(frozen=True, kw_only=True)
class _Run:
    """The training of one trial, first with frozen convolutions, then with some of them."""

    model: keras.Model
    splits: Splits
    settings: Settings
    mirrored: bool
    bank: FeatureBank
    cache: FeatureCache
    log: EpochLog
    interrupt: Callable[[], None]
    callbacks: Sequence[keras.callbacks.Callback]
    verbose: int

    def store(self, frozen: Sequence[Phase]) -> float:
        """Runs the frozen layers on what will be asked of them; the seconds that it took."""
        centre = CentreView(**preprocessing_of(self.model).geometry)
        views = stored_views(centre, self._always)
        # What is measured at the end first: then there is time for it.
        asked = [
            *((self.splits.validation, view) for view in measured_views(centre, self.mirrored)),
            (self.splits.stopping, centre),
            *((self.splits.train, view) for view in views),
        ]
        began = time.monotonic()
        self.bank.store(self.model, frozen[0].trained[0], asked, self.interrupt)
        return time.monotonic() - began

    def train_frozen(self, phases: Sequence[Phase]) -> bool:
        """Trains what no pretrained layer is part of; whether it was stopped.

        Raises:
            OutOfTime: before anything was learned.
        """
        try:
            with self.bank.computing():
                self._train(phases, self._always, self.interrupt, cut=self.bank.cut)
        except OutOfTime:
            if not self.log.rows:
                raise
            return True
        return False

    def frozen_scores(self, phases: Sequence[Phase]) -> Scores:
        first = phases[0].trained[0]
        examples = self.splits.validation
        return Scores.of(self.bank.evaluate(self.model, first, examples, mirrored=self.mirrored))

    def train_thawed(self, phases: Sequence[Phase], allowed: float) -> bool:
        """Trains on, at most so many seconds; whether that was better, or is undone.

        Raises:
            OutOfTime, TooSlow: then it is undone too.
        """
        before, better = self.model.get_weights(), False
        least = min(row["stop_loss"] for row in self.log.rows)
        frozen_epochs = len(self.log.rows)
        steps = steps_per_epoch(len(self.splits.train), self.settings.batch_size)
        pace = Pace(allowed, steps * sum(phase.epochs for phase in phases), self.interrupt)
        try:
            self._train(phases, self.settings, pace.check, pace)
            # As one run of all phases would: what decides is the early-stopping part.
            then = [row["stop_loss"] for row in self.log.rows[frozen_epochs:]]
            better = min(then, default=np.inf) < least
        finally:
            if not better:
                self.model.set_weights(before)
        return better

    def scores(self) -> Scores:
        return Scores.of(evaluate(self.model, self.splits.validation, mirrored=self.mirrored))

    @property
    def _always(self) -> Settings:
        # Stored however few the epochs are: other trials will read it too.
        return replace(self.settings, epochs_a_view=0.0)

    def _train(
        self,
        phases: Sequence[Phase],
        settings: Settings,
        interrupt: Callable[[], None],
        *callbacks: keras.callbacks.Callback,
        **options: Any,
    ) -> None:
        fine_tune(
            self.model,
            self.splits,
            phases,
            settings,
            log=self.log,
            cache=self.cache,
            interrupt=interrupt,
            callbacks=[*self.callbacks, *callbacks],
            say=lambda sentence: None,
            verbose=self.verbose,
            **options,
        )
