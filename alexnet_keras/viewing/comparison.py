"""What pretrained weights are worth: two nets, trained on the same photographs, against time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from alexnet_keras.viewing.figures import (
    CARD,
    INK,
    STRONG,
    inline_svg,
    mark_place,
    new_axes,
    number,
    say_nothing_known,
    set_heights,
)


@dataclass(frozen=True, eq=False)
class TrainedNet:
    """One of the nets that are compared. Any figure may be NaN.

    Attributes:
        name: what it started from, for the reader.
        history: rows as those of `Report.history`; `seconds`, `stop_accuracy` and `stop_loss` are
            read. After a row whose `seconds` are unknown, nothing is known of the time.
        top1: its accuracy on the validation photographs, 0..1, when it had stopped.
        right: how many of these photographs that is.
        seconds: how long it trained; more than its epochs took, where something came before them.
    """

    name: str
    history: list[dict[str, Any]]
    top1: float
    right: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """A net from pretrained weights beside one from random ones. Any figure may be NaN.

    Attributes:
        pretrained, scratch: the two, trained and measured on the same photographs.
        difference: how much more often the pretrained one is right, -1..1.
        low, high: ends of its 95% interval by paired bootstrap (`accuracy_difference`).
    """

    pretrained: TrainedNet
    scratch: TrainedNet
    difference: float
    low: float
    high: float

    @property
    def same_time(self) -> float:
        """Seconds after which the pretrained run had ended."""
        known = [number(self.pretrained.seconds), *_elapsed(self.pretrained)]
        return max((value for value in known if value == value), default=math.nan)


def accuracy_after(net: TrainedNet, seconds: float) -> float:
    """What `net` would have been, had it been stopped `seconds` after it began.

    Returns:
        Its accuracy (0..1) on the early-stopping part at the epoch, of those that had ended by
        then, with the lowest loss on this part; at the last one where no loss is known. NaN if
        nothing is known of any.
    """
    ended = [
        (number(row.get("stop_loss")), number(row.get("stop_accuracy")))
        for row, elapsed in zip(net.history, _elapsed(net), strict=True)
        if elapsed <= seconds
    ]
    ended = [(loss, accuracy) for loss, accuracy in ended if accuracy == accuracy]
    if not ended:
        return math.nan
    losses = [loss for loss, _ in ended]
    return ended[-1 if np.isnan(losses).all() else int(np.nanargmin(losses))][1]


def comparison_curve(comparison: Comparison) -> Markup:
    """Accuracy of both nets on the early-stopping part against the time that they had trained.

    Each epoch is a point where it ended; a line marks where the pretrained run had.

    Returns:
        An SVG element whose ids begin with "comparison".
    """
    nets = (comparison.pretrained, comparison.scratch)
    times = [_elapsed(net) for net in nets]
    shares = [[100 * number(row.get("stop_accuracy")) for row in net.history] for net in nets]
    mark = comparison.same_time
    longest = max((time for time in [*times[0], *times[1], mark] if time == time), default=1.0)
    unit, name = _unit(longest)

    figure, axes = new_axes()
    axes.set_xlim(0, 1.02 * longest / unit)
    for points, heights, colour, look in (
        (times[1], shares[1], INK, {"dashes": (3.2, 1.8), "linewidth": 1.4}),
        (times[0], shares[0], STRONG, {"linewidth": 2}),
    ):
        _draw(axes, [time / unit for time in points], heights, colour, look)
    known = [height for row in shares for height in row if height == height]
    set_heights(axes, known, most=100)
    if mark == mark:
        mark_place(axes, mark / unit, "same time")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} {name}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
    if not known:
        say_nothing_known(axes)
    return inline_svg(figure, "comparison", "Accuracy of both nets over the training time")


def _draw(
    axes: Axes, times: list[float], shares: list[float], colour: str, look: dict[str, Any]
) -> None:
    axes.plot(times, shares, color=colour, zorder=4, **look)
    # A point with gaps on both sides is no line.
    axes.plot(
        times,
        shares,
        linestyle="none",
        marker="o",
        markersize=4,
        color=CARD,
        markeredgecolor=colour,
        markeredgewidth=1.3,
        zorder=5,
    )


def _elapsed(net: TrainedNet) -> list[float]:
    """Seconds after which each epoch of `net` had ended; NaN from the first unknown one on."""
    return np.cumsum([number(row.get("seconds")) for row in net.history]).tolist()


def _unit(longest: float) -> tuple[float, str]:
    """Seconds in the unit that an axis up to `longest` is written in, and its sign."""
    if longest < 180:
        return 1.0, "s"
    return (60.0, "min") if longest < 3 * 3600 else (3600.0, "h")
