"""The page that a run leaves: one HTML file that needs nothing beside it. Plain data in."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from alexnet_keras.evaluation import wilson_interval
from alexnet_keras.training import RateSearch
from alexnet_keras.viewing.comparison import Comparison, accuracy_after, comparison_curve
from alexnet_keras.viewing.figures import (
    MOST_LABELLED,
    confusion_map,
    faintest,
    has_tooltips,
    lowest_stop_loss,
    number,
    phase_spans,
    printable,
    training_curve,
)
from alexnet_keras.viewing.rate_search import rate_curve, tried
from alexnet_keras.whole_files import written_beside

#: what stands for a value that is missing or undefined
DASH = "–"
#: rows of the table of confused pairs
MOST_PAIRS = 15
#: up to this many classes, accuracy by class is one roomy column with intervals in figures
FEW_CLASSES = 12


@dataclass(frozen=True, eq=False)
class Mistake:
    """A photograph that was labelled wrongly.

    Attributes:
        image: JPEG thumbnail, as shown to the net.
        name: file name or key.
        truth, predicted: class names.
        probability: what the net gave the predicted class, 0..1.
    """

    image: bytes
    name: str
    truth: str
    predicted: str
    probability: float


@dataclass(frozen=True, eq=False)
class ConfusedClasses:
    """Two classes that are taken for each other, in pictures (JPEG thumbnails).

    Attributes:
        first, second: class names.
        first_taken: photographs of the first class that were taken for the second.
        second_taken: photographs of the second class that were taken for the first.
        mistakes: some of these, the most confident first.
        first_trained, second_trained: some training photographs of each class.
    """

    first: str
    second: str
    first_taken: int
    second_taken: int
    mistakes: Sequence[Mistake]
    first_trained: Sequence[bytes]
    second_trained: Sequence[bytes]


@dataclass(frozen=True, eq=False)
class Report:
    """All that the page of a run shows.

    Attributes:
        title: heading of the page.
        metrics: contents of `metrics.json`: `dataset`, `weights`, `train_images`, `val_images`,
            `images_skipped`, `classes`, `val_top1` and `val_top5` (0..1), `seconds_total` and
            `seconds` (by phase). What is missing is shown as a dash or left out.
        notes: sentences to show near the top.
        class_names: the classes in order.
        confusion: counts (classes, classes), rows truth, columns predicted.
        history: one row an epoch: `phase`, `epoch`, `loss`, `accuracy`, `stop_loss`,
            `stop_accuracy` (on the early-stopping part), `learning_rate`, `seconds`. Any value may
            be missing or NaN.
        mistakes: the most confident first.
        layers: rows of `layer_table`.
        config: contents of `config.json`; may be nested.
        examples: JPEG thumbnails of training views, each with a caption.
        stops_early: whether the part that was watched while training decided when to stop; else it
            was watched only, or there was none.
        confused: the classes most often taken for each other, in pictures.
        comparison: the net beside one from random weights, if one was trained.
        rate_searches: how the learning rates of phases were found, where they were searched for.

    Raises:
        ValueError: the confusion matrix does not fit the class names.
    """

    title: str
    metrics: dict[str, Any]
    notes: list[str]
    class_names: list[str]
    confusion: np.ndarray
    history: list[dict[str, Any]]
    mistakes: list[Mistake]
    layers: list[dict[str, Any]]
    config: dict[str, Any]
    examples: Sequence[tuple[bytes, str]] = ()
    stops_early: bool = True
    confused: Sequence[ConfusedClasses] = ()
    comparison: Comparison | None = None
    rate_searches: Sequence[RateSearch] = ()

    def __post_init__(self) -> None:
        shape = np.shape(self.confusion)
        classes = len(self.class_names)
        if classes == 0 or shape != (classes, classes):
            raise ValueError(
                f"The confusion matrix of {classes} classes is ({classes}, {classes}) with at "
                f"least one class; received {shape}."
            )


@dataclass(frozen=True)
class ClassAccuracy:
    """How well one class was recognised; the accuracies (0..1) are NaN without photographs."""

    name: str
    right: int
    count: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class ConfusedPair:
    """`count` of the `total` photographs of class `truth` were taken for class `predicted`."""

    truth: str
    predicted: str
    count: int
    total: int


def render_report(report: Report) -> str:
    """The page as text. It loads nothing: images, figures and styles are inside."""
    confusion = np.asarray(report.confusion)
    images = number(report.metrics.get("val_images"))
    top1 = number(report.metrics.get("val_top1"))
    low, high = wilson_interval(top1 * images, images)
    totals = confusion.sum(axis=1)
    pairs = confused_pairs(confusion, report.class_names)
    phases = _phase_names(report)
    best = lowest_stop_loss(report.history)
    return page_template("report.html.j2").render(
        report=report,
        metrics=report.metrics,
        top1=top1,
        low=low,
        high=high,
        commonest=_commonest(totals, report.class_names),
        accuracy_curve=training_curve(report.history, "accuracy"),
        loss_curve=training_curve(report.history, "loss"),
        spans=phase_spans(report.history),
        best=None if best is None else report.history[best],
        best_index=best,
        confusion_map=confusion_map(confusion, report.class_names),
        faintest=faintest(len(report.class_names)),
        tooltips=has_tooltips(confusion),
        labelled=len(report.class_names) <= MOST_LABELLED,
        pairs=pairs[:MOST_PAIRS],
        further_pairs=len(pairs) - MOST_PAIRS,
        wrong=int(totals.sum() - np.trace(confusion)),
        classes=class_accuracies(confusion, report.class_names),
        few=len(report.class_names) <= FEW_CLASSES,
        phases=phases,
        totals=_layer_totals(report.layers, phases),
        times=_times(report.metrics),
        comparison_curve=report.comparison and comparison_curve(report.comparison),
        rate_curves=[
            (search, tried(search), rate_curve(search, f"rates{place}"))
            for place, search in enumerate(report.rate_searches)
        ],
        nan=math.nan,
    )


def write_report(report: Report, path: Path) -> None:
    """Writes the page to `path`, whole or not at all."""
    write_page(render_report(report), path)


def write_page(text: str, path: Path) -> None:
    """Writes a page, whole or not at all."""
    with written_beside(path) as part:
        part.write_text(text, encoding="utf-8")


def class_accuracies(confusion: np.ndarray, class_names: Sequence[str]) -> list[ClassAccuracy]:
    """The accuracy within each class, the lowest first and classes without photographs last."""
    rows = []
    for name, right, count in zip(
        class_names, np.diag(confusion).tolist(), confusion.sum(axis=1).tolist(), strict=True
    ):
        low, high = wilson_interval(right, count)
        rows.append(
            ClassAccuracy(name, right, count, right / count if count else math.nan, low, high)
        )
    return sorted(rows, key=lambda row: (row.count == 0, row.accuracy, -row.count, row.name))


def confused_pairs(confusion: np.ndarray, class_names: Sequence[str]) -> list[ConfusedPair]:
    """Every class that was taken for another, the most often first."""
    totals = confusion.sum(axis=1).tolist()
    pairs = [
        ConfusedPair(class_names[i], class_names[j], int(confusion[i, j]), totals[i])
        for i, j in np.argwhere(confusion > 0).tolist()
        if i != j
    ]
    return sorted(pairs, key=lambda pair: (-pair.count, -pair.count / pair.total))


def format_percent(share: Any, digits: int = 1) -> str:
    """A share 0..1 as "88.1%"."""
    share = number(share)
    return DASH if math.isnan(share) else f"{100 * share:.{digits}f}%"


def format_count(value: Any) -> str:
    """A number of things as "62,378,344"."""
    value = number(value)
    return DASH if math.isnan(value) else f"{value:,.0f}"


def format_short(value: Any) -> str:
    """A large number to three figures, as "1.14 G"."""
    return _with_unit(value, 1000, ("", "k", "M", "G", "T", "P"))


def format_bytes(value: Any) -> str:
    """A number of bytes as "144 MiB"."""
    return _with_unit(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def format_seconds(value: Any) -> str:
    """A duration as "8.3 s", "4 min 12 s" or "2 h 05 min"."""
    seconds = number(value)
    if math.isnan(seconds):
        return DASH
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if seconds < 3599.5:
        minutes, seconds = divmod(round(seconds), 60)
        return f"{minutes} min {seconds:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def _with_unit(value: Any, base: int, units: tuple[str, ...]) -> str:
    value = number(value)
    if math.isnan(value):
        return DASH
    power = 0
    # Not `value >= base`: 999.7 would round to 1000 of the smaller unit.
    while float(f"{value:.3g}") >= base and power < len(units) - 1:
        value, power = value / base, power + 1
    text = f"{value:.0f}" if power == 0 or value >= 100 else f"{value:.3g}"
    return f"{text} {units[power]}".rstrip()


def format_points(share: Any) -> str:
    """A difference of shares, -1..1, in percentage points as "17.0"; true minus sign."""
    share = number(share)
    return DASH if math.isnan(share) else f"{100 * share:.1f}".replace("-", "\N{MINUS SIGN}")


def _format_figure(value: Any) -> str:
    value = number(value)
    return DASH if math.isnan(value) else f"{value:.4g}"


def _format_scalar(value: Any) -> str:
    """As JSON has it, strings bare: `true`, `null`, `0.003`."""
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def _phase_names(report: Report) -> list[str]:
    """Phases that train something, in the order of the history, then of the table."""
    trained = dict.fromkeys(name for row in report.layers for name in row.get("trained_in") or ())
    ran = [str(row.get("phase")) for row in report.history]
    return [*dict.fromkeys(name for name in ran if name in trained)] + [
        name for name in trained if name not in ran
    ]


def _layer_totals(layers: Iterable[dict[str, Any]], phases: Iterable[str]) -> dict[str, Any]:
    layers = list(layers)
    sums = {
        key: sum(row.get(key) or 0 for row in layers)
        for key in ("parameters", "bytes", "multiply_adds")
    }
    trained = {
        phase: sum(
            row.get("parameters") or 0 for row in layers if phase in (row.get("trained_in") or ())
        )
        for phase in phases
    }
    return {**sums, "trained": trained}


def _times(metrics: dict[str, Any]) -> list[tuple[str, float, float]]:
    """Name, seconds and share of the whole of each phase, and of what is left over."""
    seconds = {str(name): number(value) for name, value in (metrics.get("seconds") or {}).items()}
    known = sum(value for value in seconds.values() if value == value)
    total = number(metrics.get("seconds_total"))
    whole = max(known, total) if total == total else known
    # Sums of rounded figures miss the total by a little; that is no phase.
    if whole - known > 0.01 * whole:
        seconds["everything else"] = whole - known
    return [(name, value, value / whole if whole else 0.0) for name, value in seconds.items()]


def _commonest(totals: np.ndarray, class_names: Sequence[str]) -> tuple[str, float] | None:
    """The class with the most photographs and its share: what answering it always would reach."""
    if totals.sum() == 0:
        return None
    most = int(totals.argmax())
    return class_names[most], float(totals[most] / totals.sum())


@cache
def page_template(name: str, **filters: Callable[..., str]) -> jinja2.Template:
    """A template of this package, with the formats that pages share and its own."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("alexnet_keras", "viewing"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalized,
    )
    environment.filters.update(
        **filters,
        percent=format_percent,
        count=format_count,
        short=format_short,
        size=format_bytes,
        duration=format_seconds,
        figure=_format_figure,
        scalar=_format_scalar,
        data_uri=_data_uri,
        points=format_points,
        accuracy_after=accuracy_after,
        known=lambda value: not math.isnan(number(value)),
    )
    return environment.get_template(name)


def _finalized(value: Any) -> Any:
    return value if hasattr(value, "__html__") else printable(str(value))
