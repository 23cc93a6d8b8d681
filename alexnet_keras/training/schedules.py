"""Learning rates over a run, as plain numbers worked out on the host.

Steps are counted from 0. Epochs are what is behind: `epochs` of them are over at step
`epochs * steps_per_epoch`, and they may be fractions. A schedule says the same for a step whenever
it is asked; only `Plateau` has to be told something, and that is in its `state`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from alexnet_keras.errors import UserError


class Schedule(ABC):
    """The learning rate of each step of a run."""

    #: the first rate, before any division; that of the end of a warm-up
    base: float
    #: whether `observe` has to be told what is watched
    needs_watching = False

    @abstractmethod
    def rate(self, step: int, steps_per_epoch: int) -> float:
        """The rate of step `step`, counted from 0."""

    @abstractmethod
    def times(self, factor: float) -> Self:
        """The same schedule at `factor` times its rates, with nothing observed."""

    @abstractmethod
    def over(self, epochs: float, of: float) -> Self:
        """This schedule of a run of `of` epochs for one of `epochs`, with nothing observed.

        All its epochs change in proportion.
        """

    def observe(self, epoch: int, watched: float) -> None:  # noqa: B027, most have no use for it
        """Tells the loss or error that was watched after `epoch` epochs; lower is better."""

    def state(self) -> dict[str, Any]:
        """All that `observe` left, as JSON can hold it."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Takes what `state` gave; rates are then those of the run that it came from."""


@dataclass(frozen=True)
class Piecewise(Schedule):
    """Rates that hold between given epochs.

    Args:
        values: the rates in turn, each 0 or more.
        epochs: after how many epochs each but the first begins, rising; one fewer than values.

    Raises:
        UserError: they are not like that.
    """

    values: tuple[float, ...]
    epochs: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for value in self.values:
            _check_rate(value)
        rising = all(a < b for a, b in zip(self.epochs, self.epochs[1:], strict=False))
        if (
            len(self.values) != len(self.epochs) + 1
            or not rising
            or min(self.epochs, default=0) < 0
        ):
            raise UserError(
                f"values={self.values} at epochs={self.epochs}: give rising epochs, 0 or more, and "
                "one value more than epochs."
            )

    @property
    def base(self) -> float:
        return self.values[0]

    def rate(self, step: int, steps_per_epoch: int) -> float:
        return self.values[sum(step >= epoch * steps_per_epoch for epoch in self.epochs)]

    def times(self, factor: float) -> Piecewise:
        return replace(self, values=tuple(value * factor for value in self.values))

    def over(self, epochs: float, of: float) -> Piecewise:
        # Multiplied first: whole epochs stay whole where they can.
        return replace(self, epochs=tuple(epoch * epochs / of for epoch in self.epochs))


def constant(rate: float) -> Piecewise:
    """One rate for the whole run."""
    return Piecewise((rate,))


def divided(base: float, epochs: Sequence[float], factor: float = 10.0) -> Piecewise:
    """A rate that is divided by `factor` after each of the given numbers of epochs.

    Raises:
        UserError: the factor is not above 1, or the epochs do not rise.
    """
    _check_factor(factor)
    values = tuple(base / factor**count for count in range(len(epochs) + 1))
    return Piecewise(values, tuple(epochs))


@dataclass(frozen=True)
class Cosine(Schedule):
    """From `base` to zero along half a cosine (arXiv:1608.03983, without restarts).

    As `keras.optimizers.schedules.CosineDecay` has it. Zero once the epochs are over.

    Args:
        base: the first rate.
        epochs: after how many epochs the rate is zero.
        begin: after how many of them it begins to fall: those of a warm-up.

    Raises:
        UserError: a number outside its range.
    """

    base: float
    epochs: float
    begin: float = 0.0

    def __post_init__(self) -> None:
        _check_rate(self.base)
        if not 0 <= self.begin < self.epochs:
            raise UserError(
                f"A cosine from epoch {self.begin} to epoch {self.epochs} does not fall; give a "
                "warm-up of fewer epochs than the run has."
            )

    def rate(self, step: int, steps_per_epoch: int) -> float:
        done = (step / steps_per_epoch - self.begin) / (self.epochs - self.begin)
        return self.base * 0.5 * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0)))

    def times(self, factor: float) -> Cosine:
        return replace(self, base=self.base * factor)

    def over(self, epochs: float, of: float) -> Cosine:
        return replace(self, epochs=self.epochs * epochs / of, begin=self.begin * epochs / of)


