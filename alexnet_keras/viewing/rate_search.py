"""How a learning rate was found: the loss while the rate grows (Smith 2017, the range test)."""

from __future__ import annotations

import math

from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from alexnet_keras.training import RateSearch
from alexnet_keras.viewing.figures import (
    MUTED,
    STRONG,
    inline_svg,
    mark_place,
    mark_point,
    new_axes,
    number,
    say_nothing_known,
    set_heights,
)


def tried(search: RateSearch) -> tuple[float, float]:
    """The smallest and the largest rate of a search; NaN if there was none."""
    known = [rate for rate in map(number, search.rates) if rate > 0]
    return min(known, default=math.nan), max(known, default=math.nan)


def rate_curve(search: RateSearch, name: str = "rates") -> Markup:
    """The loss against the learning rate, on a logarithmic axis, with the chosen rate marked.

    Returns:
        An SVG element whose ids begin with `name`.
    """
    rates = [rate if rate > 0 else math.nan for rate in map(number, search.rates)]
    losses = [number(loss) for loss in search.losses]
    smoothed = [number(loss) for loss in search.smoothed]
    chosen = number(search.chosen)
    known = [
        loss
        for rate, *pair in zip(rates, smoothed, losses, strict=True)
        for loss in pair
        if not math.isnan(rate) and not math.isnan(loss)
    ]

    figure, axes = new_axes()
    axes.set_xscale("log")
    first, last = tried(search) if known else (1e-3, 1e-1)
    if chosen > 0:
        first, last = min(first, chosen), max(last, chosen)
    air = max((last / first) ** 0.02, 1.05)
    axes.set_xlim(first / air, last * air)
    axes.plot(rates, losses, color=MUTED, linewidth=0.9, alpha=0.7, zorder=3)
    axes.plot(rates, smoothed, color=STRONG, linewidth=2, zorder=4)
    set_heights(axes, _of_interest(smoothed, known))
    if chosen > 0:
        mark_place(axes, chosen, f"{chosen:.3g}")
        for rate, loss in zip(rates, smoothed, strict=True):
            if math.isclose(rate, chosen, rel_tol=1e-6):
                mark_point(axes, rate, loss)
    # A narrow range may hold no power of ten.
    narrow = last / first < 100
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,), numticks=8))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    if not known:
        say_nothing_known(axes)
    return inline_svg(figure, name, f"Loss over {len(rates)} learning rates")


def _of_interest(smoothed: list[float], known: list[float]) -> list[float]:
    """The losses that the figure has room for: without those of a net that comes apart.

    They grow beyond all bounds at the largest rates, and would press the fall before them flat.
    """
    start = next((loss for loss in smoothed if not math.isnan(loss)), math.inf)
    fall = start - min((loss for loss in smoothed if not math.isnan(loss)), default=math.nan)
    highest = start + max(0.5 * fall, 0.1 * abs(start))
    return [loss for loss in known if not loss > highest] or known
