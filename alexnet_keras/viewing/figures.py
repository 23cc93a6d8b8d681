"""The report's figures, as inline SVG that takes its colours and its font from the page."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

# Matplotlib wants real colours; each of these is replaced by a variable of the page's style sheet,
# so that one figure serves light, dark and print.
_COLOURS = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--rule)",
    "#040404": "var(--right)",
    "#050505": "var(--band)",
    "#060606": "var(--card)",
}
INK, MUTED, RULE, STRONG, BAND, CARD = _COLOURS

_POINTS_WIDE, _POINTS_HIGH = 400, 236
#: of the axes, as shares of the figure
_LEFT, _WIDTH = 0.1, 0.89
_FONT = 10.5
#: of names within a figure
LABEL_FONT = 9.5
#: width of a character of ordinary text, as a share of the font size
_CHARACTER = 0.56

#: more classes than this get no labels at the confusion matrix, and no counts in its cells
MOST_LABELLED = 40
#: more cells than this share one path per shade, without a tooltip each
MOST_TOOLTIPS = 2500
_SHADES = 20
_LONGEST_LABEL = 22

_UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


@dataclass(frozen=True)
class PhaseSpan:
    """Epochs `first` to `last`, both included, that belong to one phase of training."""

    name: str
    first: float
    last: float
    epochs: int


def printable(text: str) -> str:
    """`text` with control characters, changes of direction and lone surrogates as escapes.

    No page may hold the first and the last, and the others let a file name pose as another one.
    """
    return _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)


def number(value: Any) -> float:
    """`value` as a float; NaN for anything that is not a finite number."""
    try:
        value = float(value)
    except (TypeError, ValueError):
        return math.nan
    return value if math.isfinite(value) else math.nan


def phase_spans(history: Sequence[dict[str, Any]]) -> list[PhaseSpan]:
    """The phases of a history, in their order."""
    numbered = list(zip(_epochs(history), history, strict=True))
    spans = []
    for name, rows in groupby(numbered, key=lambda row: str(row[1].get("phase") or "training")):
        epochs = [epoch for epoch, _ in rows]
        spans.append(PhaseSpan(printable(name), min(epochs), max(epochs), len(epochs)))
    return spans


def lowest_stop_loss(history: Sequence[dict[str, Any]]) -> int | None:
    """The index of the epoch with the lowest loss on the early-stopping part, if any is known."""
    losses = [number(row.get("stop_loss")) for row in history]
    return None if all(map(math.isnan, losses)) else int(np.nanargmin(losses))


def training_curve(history: Sequence[dict[str, Any]], quantity: str) -> Markup:
    """One quantity over the epochs: while training, and on the early-stopping part.

    Args:
        history: rows of a run, one an epoch; missing, NaN and infinite values leave gaps.
        quantity: "loss" or "accuracy" (shares 0..1, drawn as percent).

    Returns:
        An SVG element whose ids begin with `quantity`.
    """
    epochs = _epochs(history)
    scale = 100 if quantity == "accuracy" else 1
    trained = [scale * number(row.get(quantity)) for row in history]
    stopping = [scale * number(row.get(f"stop_{quantity}")) for row in history]
    best = lowest_stop_loss(history)

    figure, axes = new_axes()
    first, last = (min(epochs), max(epochs)) if epochs else (1, 1)
    # Half an epoch of air on each side; a lone epoch would otherwise have no width at all.
    axes.set_xlim(first - 0.5, last + 0.5)
    axes.plot(epochs, trained, color=MUTED, linewidth=1.4, dashes=(3.2, 1.8), zorder=3)
    axes.plot(epochs, stopping, color=STRONG, linewidth=2, zorder=4)
    # A point with gaps on both sides is no line.
    small = {"linestyle": "none", "marker": "o", "markeredgewidth": 0, "zorder": 5}
    larger = 2 if len(epochs) == 1 else 1
    axes.plot(epochs, trained, color=MUTED, markersize=2.6 * larger, **small)
    axes.plot(epochs, stopping, color=STRONG, markersize=3.2 * larger, **small)
    if best is not None:
        mark_point(axes, epochs[best], stopping[best])
    known = [value for value in trained + stopping if not math.isnan(value)]
    set_heights(axes, known, most=100 if quantity == "accuracy" else math.inf)
    _draw_phases(axes, phase_spans(history), first, last)

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10, min_n_ticks=1))
    if quantity == "accuracy":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
    if not known:
        say_nothing_known(axes)
    return inline_svg(figure, quantity, f"{quantity.capitalize()} over {len(epochs)} epochs")


def new_axes() -> tuple[Figure, Axes]:
    """An empty figure in the page's look: a ground line, faint lines across, no frame."""
    figure = Figure(figsize=(_POINTS_WIDE / 72, _POINTS_HIGH / 72))
    axes = figure.add_axes((_LEFT, 0.125, _WIDTH, 0.845))
    axes.tick_params(length=0, labelsize=_FONT, labelcolor=MUTED, pad=5)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_facecolor("none")
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(RULE)
    return figure, axes