@dataclass
class Plateau(Schedule):
    """A rate that is divided when what is watched has stopped improving.

    Source: paper, section 5: "divide the learning rate by 10 when the validation error rate stopped
    improving with the current learning rate", three times. The paper does not say when that is:
    `patience` and `min_improvement` are ours. `torch.optim.lr_scheduler.ReduceLROnPlateau` is the
    same with `threshold=min_improvement` and `patience` less by one.

    Args:
        base: the first rate.
        patience: epochs without improvement after which the rate is divided, 1 or more.
        min_improvement: the share (0 to 1) of the best value so far that an improvement is lower.
        factor: what the rate is divided by, above 1.
        most_divisions: how often at the most.

    Raises:
        UserError: a number outside its range.
    """

    base: float
    patience: int
    min_improvement: float = 1e-3
    factor: float = 10.0
    most_divisions: int = 3
    _best: float | None = field(default=None, init=False, repr=False)
    # the epoch of the last improvement or division
    _since: int = field(default=0, init=False, repr=False)
    _divided_after: list[int] = field(default_factory=list, init=False, repr=False)

    needs_watching = True

    def __post_init__(self) -> None:
        _check_rate(self.base)
        _check_factor(self.factor)
        if self.patience < 1 or self.most_divisions < 0 or not 0 <= self.min_improvement < 1:
            raise UserError(
                f"patience={self.patience} must be 1 or more, most_divisions="
                f"{self.most_divisions} 0 or more, min_improvement={self.min_improvement} a share, "
                "0 or more, less than 1."
            )

    def rate(self, step: int, steps_per_epoch: int) -> float:
        divisions = sum(step >= epoch * steps_per_epoch for epoch in self._divided_after)
        return self.base / self.factor**divisions

    def times(self, factor: float) -> Plateau:
        return replace(self, base=self.base * factor)

    def over(self, epochs: float, of: float) -> Plateau:
        return replace(self, patience=max(1, round(self.patience * epochs / of)))

    def observe(self, epoch: int, watched: float) -> None:
        # A value that is no number is never an improvement.
        if watched < math.inf and (
            self._best is None or watched < self._best * (1 - self.min_improvement)
        ):
            self._best, self._since = float(watched), epoch
        elif (
            epoch - self._since >= self.patience and len(self._divided_after) < self.most_divisions
        ):
            self._divided_after.append(epoch)
            self._since = epoch

    def state(self) -> dict[str, Any]:
        return {
            "best": self._best,
            "since": self._since,
            "divided_after": list(self._divided_after),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._best, self._since = state["best"], state["since"]
        self._divided_after = list(state["divided_after"])


@dataclass
class Warmup(Schedule):
    """Another schedule, behind epochs in which the rate rises from zero to its first rate.

    The other schedule's epochs count from the run's beginning, those of the warm-up included. What
    is watched during the warm-up is not passed on. Linear by steps, step 0 at zero, as in
    `keras.optimizers.schedules.CosineDecay`; Goyal et al. 2017 (arXiv:1706.02677), section 2.2,
    take 5 of 90 epochs.

    Args:
        schedule: the other schedule.
        epochs: length of the warm-up, 0 or more.

    Raises:
        UserError: the length is negative.
    """

    schedule: Schedule
    epochs: float

    def __post_init__(self) -> None:
        if not 0 <= self.epochs < math.inf:
            raise UserError(f"A warm-up of {self.epochs} epochs; give 0 or more.")

    @property
    def base(self) -> float:
        return self.schedule.base

    @property
    def needs_watching(self) -> bool:
        return self.schedule.needs_watching

    def rate(self, step: int, steps_per_epoch: int) -> float:
        rising = self.epochs * steps_per_epoch
        if step < rising:
            return self.base * step / rising
        return self.schedule.rate(step, steps_per_epoch)

    def times(self, factor: float) -> Warmup:
        return replace(self, schedule=self.schedule.times(factor))

    def over(self, epochs: float, of: float) -> Warmup:
        return Warmup(self.schedule.over(epochs, of), self.epochs * epochs / of)

    def observe(self, epoch: int, watched: float) -> None:
        if epoch > self.epochs:
            self.schedule.observe(epoch, watched)

    def state(self) -> dict[str, Any]:
        return self.schedule.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.schedule.load_state(state)


def linear_scaling(rate: float, batch_size: int, reference_batch: int) -> float:
    """The rate for a batch, given the one for another: in proportion to their sizes.

    Source: Goyal et al. 2017 (arXiv:1706.02677), section 2.1, which needs a warm-up for large ones.

    Raises:
        UserError: a batch of no examples.
    """
    if batch_size < 1 or reference_batch < 1:
        raise UserError(
            f"Batches of {batch_size} and {reference_batch} examples; give at least 1 each."
        )
    return rate * batch_size / reference_batch


def _check_rate(rate: float) -> None:
    if not 0 <= rate < math.inf:
        raise UserError(f"A learning rate of {rate}; give 0 or more.")


def _check_factor(factor: float) -> None:
    if not 1 < factor < math.inf:
        raise UserError(f"A rate divided by {factor}; give a number above 1.")
