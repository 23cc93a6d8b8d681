"""Accuracy over seconds of training, as contestants leave it, and what is read off such curves."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

NEVER = "not reached"


class Point(NamedTuple):
    """Seconds from the start of the process, and the share (0..1) of photographs labelled right."""

    seconds: float
    accuracy: float


@dataclass(frozen=True)
class Curve:
    """One run of one contestant.

    Attributes:
        points: after each epoch, in order.
        images_per_second: photographs that an epoch goes through in a second, by the name of the
            stage of training; what frozen layers give is computed before, and not in it.
        measuring: seconds spent on the accuracies of the points, which count nowhere else.
        chosen: what the contestant ended with by a choice of its own; None if it makes none.
        evaluated: seconds from the start to the figure for what it has chosen.
    """

    points: tuple[Point, ...]
    images_per_second: dict[str, float]
    measuring: float
    chosen: Point | None = None
    evaluated: float | None = None

    @property
    def outcome(self) -> Point:
        """What was chosen; else the best point, the earliest of several."""
        return self.chosen or max(self.points, key=lambda point: point.accuracy)

    def seconds_to(self, accuracy: float) -> float | None:
        """When a point or the outcome is first at least as good; None if none is."""
        good = (point for point in (*self.points, self.outcome) if point.accuracy >= accuracy)
        return min((point.seconds for point in good), default=None)

    def write(self, path: Path) -> None:
        """Writes the curve as JSON, whole or not at all."""
        beside = path.with_name(f".{path.name}.part")
        beside.write_text(json.dumps(asdict(self), indent=1) + "\n")
        beside.replace(path)


def read_curve(path: Path) -> Curve:
    stored = json.loads(path.read_text())
    stored["points"] = tuple(Point(*point) for point in stored["points"])
    stored["chosen"] = stored["chosen"] and Point(*stored["chosen"])
    return Curve(**stored)


def outcomes_table(curves: dict[str, Sequence[Curve]], target: float) -> str:
    """A row for each contestant, whose curves are in the order of the seeds.

    Args:
        target: an accuracy (0..1); the table tells when each run is first at least as good.
    """
    lines = [
        "| contestant | best accuracy | each seed | seconds to it, median | "
        f"seconds to {target:.0%} | images/s |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in curves.items():
        ends = [run.outcome for run in runs]
        each = ", ".join(f"{end.accuracy:.1%}" for end in ends)
        to_target = ", ".join(_seconds(run.seconds_to(target)) for run in runs)
        cells = (
            f"{statistics.mean(end.accuracy for end in ends):.1%}",
            each,
            _seconds(statistics.median(end.seconds for end in ends)),
            to_target,
            _rates(runs),
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ratios(ours: Sequence[Curve], theirs: Sequence[Curve], on_the_way: bool) -> list[float | None]:
    """How many times sooner ours is as good as the best of theirs, by seed; None where it never is.

    Args:
        on_the_way: any epoch of ours may be the one, as with theirs; otherwise only what it ended
            with.
    """
    found: list[float | None] = []
    for mine, other in zip(ours, theirs, strict=True):
        aim, end = other.outcome, mine.outcome
        at_the_end = end.seconds if end.accuracy >= aim.accuracy else None
        seconds = mine.seconds_to(aim.accuracy) if on_the_way else at_the_end
        found.append(None if seconds is None else aim.seconds / seconds)
    return found


def ratios_table(curves: dict[str, Sequence[Curve]], ours: str) -> str:
    """A row for each other contestant: how many times sooner `ours` is as good as its best."""
    lines = [
        f"| {ours}, sooner than the best of | at its end, median | each seed | "
        "at any epoch, median | each seed |",
        "|---|---|---|---|---|",
    ]
    for name, runs in curves.items():
        if name == ours:
            continue
        cells = []
        for on_the_way in (False, True):
            found = ratios(curves[ours], runs, on_the_way)
            cells += [_times(median_ratio(found)), ", ".join(map(_times, found))]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def median_ratio(found: Sequence[float | None]) -> float | None:
    """The median, where never counts as the least; of two in the middle the lesser."""
    return statistics.median_low([ratio or 0.0 for ratio in found]) or None


def _times(ratio: float | None) -> str:
    return NEVER if ratio is None else f"{ratio:.1f} times"


def _seconds(seconds: float | None) -> str:
    return NEVER if seconds is None else f"{seconds:,.0f}"


def _rates(runs: Sequence[Curve]) -> str:
    """The median rate of each stage."""
    stages = dict.fromkeys(stage for run in runs for stage in run.images_per_second)
    told = []
    for stage in stages:
        rates = [r.images_per_second[stage] for r in runs if stage in r.images_per_second]
        told.append(f"{stage} {statistics.median(rates):,.0f}")
    return "; ".join(told)