def mark_point(axes: Axes, x: float, y: float) -> None:
    """A ring about the point of a curve that was chosen."""
    axes.plot(
        x,
        y,
        marker="o",
        markersize=7,
        color=CARD,
        markeredgecolor=STRONG,
        markeredgewidth=1.8,
        zorder=6,
    )


def mark_place(axes: Axes, x: float, label: str) -> None:
    """A line upright at `x`, with its label at the top on the side where there is room."""
    axes.axvline(x, color=INK, linewidth=1, zorder=2)
    # In the scale of the axis, which may be logarithmic.
    left, right = axes.transData.transform([(x, 0), (axes.get_xlim()[1], 0)])[:, 0]
    roomy = len(label) * LABEL_FONT * _CHARACTER + 10 < (right - left) * 72 / axes.figure.dpi
    axes.annotate(
        label,
        (x, 1),
        xycoords=("data", "axes fraction"),
        xytext=(5 if roomy else -5, -3),
        textcoords="offset points",
        va="top",
        ha="left" if roomy else "right",
        fontsize=LABEL_FONT,
        color=INK,
        parse_math=False,
    )


def say_nothing_known(axes: Axes) -> None:
    """What stands in a figure without a single value."""
    axes.set_yticks([])
    axes.text(0.5, 0.5, "nothing was recorded", transform=axes.transAxes, ha="center", color=MUTED)


