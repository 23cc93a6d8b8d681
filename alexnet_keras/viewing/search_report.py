"""The page that a search of settings leaves. Plain data in; as `report.py`, of whose look it is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from alexnet_keras.tuning import REASONS, Found, Outcome
from alexnet_keras.tuning.importance import Importance, importance
from alexnet_keras.viewing.report import DASH, format_points, page_template, write_page
from alexnet_keras.viewing.search_figures import (
    TrialLine,
    accuracy_over_time,
    parallel_coordinates,
)


@dataclass(frozen=True)
class FinalistRow:
    """A trial that was tried on several folds.

    Attributes:
        name: of the trial.
        settings: its active choices.
        chosen_by: its accuracy on the fold that trials were measured on, 0..1.
        accuracies: one for each further fold, 0..1.
        is_default: whether it has the default settings.
    """

    name: str
    settings: Mapping[str, Any]
    chosen_by: float
    accuracies: Sequence[float]
    is_default: bool

    @property
    def accuracy(self) -> float:
        """The mean over the further folds; of the first if there are none."""
        return fmean(self.accuracies or (self.chosen_by,))


@dataclass(frozen=True, eq=False)
class SearchReport:
    """All that the page of a search shows.

    Attributes:
        title: heading of the page.
        dataset, weights, search: what was searched for, with which weights, and how.
        notes: sentences to show near the top.
        trials: in the order in which they ended.
        finalists: the best first; at least one.
        folds: how many there are.
        fold_sizes: photographs in each.
        kept: photographs that the search did not look at.
        seconds: that it took.
        reasons: why each choice is open, by name, in the order of the figures.
        importance: of the choices; `None` for too few trials.
    """

    title: str
    dataset: str
    weights: str
    search: str
    notes: Sequence[str]
    trials: Sequence[Outcome]
    finalists: Sequence[FinalistRow]
    folds: int
    fold_sizes: Sequence[int]
    kept: int
    seconds: float
    reasons: Mapping[str, str]
    importance: Importance | None


def gather_search_report(
    found: Found,
    *,
    dataset: str,
    weights: str,
    search: str,
    notes: Sequence[str],
    fold_sizes: Sequence[int],
    kept: int,
) -> SearchReport:
    """The page of what a search found; arguments are as in `SearchReport`."""
    finalists = [
        FinalistRow(
            one.outcome.trial,
            one.outcome.settings,
            one.outcome.accuracy or 0.0,
            [scores.accuracy for scores in one.scores],
            one.is_default,
        )
        for one in found.finalists
    ]
    return SearchReport(
        title=f"Fine-tuning settings for {dataset}",
        dataset=dataset,
        weights=weights,
        search=search,
        notes=notes,
        trials=found.outcomes,
        finalists=finalists,
        folds=len(fold_sizes),
        fold_sizes=fold_sizes,
        kept=kept,
        seconds=found.seconds,
        reasons=REASONS,
        importance=importance(found.outcomes),
    )


def render_search_report(report: SearchReport) -> str:
    """The page as text. It loads nothing: figures and styles are inside."""
    scored = [trial for trial in report.trials if trial.accuracy is not None]
    default = next((one for one in report.finalists if one.is_default), None)
    lines = [
        TrialLine(
            trial.trial,
            trial.settings,
            trial.accuracy or 0.0,
            trial.ended / 60,
            default is not None and trial.trial == default.name,
        )
        for trial in scored
    ]
    best = report.finalists[0]
    folds = len(best.accuracies)
    measured = report.fold_sizes[0]
    counts = Counter(trial.status for trial in report.trials)
    template = page_template(
        "search_report.html.j2", chosen=_chosen, listed=_listed, against=_against
    )
    return template.render(
        report=report,
        best=best,
        default=default,
        usually={} if default is None else default.settings,
        folds=folds,
        photographs=sum(report.fold_sizes[1 : 1 + folds]) or report.fold_sizes[0],
        measured=measured,
        noise=math.sqrt(best.accuracy * (1 - best.accuracy) / measured) if measured else 0.0,
        counts={name: counts[name] for name in ("completed", "stopped", "failed")},
        failed=[trial for trial in report.trials if trial.status == "failed"],
        place=_place(lines),
        partial=sum(trial.epochs < 1 for trial in report.trials),
        parallel=parallel_coordinates(lines, list(report.reasons)),
        over_time=accuracy_over_time(lines),
        said_of_time=_said_of_time(lines),
        most=max(report.importance.lost.values(), default=0.0) if report.importance else 0.0,
    )


def write_search_report(report: SearchReport, path: Path) -> None:
    """Writes the page to `path`, whole or not at all."""
    write_page(render_search_report(report), path)


def _place(trials: Sequence[TrialLine]) -> str:
    """Where the default stands among the trials."""
    default = next((trial for trial in trials if trial.is_default), None)
    if default is None:
        return "without a score"
    above = sum(trial.accuracy > default.accuracy for trial in trials)
    return f"number {above + 1} of {len(trials)}"


def _said_of_time(trials: Sequence[TrialLine]) -> str:
    ordered = sorted(trials, key=lambda trial: trial.minutes)
    if not ordered:
        return "No trial has a score."
    first = max(ordered, key=lambda trial: trial.accuracy)
    default = next((trial for trial in ordered if trial.is_default), None)
    said = f"Trial {first.name} was the first as good as any, after {first.minutes:.1f} minutes."
    if default is not None:
        above = sum(trial.accuracy > default.accuracy for trial in ordered)
        said += f" {above} of {len(ordered)} are above the default, on the first fold alone."
    return said


def _chosen(value: Any) -> str:
    if value is None:
        return DASH
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {_chosen(value)}" for name, value in settings.items()
    )


def _against(one: FinalistRow, default: FinalistRow | None) -> str:
    if default is None or one.is_default:
        return DASH
    differences = [
        here - there for here, there in zip(one.accuracies, default.accuracies, strict=True)
    ]
    return ", ".join(f"{'+' if value > 0 else ''}{format_points(value)}" for value in differences)
