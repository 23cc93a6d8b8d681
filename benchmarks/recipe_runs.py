"""Runs of a recipe that a benchmark compares: made once, kept in folders, read again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

RECIPES = Path(__file__).parents[1] / "recipes"


def run_recipe(recipe: str, options: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """The `metrics.json` of a recipe's run in `output`, which is made if it is not there.

    Args:
        recipe: its name, such as `finetune_flowers`.
        options: by name without dashes; None leaves an option out.

    Raises:
        subprocess.CalledProcessError: the recipe failed; `output` has its log.txt.
    """
    metrics = output / "metrics.json"
    if not metrics.exists():
        places = {"output": output, "export-dir": output / "exported"}
        run_script(RECIPES / f"{recipe}.py", {**options, **places}, output)
    return json.loads(metrics.read_text())


def run_script(
    script: Path,
    options: Mapping[str, Any],
    output: Path,
    environment: Callable[[], Mapping[str, str]] = dict,
) -> None:
    """Runs a script in a process of its own; what it says goes to log.txt in `output`.

    Args:
        options: by name without dashes; None leaves an option out.
        environment: called right before the process is started, for variables to give it.

    Raises:
        subprocess.CalledProcessError: the script failed.
    """
    output.mkdir(parents=True, exist_ok=True)
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    command = [sys.executable, str(script), *given]
    with (output / "log.txt").open("a") as log:
        variables = {**os.environ, **environment()}
        subprocess.run(command, env=variables, stdout=log, stderr=log, check=True)


def link(images: Mapping[str, Path], folder: Path) -> None:
    """Makes `folder` of links: a path below it for each image; nothing if it is there."""
    if folder.exists():
        return
    beside = folder.with_name(f"{folder.name}.part")
    for name, image in images.items():
        place = beside / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.is_symlink():
            place.symlink_to(image.resolve())
    beside.rename(folder)
