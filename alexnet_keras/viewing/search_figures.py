"""The figures of a search: its trials as lines across their choices, and over its time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, MaxNLocator

from alexnet_keras.viewing.figures import (
    INK,
    LABEL_FONT,
    MUTED,
    STRONG,
    inline_svg,
    mark_point,
    new_axes,
    printable,
    say_nothing_known,
    set_heights,
)

_WIDE, _HIGH = 1040, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 60, 46, 296
#: how wide one of a tick's label is, about
_CHARACTER = 5.7
#: of more distinct numbers than this an axis shows the ends only
_MOST_TICKS = 6
#: the best share of trials is drawn strong
_STRONG_SHARE = 0.1
#: what is not a choice but what came of it
_ACCURACY = "accuracy"


@dataclass(frozen=True)
class TrialLine:
    """A trial as the figures show it.

    Attributes:
        name: of the trial.
        settings: its choices by name; those that were not active are missing.
        accuracy: 0..1.
        minutes: of the search, when it ended.
        is_default: whether it has the default settings.
    """

    name: str
    settings: Mapping[str, Any]
    accuracy: float
    minutes: float
    is_default: bool = False


@dataclass(frozen=True)
class _Axis:
    name: str
    places: Mapping[Any, float] | None
    low: float = 0.0
    high: float = 1.0
    logarithmic: bool = False

    def place(self, value: Any) -> float | None:
        """From the bottom, 0..1; `None` for a choice that was not active."""
        if value is None:
            return None
        if self.places is not None:
            return self.places[value]
        low, high, value = (
            (math.log(one) if self.logarithmic else one) for one in (self.low, self.high, value)
        )
        return (value - low) / (high - low)

    def ticks(self, most: int) -> list[tuple[str, float]]:
        """Labels of so many characters, and where they are."""
        if self.places is not None:
            return [(_short(value, most), place) for value, place in self.places.items()]
        percent = self.name == _ACCURACY
        return [
            (f"{100 * end:.1f}%" if percent else f"{end:.3g}", place)
            for end, place in ((self.low, 0.0), (self.high, 1.0))
        ]


def parallel_coordinates(trials: Sequence[TrialLine], names: Sequence[str]) -> Markup:
    """Each trial as a line across the choices in which trials differ, and on to its accuracy.

    The best tenth is drawn strong, the default dark and dashed. A line falls below an axis whose
    choice was not active in the trial.

    Args:
        names: the choices, in the order of the axes.
    """
    axes = [axis for name in names if (axis := _axis(name, trials)) is not None]
    if not trials or not axes:
        return Markup('<p class="quiet">No two trials differ.</p>')
    accuracies = [trial.accuracy for trial in trials]
    low, high = min(accuracies), max(accuracies)
    axes.append(_Axis(_ACCURACY, None, low, high if high > low else low + 0.01))
    step = (_WIDE - _LEFT - _RIGHT) / (len(axes) - 1)
    across = [_LEFT + number * step for number in range(len(axes))]
    ranked = sorted(trials, key=lambda trial: trial.accuracy)
    strong = len(ranked) - max(round(_STRONG_SHARE * len(ranked)), 1)
    lines, dark = [], []
    for place, trial in enumerate(ranked):
        values = {**trial.settings, _ACCURACY: trial.accuracy}
        points = " ".join(
            f"{x:.1f},{_height(axis.place(values.get(axis.name))):.1f}"
            for x, axis in zip(across, axes, strict=True)
        )
        kind = "default" if trial.is_default else "good" if place >= strong else "plain"
        line = Markup('<polyline class="{}" points="{}"><title>{}</title></polyline>').format(
            kind, points, _told(trial)
        )
        (dark if kind == "default" else lines).append(line)
    parts = [
        Markup('<svg class="parallel" role="img" aria-label="{}" viewBox="0 0 {} {}">').format(
            f"{len(trials)} trials across {len(axes) - 1} choices", _WIDE, _HIGH
        ),
        *lines,
        *dark,
    ]
    for number, (x, axis) in enumerate(zip(across, axes, strict=True)):
        # The last has all the room that it needs, and needs little.
        parts.append(_drawn(axis, x, number % 2 == 1, int((step - 8) / _CHARACTER)))
    return Markup("").join([*parts, Markup("</svg>")])


def accuracy_over_time(trials: Sequence[TrialLine]) -> Markup:
    """The accuracy of each trial by when it ended, and the best so far; the default's is marked."""
    figure, axes = new_axes()
    ordered = sorted(trials, key=lambda trial: trial.minutes)
    minutes = [trial.minutes for trial in ordered]
    percents = [100 * trial.accuracy for trial in ordered]
    axes.plot(minutes, percents, linestyle="none", marker="o", markersize=3.4, color=MUTED)
    best = [max(percents[: number + 1]) for number in range(len(percents))]
    axes.step(minutes, best, where="post", color=STRONG, linewidth=2, zorder=4)
    default = next((trial for trial in ordered if trial.is_default), None)
    if default is not None:
        axes.axhline(100 * default.accuracy, color=INK, linewidth=1, dashes=(4, 3), zorder=3)
        axes.annotate(
            "default",
            (1, 100 * default.accuracy),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 4),
            textcoords="offset points",
            ha="right",
            fontsize=LABEL_FONT,
            color=INK,
        )
    if percents:
        first = best.index(max(best))
        mark_point(axes, minutes[first], best[first])
    # A few poor trials would press the others flat.
    shown = sorted(percents)[len(percents) // 20 :]
    set_heights(axes, shown, most=100)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8))
    axes.set_xlim(0, max(minutes, default=1) * 1.02)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} min"))
    if not percents:
        say_nothing_known(axes)
    return inline_svg(figure, "search", f"Accuracy of {len(percents)} trials over the time")


def _axis(name: str, trials: Sequence[TrialLine]) -> _Axis | None:
    """The axis of a choice; `None` where trials do not differ in it."""
    values = {trial.settings[name] for trial in trials if name in trial.settings}
    if len(values) < 2:
        return None
    numbers = all(isinstance(value, int | float) for value in values)
    if numbers and len(values) > _MOST_TICKS:
        low, high = float(min(values)), float(max(values))
        return _Axis(name, None, low, high, logarithmic=low > 0 and high / low > 20)
    ordered = sorted(values) if numbers else sorted(values, key=str, reverse=True)
    return _Axis(name, {value: i / (len(ordered) - 1) for i, value in enumerate(ordered)})


def _height(place: float | None) -> float:
    return _BOTTOM + 22 if place is None else _BOTTOM - place * (_BOTTOM - _TOP)


def _drawn(axis: _Axis, x: float, lower: bool, most: int) -> Markup:
    parts = [
        Markup('<line x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(round(x, 1), _TOP, _BOTTOM),
        # In two rows, so that names have room.
        Markup('<text class="name" x="{}" y="{}">{}</text>').format(
            round(x, 1), 28 if lower else 12, axis.name.replace("_", " ")
        ),
    ]
    for label, place in axis.ticks(most):
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" dy=".35em">{}</text>').format(
                round(x + 5, 1), round(_height(place), 1), label
            )
        )
    return Markup("").join(parts)


def _told(trial: TrialLine) -> str:
    chosen = ", ".join(f"{name} {_short(value, 40)}" for name, value in trial.settings.items())
    return f"trial {trial.name}: {100 * trial.accuracy:.1f}%; {chosen}"


def _short(value: Any, most: int) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else printable(str(value))
    return text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"
