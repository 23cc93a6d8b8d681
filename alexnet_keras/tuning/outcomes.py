"""What each trial came to, as whoever ran it wrote it down.

keras-tuner keeps a trial's values and score, and its workers send no reason of a failure to the
chief: everything else lies in `outcome.json` beside its `trial.json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alexnet_keras.whole_files import read_json, write_json

#: what became of a trial: it ran to its end; it was stopped when the time was over, with what it
#: had; it failed
COMPLETED, STOPPED, FAILED = "completed", "stopped", "failed"
#: the trial that has the default settings
DEFAULT_TRIAL = 0
#: its file in the folder of a trial
OUTCOME = "outcome.json"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One trial.

    Attributes:
        trial: its name, a number.
        settings: the choices that were active, by name; without convolutions to train where the
            trial did not go on to them.
        status: `COMPLETED`, `STOPPED` or `FAILED`.
        accuracy, loss: as in `Scores`; `None` where it failed, or had learned nothing when it was
            stopped.
        frozen_accuracy: before convolutions were trained, where they were to be.
        went_on: whether they were; `None` where they were not to be.
        thawing: seconds in which convolutions were trained, or it was found that they would take
            too long.
        too_slow: where they would, what was asked, `unfreeze` convolutions at `image_size`, and the
            `seconds` allowed; `None` elsewhere.
        reason: why it failed, or what cut it short.
        began, ended: seconds of the search's time.
        storing: seconds of these in which frozen layers were run, for this trial and others.
        worker: the process that ran it, as keras-tuner calls it.
        epochs: share of the epochs that it was given, in a Hyperband search.
    """

    trial: str
    settings: dict[str, Any]
    status: str
    accuracy: float | None = None
    loss: float | None = None
    frozen_accuracy: float | None = None
    went_on: bool | None = None
    thawing: float = 0.0
    too_slow: dict[str, float] | None = None
    reason: str | None = None
    began: float = 0.0
    ended: float = 0.0
    storing: float = 0.0
    worker: str = ""
    epochs: float = 1.0

    @property
    def rank(self) -> tuple[float, float]:
        """Larger is better; trials without a score are the worst.

        Photographs are few, so that many trials label as many right: then the loss tells.
        """
        if self.accuracy is None:
            return -1.0, 0.0
        return self.accuracy, -(self.loss or 0.0)

    def write(self, folder: Path) -> None:
        """Into the trial's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / OUTCOME, asdict(self))


def read_outcome(folder: Path) -> Outcome | None:
    """Of the trial whose folder it is; `None` while it runs."""
    found = read_json(folder / OUTCOME)
    return Outcome(**found) if found else None


def read_outcomes(project: Path) -> list[Outcome]:
    """Of all trials of a search that have ended, in the order in which they did."""
    found = (read_outcome(folder) for folder in sorted(project.glob("trial_*")))
    return sorted((one for one in found if one is not None), key=lambda one: one.ended)


def count_processes(outcomes: Sequence[Outcome]) -> int:
    """How many processes ran these trials; at least one."""
    return len({one.worker for one in outcomes}) or 1
