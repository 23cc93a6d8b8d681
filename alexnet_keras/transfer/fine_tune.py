"""Running the phases of a plan."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from alexnet_keras.data import Augmentation, Splits, evaluation_batches, fixed_views
from alexnet_keras.data.pipeline import steps_per_epoch, training_batches
from alexnet_keras.training import EpochLog, KeepBest, StopOnNonFinite, layerwise
from alexnet_keras.transfer.cutting import split_model
from alexnet_keras.transfer.features import Features, affordable_views, feature_batches
from alexnet_keras.transfer.plan import Phase
from alexnet_keras.weights import preprocessing_of

#: share of a phase's steps in which the rates rise: sudden full rates tear pretrained layers apart
WARMUP_SHARE = 0.1


@dataclass(frozen=True)
class Settings:
    """How the phases of a plan are trained.

    Attributes:
        augmentation: training views.
        batch_size: photographs a step, over all devices.
        seed: order, augmentation and views are keyed by it.
        views: random views of each photograph that a phase on frozen layers trains on.
        patience: a phase ends when this share of its epochs brought no new best loss on the
            early-stopping part.
        label_smoothing: share of the target probability spread over all classes.
    """

    augmentation: Augmentation
    batch_size: int = 64
    seed: int = 0
    views: int = 4
    patience: float = 0.4
    label_smoothing: float = 0.1


def fine_tune(
    model: keras.Model,
    splits: Splits,
    phases: Sequence[Phase],
    settings: Settings,
    *,
    log: EpochLog,
    scratch: Path,
    say: Callable[[str], None] = print,
    verbose: int = 1,
) -> KeepBest:
    """Trains `model` phase by phase and leaves it with the best weights of all phases.

    Best is the lowest loss on `splits.stopping`. `splits.validation` is not touched. A phase that
    trains nothing below some layer runs the layers below once for each view and trains the rest
    from their stored outputs, where the disk has room.

    Args:
        model: a classifier of `build_classifier`, made in the scope of the strategy in force.
        scratch: a folder for stored outputs; emptied of them in the end.
        say: receives a sentence about each choice made.
        verbose: as in `fit`.

    Returns:
        What was kept: `best` loss and `best_epoch`.

    Raises:
        UserError: the loss became non-finite.
    """
    keeper = KeepBest(model, settings.patience)
    first_epoch = 0
    for number, phase in enumerate(phases):
        log.begin_phase(phase.name)
        for layer in model.layers:
            layer.trainable = layer.name in phase.trained
        run = _Run(model, splits, phase, settings, [log, keeper, StopOnNonFinite()], verbose)
        run.first_epoch = first_epoch
        stored = scratch / f".features-{number}"
        # Stored outputs pay when fewer views are computed than epochs are trained.
        if _is_cached(model, phase) and settings.views < phase.epochs:
            try:
                run.on_stored_outputs(stored, say)
            finally:
                shutil.rmtree(stored, ignore_errors=True)
        else:
            run.on_images()
        first_epoch = len(log.rows)
        # The next phase goes on from the best, not from the last.
        keeper.restore()
    for layer in model.layers:
        layer.trainable = True
    return keeper


def _is_cached(model: keras.Model, phase: Phase) -> bool:
    """Whether no convolution is trained: outputs behind all of them are small and worth storing."""
    return not any(isinstance(model.get_layer(name), keras.layers.Conv2D) for name in phase.trained)


class _Run:
    """One phase of `fine_tune`, with everything it needs at hand."""

    first_epoch = 0

    def __init__(
        self,
        model: keras.Model,
        splits: Splits,
        phase: Phase,
        settings: Settings,
        callbacks: list[keras.callbacks.Callback],
        verbose: int,
    ) -> None:
        self.model, self.splits, self.phase, self.settings = model, splits, phase, settings
        self.callbacks, self.verbose = callbacks, verbose
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
        self._fit(whole, images, self._centre(self.stopping))

    def on_stored_outputs(self, folder: Path, say: Callable[[str], None]) -> None:
        """Trains the tail on the trunk's outputs for a few fixed views."""
        trunk, tail = split_model(self.model, self.phase.trained[0])
        train, stopping = self.splits.train, self.stopping
        views = affordable_views(trunk, len(train), self.settings.views, folder.parent)
        if views == 0:
            say("The disk has no room for stored outputs: the frozen layers run in every epoch.")
            return self.on_images()
        say(
            f"The frozen layers run once for each of {views} x {len(train)} views (random views of "
            "each photograph); the rest is trained on what they give."
        )
        folder.mkdir(exist_ok=True)  # a killed run may have left it
        bar = keras.utils.Progbar(
            views * len(train) + len(stopping), verbose=self.verbose, unit_name="view"
        )
        features = Features(folder / "train.npy", views, len(train), trunk)
        for view in range(views):
            batches = fixed_views(
                train,
                self.settings.augmentation,
                image_size=self.image_size,
                batch_size=self.settings.batch_size,
                seed=self.settings.seed + view,
            )
            features.fill(view, batches, bar)
        watched = Features(folder / "stopping.npy", 1, len(stopping), trunk)
        watched.fill(0, self._centre(stopping).map(lambda images, _: images), bar)
        self._fit(
            tail,
            feature_batches(
                features.array, _one_hot(train), self.settings.batch_size, self.settings.seed
            ),
            (watched.array[0].astype(np.float32), _one_hot(stopping)),
        )

    def _centre(self, examples: Any) -> tf.data.Dataset:
        return evaluation_batches(
            examples,
            image_size=self.image_size,
            **preprocessing_of(self.model).geometry,
            batch_size=self.settings.batch_size,
        )

    def _fit(self, model: keras.Model, batches: tf.data.Dataset, watched: Any) -> None:
        epochs = self.phase.epochs
        model.compile(
            layerwise(
                self.phase.optimizer,
                model,
                self.phase.rates,
                steps=epochs * self.steps,
                warmup_steps=int(WARMUP_SHARE * epochs * self.steps),
            ),
            keras.losses.CategoricalCrossentropy(label_smoothing=self.settings.label_smoothing),
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


def _one_hot(examples: Any) -> np.ndarray:
    return np.eye(len(examples.class_names), dtype=np.float32)[examples.labels]
