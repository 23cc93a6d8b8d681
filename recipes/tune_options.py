"""The options of `tune_flowers.py`; `command_line.py` has what recipes share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from command_line import (
    COMMON_OPTIONS,
    FINE_TUNE_OPTIONS,
    check_data_options,
    crop_option,
    dataset_option,
    head_epochs_option,
    recipe,
)

# Written out, because the table stands beside TensorFlow; a test compares them.
SEARCHES = ("bayesian", "random", "hyperband")


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """The options of the recipe that searches."""

    recipe: str
    dataset: str
    data_dir: Path | None
    val_dir: Path | None
    weights: str
    variant: str | None
    crop: str
    mirror: bool
    search: str
    minutes: float
    trials: int | None
    workers: int
    strategy: str
    precision: str
    batch_size: int
    head_epochs: int
    seed: int
    output: Path
    allow_bad: bool

    @property
    def defaults(self) -> dict[str, Any]:
        """What `transfer.Choices` is made of."""
        return {
            "crop": self.crop,
            "mirror": self.mirror,
            "batch_size": self.batch_size,
            "head_epochs": self.head_epochs,
        }


_OPTIONS = [
    click.option(
        "--search",
        type=click.Choice(SEARCHES),
        default="bayesian",
        help="How settings are proposed: by a Gaussian process of the trials so far, at random, or "
        "many for few epochs and the best of them for more.",
    ),
    click.option(
        "--minutes",
        type=click.FloatRange(0, min_open=True),
        default=20.0,
        help="Time for the search, over all the times that it is started; a trial that runs at its "
        "end is stopped and counted.",
    ),
    click.option(
        "--trials",
        type=click.IntRange(1),
        help="End after so many trials too.  [default: no limit]",
    ),
    click.option(
        "--workers",
        type=click.IntRange(0),
        default=0,
        help="Processes that run trials at the same time on this machine; 0 runs them in this one. "
        "On several machines, set keras-tuner's environment variables instead.",
    ),
    click.option(
        "--batch-size",
        type=click.IntRange(1),
        default=64,
        help="Photographs a step, over all devices together.",
    ),
    click.option(
        "--output",
        type=click.Path(path_type=Path),
        default=Path("runs/tune_flowers/search"),
        help="Folder for everything that the search leaves; given again, it goes on.",
    ),
]


def tuning_recipe(name: str) -> Callable[[Callable[[TuneOptions], int | None]], click.Command]:
    """Turns `main(options)` into the command of the recipe `name`, which searches."""

    def options(**values: Any) -> TuneOptions:
        check_data_options(values)
        if values["weights"] == "none":
            raise click.UsageError(
                "A search among fine-tuning settings needs pretrained weights; leave out "
                "--weights none."
            )
        return TuneOptions(recipe=name, **values)

    shared = ("data_dir", "val_dir", "weights", "variant", "strategy", "seed", "allow_bad")
    return recipe(
        name,
        options,
        [
            dataset_option("auto"),
            *(COMMON_OPTIONS[option] for option in shared),
            crop_option("centre", " The default; the search tries both."),
            *(FINE_TUNE_OPTIONS[option] for option in ("mirror", "precision")),
            head_epochs_option(20, " The default; the search tries half and twice as many."),
            *_OPTIONS,
        ],
    )