def confusion_map(confusion: np.ndarray, class_names: Sequence[str]) -> Markup:
    """A confusion matrix as a heat map: each row is a true class, shaded by shares of that row.

    Labels and counts are drawn for up to `MOST_LABELLED` classes; beyond, names are in tooltips.

    Args:
        confusion: counts (classes, classes), rows truth, columns predicted.
        class_names: the classes in order.
    """
    confusion = np.asarray(confusion)
    classes = len(class_names)
    names = [printable(str(name)) for name in class_names]
    labelled = classes <= MOST_LABELLED
    side = min(76, max(19, 560 // classes)) if labelled else max(3, 620 // classes)
    font = 12 if side >= 24 else 10.5
    short = [_shortened(name) for name in names]
    margin = math.ceil(max(map(len, short)) * font * _CHARACTER * 1.15) + 12 if labelled else 0
    upright = not labelled or margin - 10 <= side
    top = (font + 10 if upright else margin) if labelled else 0
    extent = classes * side
    parts: list[Markup] = [
        Markup(
            '<svg class="{}" role="img" aria-label="Confusion matrix of {} classes" '
            'viewBox="0 0 {} {}" style="width:{}px;min-width:{}px">'
        ).format(
            "confusion labelled" if labelled else "confusion",
            classes,
            margin + extent + 1,
            top + extent + 1,
            margin + extent + 1,
            round(0.8 * (margin + extent)) if labelled else 0,
        ),
        Markup('<rect class="ground" x="{}" y="{}" width="{}" height="{}"/>').format(
            margin, top, extent, extent
        ),
    ]
    if labelled:
        parts.append(_labels(names, short, side, font, margin, top, upright))
    parts.append(_cells(confusion, names, side, margin, top))
    if labelled:
        parts.append(_counts(confusion, side, margin, top))
    parts.append(Markup("</svg>"))
    return Markup("").join(parts)


def has_tooltips(confusion: np.ndarray) -> bool:
    """Whether each cell of `confusion_map` tells its names and counts when pointed at."""
    return int((np.asarray(confusion) > 0).sum()) <= MOST_TOOLTIPS


def faintest(classes: int) -> float:
    """The opacity that a share of 0 would have: small cells have to be stronger to be seen."""
    return 0.1 if classes <= MOST_LABELLED else 0.35


def _labels(
    names: list[str],
    short: list[str],
    side: int,
    font: float,
    margin: float,
    top: float,
    upright: bool,
) -> Markup:
    parts = []
    for i, (name, label) in enumerate(zip(names, short, strict=True)):
        middle = (i + 0.5) * side
        parts.append(
            Markup(
                '<text x="{}" y="{}" dy=".35em" text-anchor="end">{}<title>{}</title></text>'
            ).format(margin - 7, top + middle, label, name)
        )
        x, y = margin + middle, top - 7
        place = "" if upright else Markup(' transform="rotate(-90 {} {})" dy=".35em"').format(x, y)
        parts.append(
            Markup('<text x="{}" y="{}" text-anchor="{}"{}>{}<title>{}</title></text>').format(
                x, y, "middle" if upright else "start", place, label, name
            )
        )
    return Markup('<g class="label" font-size="{}">{}</g>').format(font, Markup("").join(parts))


def _cells(confusion: np.ndarray, names: list[str], side: int, margin: float, top: float) -> Markup:
    totals = confusion.sum(axis=1)
    filled = np.argwhere(confusion > 0)
    tooltips = has_tooltips(confusion)
    by_shade: dict[tuple[bool, int], list[tuple[int, int]]] = {}
    for truth, predicted in filled.tolist():
        share = confusion[truth, predicted] / totals[truth]
        # The palest shade is still seen: one photograph of a hundred is an error too.
        shade = max(1, math.ceil(_SHADES * share))
        by_shade.setdefault((truth == predicted, shade), []).append((truth, predicted))
    gap = 1 if side >= 12 else 0
    pale = faintest(len(names))
    size = side - gap
    groups = []
    for (right, shade), cells in sorted(by_shade.items()):
        squares = [
            f"M{margin + predicted * side + gap:g} {top + truth * side + gap:g}"
            f"h{size}v{size}h-{size}z"
            for truth, predicted in cells
        ]
        if not tooltips:
            paths = Markup('<path d="{}"/>').format("".join(squares))
        else:
            paths = Markup("").join(
                Markup('<path d="{}"><title>{}</title></path>').format(
                    square,
                    f"{names[truth]}: {confusion[truth, predicted]} of {totals[truth]} "
                    + ("labelled right" if right else f"taken for {names[predicted]}"),
                )
                for square, (truth, predicted) in zip(squares, cells, strict=True)
            )
        groups.append(
            Markup('<g class="{}" fill-opacity="{:.3g}">{}</g>').format(
                "hit" if right else "miss", pale + (1 - pale) * shade / _SHADES, paths
            )
        )
    return Markup("").join(groups)


def _counts(confusion: np.ndarray, side: int, margin: float, top: float) -> Markup:
    totals = confusion.sum(axis=1)
    font = min(14.0, side * 0.46)
    parts = []
    for truth, predicted in np.argwhere(confusion > 0).tolist():
        count = int(confusion[truth, predicted])
        fitting = min(font, (side - 3) / (len(str(count)) * _CHARACTER))
        dark = count / totals[truth] > 0.5
        parts.append(
            Markup('<text x="{}" y="{}" dy=".35em" font-size="{:.3g}"{}>{}</text>').format(
                margin + (predicted + 0.5) * side + 0.5,
                top + (truth + 0.5) * side + 0.5,
                fitting,
                Markup(' class="dark"') if dark else "",
                count,
            )
        )
    return Markup('<g class="count">{}</g>').format(Markup("").join(parts))


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_LABEL else name[: _LONGEST_LABEL - 1].rstrip() + "…"


def _epochs(history: Sequence[dict[str, Any]]) -> list[float]:
    known = [number(row.get("epoch")) for row in history]
    return [i + 1 if math.isnan(epoch) else epoch for i, epoch in enumerate(known)]


def set_heights(axes: Axes, known: list[float], most: float = math.inf) -> None:
    """Shows all `known` values, with air above them for names; no tick is above `most`."""
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    span = (high - low) or abs(high) * 0.1 or 1
    bottom = max(low - 0.06 * span, 0) if low >= 0 else low - 0.06 * span
    # The names of the phases stand in the air above the curves.
    top = high + 0.17 * span
    ticks = MaxNLocator(nbins=6).tick_values(bottom, top)
    axes.set_yticks([tick for tick in ticks if bottom <= tick <= min(high + 0.06 * span, most)])
    axes.set_ylim(bottom, top)


def _draw_phases(axes: Axes, spans: list[PhaseSpan], first: float, last: float) -> None:
    width = _WIDTH * _POINTS_WIDE / (last - first + 1)
    for i, span in enumerate(spans):
        left, right = span.first - 0.5, span.last + 0.5
        if i % 2:
            axes.axvspan(left, right, color=BAND, linewidth=0, zorder=0)
        if i:
            axes.axvline(left, color=RULE, linewidth=0.8, zorder=1)
        fits = len(span.name) * LABEL_FONT * _CHARACTER < (right - left) * width - 10
        axes.annotate(
            span.name if fits else str(i + 1),
            (left, 1),
            xycoords=("data", "axes fraction"),
            xytext=(5, -3),
            textcoords="offset points",
            va="top",
            fontsize=LABEL_FONT,
            color=INK,
            parse_math=False,
        )


def inline_svg(figure: Figure, prefix: str, label: str) -> Markup:
    """The figure as an element for the page: unique ids, no size, no fonts, no style sheet."""
    file = io.StringIO()
    # Text stays text: it takes the page's font, can be searched, and is a tenth of its outlines.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        figure.savefig(
            file,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    # In a page these rules would hold for everything; the page has them for its figures.
    svg = re.sub(r"<style.*?</style>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}-", svg)
    svg = re.sub(r"\bfont: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    for colour, variable in _COLOURS.items():
        svg = svg.replace(colour, variable)
    view = re.search(r'viewBox="[^"]*"', svg)
    assert view is not None  # matplotlib always writes one
    body = svg[svg.index(">") + 1 :]
    root = Markup('<svg class="curve" role="img" aria-label="{}" {} {}>').format(
        label, Markup('xmlns:xlink="http://www.w3.org/1999/xlink"'), Markup(view[0])
    )
    return root + Markup(body.strip())
