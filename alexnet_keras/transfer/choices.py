"""All that a fine-tuning run may choose: what recipes take and what a search finds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from alexnet_keras.data import AUGMENTATIONS, Augmentation
from alexnet_keras.errors import UserError
from alexnet_keras.training.optimizers import SCHEDULES, WEIGHT_DECAY
from alexnet_keras.transfer.classifier import CROPS, Classifier, build_classifier
from alexnet_keras.transfer.fine_tune import Settings
from alexnet_keras.transfer.heads import HEADS, HeadShape
from alexnet_keras.transfer.plan import Phase, plan_phases
from alexnet_keras.weights import StoredWeights


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What may be chosen beside photographs, weights and seed.

    Attributes:
        head: what follows the convolutions, `"auto"` or a key of `HEADS`.
        cut, paired, hidden_units, dropout: its shape, as in `HeadShape`.
        image_size: side of the input in pixels; `None` as in `build_classifier`.
        crop: what of a photograph is seen, a key of `CROPS`.
        views: views of each photograph for phases on frozen layers.
        augmentation: a key of `AUGMENTATIONS`, of the random ones among these views.
        strength: times the size of its changes; see `Augmentation.at_strength`.
        mirror: whether photographs are mirrored too, in training and when they are measured.
        batch_size: photographs a step, over all devices.
        unfreeze_from: the oldest pretrained layer that each phase after the head's trains.
        head_epochs, epochs: the most passes of the head's phase, and of each later one.
        head_rate: the largest rate of the head while no pretrained layer moves; `None` takes that
            of `plan.HEAD_TRAINING`.
        learning_rate: the largest rate of phases that train pretrained layers.
        schedule, weight_decay, label_smoothing: as in `Settings`.

    Raises:
        UserError: a value outside its range.
    """

    head: str = "auto"
    cut: str = "conv5"
    paired: int | None = None
    hidden_units: int = 512
    dropout: float | None = None
    image_size: int | None = None
    crop: str = "centre"
    views: int = 4
    augmentation: str = "gentle"
    strength: float = 1.0
    mirror: bool = True
    batch_size: int = 64
    unfreeze_from: tuple[str, ...] = ()
    head_epochs: int = 20
    epochs: int = 6
    head_rate: float | None = None
    learning_rate: float = 0.01
    schedule: str = "cosine"
    weight_decay: float = WEIGHT_DECAY
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        for name, known in (
            ("head", ("auto", *HEADS)),
            ("crop", CROPS),
            ("augmentation", AUGMENTATIONS),
            ("schedule", SCHEDULES),
        ):
            if (value := getattr(self, name)) not in known:
                raise UserError(f"The setting {name} is {value!r}; give {' or '.join(known)}.")
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            whole = name in _WHOLE
            sound = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
            if not (value is None and name in _OPTIONAL) and not (sound and value >= least):
                kind = "a whole number" if whole else "a number"
                raise UserError(f"The setting {name} is {value!r}; give {kind} from {least} on.")
        if self.label_smoothing >= 1:
            raise UserError(
                f"The setting label_smoothing is {self.label_smoothing!r}; give a share below 1."
            )
        try:
            _ = self.shape
        except (TypeError, ValueError) as error:
            raise UserError(f"These settings describe no head: {error}") from error

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """From names and values, as JSON holds them.

        Raises:
            UserError: a name is none of these, or a value is outside its range.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := [name for name in settings if name not in known]:
            raise UserError(
                f"There is no setting {unknown[0]!r}; the settings are {', '.join(known)}."
            )
        values = dict(settings)
        if isinstance(values.get("unfreeze_from"), list):
            values["unfreeze_from"] = tuple(values["unfreeze_from"])
        return cls(**values)

    @property
    def shape(self) -> HeadShape:
        """Of the head."""
        return HeadShape(self.cut, self.paired, self.hidden_units, self.dropout)

    def build(
        self,
        classes: int,
        *,
        weights: str | Path | StoredWeights | None = None,
        variant: str | None = None,
    ) -> Classifier:
        """The classifier; arguments and errors are those of `build_classifier`."""
        return build_classifier(
            classes,
            weights=weights,
            variant=variant,
            image_size=self.image_size,
            head=self.head,
            crop=self.crop,
            shape=self.shape,
        )

    def plan(self, classifier: Classifier) -> list[Phase]:
        """The phases that train it; errors are those of `plan_phases`."""
        return plan_phases(
            classifier.model,
            classifier.loaded.loaded,
            head=classifier.head,
            unfreeze_from=self.unfreeze_from,
            head_epochs=self.head_epochs,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            head_rate=self.head_rate,
        )

    def views_to_train_on(self) -> Augmentation:
        """The augmentation, at its strength, with mirrors or without."""
        made = AUGMENTATIONS[self.augmentation]()
        return replace(made, mirror=self.mirror).at_strength(self.strength)

    def training(
        self, *, seed: int = 0, precision: str = "float32", search_rate: bool = False
    ) -> Settings:
        """How the phases are trained."""
        return Settings(
            augmentation=self.views_to_train_on(),
            batch_size=self.batch_size,
            seed=seed,
            views=self.views,
            label_smoothing=self.label_smoothing,
            precision=precision,
            schedule=self.schedule,
            weight_decay=self.weight_decay,
            search_rate=search_rate,
        )


_WHOLE = ("image_size", "views", "batch_size", "head_epochs", "epochs")
_OPTIONAL = ("image_size", "head_rate")
_AT_LEAST = {
    **{"image_size": 63, "views": 1, "batch_size": 1, "head_epochs": 1, "epochs": 0},
    **{"strength": 0, "head_rate": 0, "learning_rate": 0, "weight_decay": 0, "label_smoothing": 0},
}
