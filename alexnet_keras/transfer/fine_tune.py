"""Running the phases of a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from alexnet_keras.data import (
    Augmentation,
    CentreView,
    RandomView,
    Splits,
    View,
)
from alexnet_keras.data.pipeline import steps_per_epoch, training_batches
from alexnet_keras.evaluation import centre_batches
from alexnet_keras.training import (
    EpochLog,
    KeepBest,
    RateSearch,
    StopOnNonFinite,
    computing_in,
    layerwise,
    search_rate,
)
from alexnet_keras.training.optimizers import WEIGHT_DECAY
from alexnet_keras.transfer.cutting import NothingBelow, split_model
from alexnet_keras.transfer.feature_cache import FeatureCache
from alexnet_keras.transfer.plan import Phase
from alexnet_keras.transfer.trunk_outputs import TrunkOutputs
from alexnet_keras.weights import preprocessing_of

#: a model and the first layer to be trained, to the frozen layers before it, those that follow, and
#: what of the last axis of the former's outputs these take
Cut = Callable[[keras.Model, str], tuple[keras.Model, keras.Model, slice]]
#: share of a phase's steps in which the rates rise: sudden full rates tear pretrained layers apart
WARMUP_SHARE = 0.1


@dataclass(frozen=True)
class Settings:
    """How the phases of a plan are trained.

    Attributes:
        augmentation: training views.
        batch_size: photographs a step, over all devices.
        seed: order, augmentation and views are keyed by it.
        views: views of each photograph that a phase on frozen layers trains on; see
            `stored_views`.
        patience: a phase ends when this share of its epochs in a row brought no new best loss on
            the early-stopping part; at 1 none ends early. Less saves time and ends a phase with
            large rates before they have fallen, which is when such a phase becomes good.
        label_smoothing: share of the target probability spread over all classes.
        precision: what feature maps are computed in while training, a key of
            `training.precision.POLICIES` other than float16, whose small gradients would be lost.
            The trained model computes in float32 again.
        schedule: how the rates of a phase go on once they have risen, a key of
            `training.optimizers.SCHEDULES`.
        weight_decay: of AdamW, in the phases that are trained with it.
        epochs_a_view: a phase's frozen layers run once for each view, and what they give is stored,
            where each would be read so often: at 2, what writing and reading costs comes back, and
            a few fixed views are worth as much as new ones in every epoch.
        search_rate: whether each phase begins with a range test, whose rate takes the place of the
            largest one planned; the others change in proportion.
    """

    augmentation: Augmentation
    batch_size: int = 64
    seed: int = 0
    views: int = 4
    patience: float = 1.0
    label_smoothing: float = 0.1
    precision: str = "float32"
    schedule: str = "cosine"
    weight_decay: float = WEIGHT_DECAY
    epochs_a_view: float = 2.0
    search_rate: bool = False


@dataclass(frozen=True)
class FineTuned:
    """How training went.

    Attributes:
        best: the lowest loss on the early-stopping part, whose weights were kept.
        best_epoch: the epoch that it was seen after, from 1; `None` if no loss was a number.
        rate_searches: the range test of each phase, with `Settings.search_rate`.
    """

    best: float
    best_epoch: int | None
    rate_searches: tuple[RateSearch, ...]


def fine_tune(
    model: keras.Model,
    splits: Splits,
    phases: Sequence[Phase],
    settings: Settings,
    *,
    log: EpochLog,
    cache: FeatureCache,
    cut: Cut = lambda model, first: (*split_model(model, first), slice(None)),
    interrupt: Callable[[], None] = lambda: None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    say: Callable[[str], None] = print,
    verbose: int = 1,
) -> FineTuned:
    """Trains `model` phase by phase and leaves it with the best weights of all phases.

    Best is the lowest loss on `splits.stopping`. `splits.validation` is not touched. A phase of
    at least twice as many epochs as it has views runs the frozen layers below what it trains
    once for each view, and trains the rest on their stored outputs, where the cache has room;
    outputs that are there from another run are taken.

    Args:
        model: a classifier of `build_classifier`, made in the scope of the strategy in force.
        cache: for outputs of frozen layers.
        cut: how the frozen layers are parted from those that are trained.
        interrupt: called after each step and each batch of views. What it raises ends training, and
            `model` then has the best weights seen before.
        callbacks: more of them, told of the model that is trained: in phases on stored outputs, the
            layers behind these.
        say: receives a sentence about each choice made.
        verbose: as in `fit`.

    Raises:
        UserError: the loss became non-finite, or a photograph went away.
    """
    keeper = KeepBest(model, settings.patience)
    watching = [log, keeper, StopOnNonFinite(), _Interrupted(interrupt), *callbacks]
    searches: list[RateSearch] = []
    try:
        with computing_in(settings.precision, model):
            first_epoch = len(log.rows)
            for number, phase in enumerate(phases):
                log.begin_phase(phase.name)
                for layer in model.layers:
                    layer.trainable = layer.name in phase.trained
                own = _settings_of(phase, settings)
                run = _Run(model, splits, phase, own, watching, verbose, first_epoch)
                cuts = [
                    _cut(model, one, _settings_of(one, settings), cut) for one in phases[number:]
                ]
                if cuts[0] is not None:
                    later = [found[0] for found in cuts[1:] if found is not None]
                    run.on_stored_outputs(*cuts[0], later, cache, interrupt, say)
                else:
                    run.on_images()
                searches += run.searches
                first_epoch = len(log.rows)
                # The next phase goes on from the best, not from the last.
                keeper.restore()
    finally:
        keeper.restore()
        for layer in model.layers:
            layer.trainable = True
    return FineTuned(keeper.best, keeper.best_epoch, tuple(searches))


def measured_views(centre: CentreView, mirrored: bool) -> list[CentreView]:
    """The views whose mean is measured: the centre view and, if `mirrored`, its mirror image."""
    return [centre, replace(centre, mirrored=True)] if mirrored else [centre]


def stored_views(centre: CentreView, settings: Settings) -> list[View]:
    """The views that a phase on frozen layers trains on, `settings.views` of them.

    First what will be measured: the centre view and, where the augmentation mirrors, its mirror
    image; then random ones.
    """
    measured = measured_views(centre, settings.augmentation.mirror)
    random = (
        RandomView(settings.augmentation, settings.seed + number)
        for number in range(settings.views - len(measured))
    )
    return [*measured, *random][: settings.views]


def _settings_of(phase: Phase, settings: Settings) -> Settings:
    return settings if phase.views is None else replace(settings, views=phase.views)


def _cut(
    model: keras.Model, phase: Phase, settings: Settings, cut: Cut
) -> tuple[keras.Model, keras.Model, slice] | None:
    """As `cut`, where the outputs of the frozen layers are stored."""
    if phase.epochs < settings.epochs_a_view * settings.views:
        return None
    try:
        return cut(model, phase.trained[0])
    except NothingBelow:
        return None


class _Interrupted(keras.callbacks.Callback):
    """Calls a function after each step."""

    def __init__(self, interrupt: Callable[[], None]) -> None:
        super().__init__()
        self._interrupt = interrupt

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._interrupt()


class _ViewBar(keras.utils.Progbar):
    """Progress over views that calls a function at each step."""

    def __init__(self, views: int, verbose: int, interrupt: Callable[[], None]) -> None:
        super().__init__(views, verbose=verbose, unit_name="view")
        self._interrupt = interrupt

    def add(self, n: int, values: Any = None) -> None:
        super().add(n, values)
        self._interrupt()


class _Run:
    """One phase of `fine_tune`, with everything it needs at hand."""

    def __init__(
        self,
        model: keras.Model,
        splits: Splits,
        phase: Phase,
        settings: Settings,
        callbacks: list[keras.callbacks.Callback],
        verbose: int,
        first_epoch: int,
    ) -> None:
        self.model, self.splits, self.phase, self.settings = model, splits, phase, settings
        self.callbacks, self.verbose, self.first_epoch = callbacks, verbose, first_epoch
        self.searches: list[RateSearch] = []
        self.image_size = model.input_shape[1]
        self.steps = steps_per_epoch(len(splits.train), settings.batch_size)
        # Shared out evenly: Keras fails on a first batch that gives one device more than another,
        # and weighs the devices wrongly in the last one.
        devices = tf.distribute.get_strategy().num_replicas_in_sync
        count = max(len(splits.stopping) // devices, 1) * devices
        self.stopping = splits.stopping.select(np.arange(count) % len(splits.stopping))

    def on_images(self) -> None:
        """Trains on images, augmented anew in every epoch."""
        images = training_batches(
            self.splits.train,
            self.settings.augmentation,
            image_size=self.image_size,
            batch_size=self.settings.batch_size,
            seed=self.settings.seed,
            first_epoch=self.first_epoch,
        )
        # A second model on the same layers: the user's own stays uncompiled, and is saved without
        # the state of an optimizer that twice the file would hold.
        whole = keras.Model(self.model.input, self.model.output, name=self.model.name)
        self._fit(
            whole, images, centre_batches(self.model, self.stopping, self.settings.batch_size)
        )

    def on_stored_outputs(
        self,
        trunk: keras.Model,
        tail: keras.Model,
        part: slice,
        later_trunks: Sequence[keras.Model],
        cache: FeatureCache,
        interrupt: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        """Trains the tail on a part of the trunk's outputs for a few fixed views."""
        train, stopping, settings = self.splits.train, self.stopping, self.settings
        centre = CentreView(**preprocessing_of(self.model).geometry)
        views = stored_views(centre, settings)
        bar = _ViewBar(len(views) * len(train) + len(stopping), self.verbose, interrupt)
        with TrunkOutputs(trunk, cache, settings.batch_size, later_trunks) as outputs:
            found = outputs.rows([(stopping, centre), *((train, view) for view in views)], bar)
            if len(found) < 2:
                say("The disk has no room for stored outputs: the frozen layers run in each epoch.")
                return self.on_images()
            watched, rows = found[0], np.stack(found[1:])
            say(
                f"What the frozen layers give for {len(rows)} x {len(train)} views is stored; the "
                "rest is trained on that."
            )
            self._fit(
                tail,
                outputs.batches(rows, train, settings.batch_size, settings.seed, part),
                outputs.in_order(watched, stopping, settings.batch_size, part),
            )

    def _fit(self, model: keras.Model, batches: tf.data.Dataset, watched: Any) -> None:
        phase, epochs = self.phase, self.phase.epochs
        loss = keras.losses.CategoricalCrossentropy(label_smoothing=self.settings.label_smoothing)
        rates = phase.rates
        if self.settings.search_rate:
            found = search_rate(
                model,
                batches,
                phase=phase.name,
                optimizer=phase.optimizer,
                rates=rates,
                loss=loss,
            )
            self.searches.append(found)
            share = found.chosen / max(rates.values())
            rates = {name: rate * share for name, rate in rates.items()}
        model.compile(
            layerwise(
                phase.optimizer,
                model,
                rates,
                steps=epochs * self.steps,
                warmup_steps=int(WARMUP_SHARE * epochs * self.steps),
                schedule=self.settings.schedule,
                weight_decay=self.settings.weight_decay,
            ),
            loss,
            metrics=["accuracy"],
        )
        model.fit(
            batches,
            epochs=epochs,
            steps_per_epoch=self.steps,
            shuffle=False,
            validation_data=watched,
            validation_batch_size=self.settings.batch_size,
            callbacks=self.callbacks,
            verbose=self.verbose,
        )
