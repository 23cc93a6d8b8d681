"""A run's optimizer together with the rate of each of its steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from alexnet_keras.errors import UserError
from alexnet_keras.tower_names import whole
from alexnet_keras.training.classic_sgd import ClassicSGD
from alexnet_keras.training.presets import PRESETS, Group, Preset
from alexnet_keras.training.schedules import (
    Cosine,
    Schedule,
    Warmup,
    constant,
    linear_scaling,
)

KINDS = ("sgd", "adamw")
SCHEDULES = ("preset", "step", "plateau", "cosine")
#: AdamW's usual rate and decay (arXiv:1711.05101); nothing was published for AlexNet
ADAMW_RATE, ADAMW_DECAY = 1e-3, 0.05
#: the share of a run that AdamW warms up for, where none is given: 5 of 90 epochs
ADAMW_WARMUP = 5 / 90
#: the preset whose weights follow these schedules
PUBLISHED_IN = {"step": "release", "plateau": "paper"}


class Optimization:
    """An optimizer, and the rates that its groups of variables get at each step.

    Rates are floats of the host and go to the optimizer when they change. Made by
    `build_optimization`.

    Attributes:
        optimizer: the Keras optimizer, built.
        needs_watching: whether `observe` is to be told a watched loss or error after each epoch.
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        schedules: Mapping[str, Schedule],
        steps_per_epoch: int,
        assign: Callable[[Sequence[float]], None],
    ) -> None:
        self.optimizer = optimizer
        self._schedules = dict(schedules)
        self._steps_per_epoch = steps_per_epoch
        self._assign = assign
        self._assigned: tuple[float, ...] | None = None

    def scale_loss(self, trainable_variables: Sequence[keras.Variable]) -> None:
        """Scales the loss so that gradients fit float16; steps whose gradients do not are skipped.

        To be called in the scope of the strategy in force, before the first step.
        """
        self.optimizer = keras.optimizers.LossScaleOptimizer(self.optimizer)
        self.optimizer.build(trainable_variables)

    @property
    def needs_watching(self) -> bool:
        return any(schedule.needs_watching for schedule in self._schedules.values())

    def rates(self, step: int) -> dict[str, float]:
        """The rate of each group at step `step`, counted from 0, by the group's name."""
        return {
            name: schedule.rate(step, self._steps_per_epoch)
            for name, schedule in self._schedules.items()
        }

    def set_rates(self, step: int) -> None:
        """Gives the optimizer the rates of step `step`, if they are not those that it has.

        Called on the host before the step; under a strategy not inside of `strategy.run`, and by
        each worker of several.
        """
        rates = tuple(self.rates(step).values())
        if rates != self._assigned:
            self._assign(rates)
            self._assigned = rates

    def observe(self, epoch: int, watched: float) -> None:
        """Tells the loss or error that was watched after `epoch` epochs; lower is better.

        What follows from it holds from the next step on.
        """
        for schedule in self._schedules.values():
            schedule.observe(epoch, watched)

    def state(self) -> dict[str, dict[str, Any]]:
        """All that is not in the optimizer's variables and not in the arguments, for JSON."""
        return {name: schedule.state() for name, schedule in self._schedules.items()}

    def load_state(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on from what `state` gave; the next `set_rates` sets the rates in any case.

        Raises:
            UserError: it is the state of other groups.
        """
        if set(state) != set(self._schedules):
            raise UserError(
                f"The state has the groups {sorted(state)}, this run {sorted(self._schedules)}; "
                "resume with the settings that the run began with."
            )
        for name, schedule in self._schedules.items():
            schedule.load_state(state[name])
        self._assigned = None


def build_optimization(
    preset: Preset,
    trainable_variables: Sequence[keras.Variable],
    *,
    kind: str = "sgd",
    batch_size: int,
    epochs: float,
    schedule: str | None = None,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    warmup_epochs: float | None = None,
    scale_rate: bool = False,
    steps_per_epoch: int,
) -> Optimization:
    """The optimizer and rates of a run; call it where the model was made, in the same scope.

    With nothing but a preset's own batch and epochs, kind "sgd" is what was published. If `epochs`
    differs from the preset's, all epochs in it, those of divisions too, change in proportion.

    Args:
        preset: a row of `PRESETS`.
        trainable_variables: those of the model, by whose paths groups are formed.
        kind: "sgd", the preset's groups in a `ClassicSGD`; or "adamw", `keras.optimizers.AdamW`
            with one group "all", in which biases, gammas and betas do not decay.
        batch_size: examples in a step, on all devices together.
        epochs: length of the run.
        schedule: "preset"; "step", divided by ten after 27%, 56% and 87% of the run, as net 145's
            weights; "plateau", as the paper's; "cosine", to zero at the end. Each but "preset"
            begins with the groups' own first rates. None takes "preset", for AdamW "cosine".
        learning_rate: the first rate of the weights, in place of the preset's or AdamW's 1e-3; the
            rates of other groups change in proportion.
        weight_decay: for the variables that decay, in place of the preset's or AdamW's .05.
        warmup_epochs: in which rates rise from zero. None is 0, for AdamW 5 of 90 of the run.
        scale_rate: whether rates are for batches of the preset's size and are to be scaled to
            `batch_size` (Goyal et al. 2017).
        steps_per_epoch: steps that make an epoch.

    Raises:
        UserError: a number outside its range, or a kind or schedule that there is not.
    """
    if kind not in KINDS:
        raise UserError(f"There is no optimizer {kind!r}; give one of {', '.join(KINDS)}.")
    schedule = schedule or ("preset" if kind == "sgd" else "cosine")
    if schedule not in SCHEDULES:
        raise UserError(f"There is no schedule {schedule!r}; give one of {', '.join(SCHEDULES)}.")
    if kind == "adamw" and schedule == "preset":
        raise UserError(
            "The preset's schedule is for SGD, received kind='adamw'; give the schedule 'step', "
            "'plateau' or 'cosine'."
        )
    if steps_per_epoch < 1:
        raise UserError(f"An epoch of {steps_per_epoch} steps; give at least 1.")
    if learning_rate is not None and not 0 < learning_rate < math.inf:
        raise UserError(f"A learning rate of {learning_rate}; give more than 0.")
    if weight_decay is not None and not 0 <= weight_decay < math.inf:
        raise UserError(f"A weight decay of {weight_decay}; give 0 or more.")
    if warmup_epochs is None:
        warmup_epochs = ADAMW_WARMUP * epochs if kind == "adamw" else 0.0
    if not 0 < epochs < math.inf or not 0 <= warmup_epochs < epochs:
        raise UserError(
            f"A warm-up of {warmup_epochs} epochs in a run of {epochs}; give a run of more than 0, "
            "and a warm-up of 0 or more and fewer than it has."
        )

    own_rate = preset.learning_rate if kind == "sgd" else ADAMW_RATE
    first_rate = own_rate if learning_rate is None else learning_rate
    if scale_rate:
        first_rate = linear_scaling(first_rate, batch_size, preset.batch_size)

    def scheduled(published: Schedule) -> Schedule:
        """A group's schedule, of the kind and at the rates that are asked for."""
        if schedule == "preset":
            chosen = published.over(epochs, of=preset.epochs)
        elif schedule == "cosine":
            chosen = Cosine(published.base, epochs, begin=warmup_epochs)
        else:
            like = PRESETS[PUBLISHED_IN[schedule]].over(epochs)
            chosen = like.groups[0].schedule.times(published.base / like.learning_rate)
        chosen = chosen.times(first_rate / own_rate)
        return Warmup(chosen, warmup_epochs) if warmup_epochs else chosen

    if kind == "adamw":
        decay = ADAMW_DECAY if weight_decay is None else weight_decay
        optimizer = _adamw(trainable_variables, decay)
        schedules = {"all": scheduled(constant(ADAMW_RATE))}

        def assign(rates: Sequence[float]) -> None:
            (optimizer.learning_rate,) = rates

    else:
        schedules = {group.name: scheduled(group.schedule) for group in preset.groups}
        decays = [group.weight_decay for group in preset.groups]
        if weight_decay is not None:
            decays = [weight_decay if decay else 0.0 for decay in decays]
        optimizer = ClassicSGD(
            _group_numbers(preset.groups, trainable_variables),
            rates=[each.base for each in schedules.values()],
            weight_decays=decays,
            momentum=preset.momentum,
        )
        assign = optimizer.set_rates
    optimizer.build(trainable_variables)
    return Optimization(optimizer, schedules, steps_per_epoch, assign)


def _adamw(variables: Sequence[keras.Variable], weight_decay: float) -> keras.optimizers.AdamW:
    optimizer = keras.optimizers.AdamW(ADAMW_RATE, weight_decay=weight_decay)
    optimizer.exclude_from_weight_decay(
        var_list=[variable for variable in variables if _place(variable)[1] != "kernel"]
    )
    return optimizer


def _group_numbers(groups: Sequence[Group], variables: Sequence[keras.Variable]) -> dict[str, int]:
    """The number of each variable's group, by the variable's path."""
    layers = {_place(variable)[0] for variable in variables}
    numbers = {}
    for variable in variables:
        layer, own = _place(variable)
        (numbers[variable.path],) = (
            number for number, group in enumerate(groups) if group.takes(whole(layer, layers), own)
        )
    return numbers


def _place(variable: keras.Variable) -> tuple[str, str]:
    """A variable's layer and its name in it."""
    layer, _, name = variable.path.rpartition("/")
    return layer.rpartition("/")[2], name
