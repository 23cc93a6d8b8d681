"""Runs of a recipe that a benchmark compares: made once, kept in folders, read again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
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
        output.mkdir(parents=True, exist_ok=True)
        given = [f"--{k}={v}" for k, v in options.items() if v is not None]
        places = [f"--output={output}", f"--export-dir={output / 'exported'}"]
        command = [sys.executable, str(RECIPES / f"{recipe}.py"), *given, *places]
        with (output / "log.txt").open("a") as log:
            subprocess.run(command, stdout=log, stderr=log, check=True)
    return json.loads(metrics.read_text())


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
