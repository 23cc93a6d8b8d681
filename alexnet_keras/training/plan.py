"""What a run from scratch is to do, and the net, rates and views that follow from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import keras

from alexnet_keras.data import AUGMENTATIONS, Augmentation, Mixing, published_augmentation
from alexnet_keras.data.stream import steps_in_epoch
from alexnet_keras.errors import UserError
from alexnet_keras.training.net import build_net, check_sizes
from alexnet_keras.training.optimization import Optimization, build_optimization
from alexnet_keras.training.presets import PRESETS, Preset
from alexnet_keras.weights import preprocessing_of

#: fields that may change, if the user says so, when a run goes on: all others decide which step
#: sees what, or what variables there are
CHANGEABLE = (
    "learning_rate",
    "schedule",
    "weight_decay",
    "warmup_epochs",
    "scale_rate",
    "label_smoothing",
    "clip_norm",
    "mixup",
    "cutmix",
    "augmentation",
)
#: fields that do not decide which weights come out, but for rounding
FREE = ("checkpoint_seconds", "allow_bad")

#: share of a run in which its training views grow, and by how many pixels at a time
GROWING, SIZE_STEP = 2 / 3, 8


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A published way of training, and what is to differ from it; None takes the preset's.

    Attributes:
        preset: a key of `PRESETS`.
        variant, normalization, width: of the net, as in `AlexNet`.
        residual: "auto" is the variant's own; "yes" or "no".
        initialization: "published" or "he"; see `build_net`.
        image_size: side of the square input in pixels; None takes the variant's.
        first_view_size, last_view_size: side in pixels of the training views in the first epoch,
            from which they grow over two thirds of the run to the last (progressive resizing); None
            takes `image_size` for the last, and the last for the first. Random crops show things
            larger than evaluation does, so that a last below `image_size` costs less and may serve
            better (arXiv:1906.06423). For nets whose head takes any size.
        batch_size: photographs a step, over all devices.
        epochs: passes over the training photographs.
        optimizer, schedule, learning_rate, weight_decay, warmup_epochs, scale_rate: as in
            `build_optimization`.
        augmentation: "published" views with the preset's colour noise, or a key of `AUGMENTATIONS`.
        mixup, cutmix: as in `data.Mixing`.
        label_smoothing: share of the target probability spread over all classes, 0..1.
        clip_norm: largest norm of the gradient; None leaves it.
        ema: decay a step of the moving average of the weights that is then measured and saved;
            None takes the weights themselves.
        precision: as in `set_precision`.
        seed: all that is random is keyed by it.
        checkpoint_seconds: time between two checkpoints.
        allow_bad: go on even if more than 5% of the photographs cannot be read.
    """

    preset: str = "paper"
    variant: str | None = None
    normalization: str = "auto"
    width: float = 1.0
    residual: str = "auto"
    initialization: str = "published"
    image_size: int | None = None
    first_view_size: int | None = None
    last_view_size: int | None = None
    batch_size: int | None = None
    epochs: int | None = None
    optimizer: str = "sgd"
    schedule: str | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    warmup_epochs: float | None = None
    scale_rate: bool = False
    augmentation: str = "published"
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    ema: float | None = None
    precision: str = "float32"
    seed: int = 0
    checkpoint_seconds: float = 60.0
    allow_bad: bool = False

    @property
    def published(self) -> Preset:
        """The row of the table that this begins from."""
        return PRESETS[self.preset]

    def resolved(self) -> Plan:
        """The same with the preset's variant, batch and epochs filled in."""
        return replace(
            self,
            variant=self.variant or self.published.variant,
            batch_size=self.batch_size or self.published.batch_size,
            epochs=self.epochs or round(self.published.epochs),
        )

    def view_size(self, epoch: int, image_size: int) -> int:
        """Side in pixels of the training views in epoch `epoch`, from 0, of a resolved plan.

        Args:
            image_size: the net's own.
        """
        last = self.last_view_size or image_size
        first = self.first_view_size or last
        share = min(epoch / (GROWING * self.epochs), 1.0)
        if share == 1:
            return last
        # Each size costs a few seconds of tracing.
        grown = first + share * (last - first)
        return max(int(grown // SIZE_STEP) * SIZE_STEP, first)

    def view_sizes(self, image_size: int) -> list[int]:
        """All that `view_size` gives in the run's epochs, in their order."""
        sizes = (self.view_size(epoch, image_size) for epoch in range(self.epochs))
        return list(dict.fromkeys(sizes))

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same when a run goes on."""
        return {name: value for name, value in asdict(self).items() if name not in FREE}

    @property
    def mixing(self) -> Mixing:
        """Mixtures of examples."""
        return Mixing(self.mixup, self.cutmix)


class Parts(NamedTuple):
    """What a run is made of; `average` is None where there is none."""

    model: keras.Model
    average: keras.Model | None
    optimization: Optimization
    augmentation: Augmentation
    #: the step from which on colours are left as they are; None: never
    color_until: int | None


def set_up(plan: Plan, classes: int, train_images: int) -> Parts:
    """Builds net, rates and views of a resolved plan, in the scope of the strategy in force.

    Raises:
        UserError: something in the plan is out of its range or contradicts the rest.
    """

    def net() -> keras.Model:
        return build_net(
            classes,
            variant=plan.variant,
            image_size=plan.image_size,
            normalization=None if plan.normalization == "none" else plan.normalization,
            width=plan.width,
            residual={"auto": None, "yes": True, "no": False}[plan.residual],
            he=plan.initialization == "he",
        )

    model = net()
    check_sizes(model, plan.view_sizes(model.input_shape[1]))
    average = None if plan.ema is None else net()
    steps = steps_in_epoch(train_images, plan.batch_size)
    rates = build_optimization(
        plan.published,
        model.trainable_variables,
        kind=plan.optimizer,
        batch_size=plan.batch_size,
        epochs=plan.epochs,
        schedule=plan.schedule,
        learning_rate=plan.learning_rate,
        weight_decay=plan.weight_decay,
        warmup_epochs=plan.warmup_epochs,
        scale_rate=plan.scale_rate,
        steps_per_epoch=steps,
    )
    if plan.precision == "float16":
        rates.scale_loss(model.trainable_variables)
    until = plan.published.over(plan.epochs).color_until
    if plan.augmentation == "published":
        geometry = preprocessing_of(model).geometry
        augmentation = published_augmentation(**geometry, color_noise=until != 0)
    else:
        augmentation, until = AUGMENTATIONS[plan.augmentation](), None
    return Parts(
        model, average, rates, augmentation, None if not until else math.ceil(until * steps)
    )


def check_identity(
    before: Mapping[str, Any], now: Mapping[str, Any], allow_changes: bool = False
) -> None:
    """Whether a run goes on with what it began with; `CHANGEABLE` may differ where that is allowed.

    Raises:
        UserError: something differs; which, and what to do.
    """
    for name in dict.fromkeys([*before, *now]):
        was, is_ = before.get(name), now.get(name)
        if was == is_ or (allow_changes and name in CHANGEABLE):
            continue
        if "photographs" in name:
            raise UserError(
                f"The {name} are not those that the run began with; put them back as they were, or "
                "begin anew with another --output."
            )
        hint = " --allow-changes to go on all the same," if name in CHANGEABLE else ""
        raise UserError(
            f"The run began with {name}={was} and is now given {name}={is_}; give the same again,"
            f"{hint} or another --output to begin anew."
        )
