"""A small but real run of `train_imagenet.py`, ways of killing it, and what it ends with."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

#: everything that has a state or draws numbers is on
OPTIONS = {
    "--image-size": 64,
    "--variant": "alexnet",
    "--width": 0.3,
    "--epochs": 6,
    "--batch-size": 16,
    "--watch-share": 0.2,
    "--mixup": 0.4,
    "--cutmix": 1,
    "--label-smoothing": 0.1,
    "--ema": 0.9,
    "--clip-norm": 5,
    "--initialization": "he",
    "--learning-rate": 0.02,
    "--checkpoint-seconds": 0.3,
    "--crops": 1,
    "--seed": 5,
}


def photographs(folder: Path) -> Path:
    """Two classes told apart by colour, 40 photographs each, one of them torn."""
    rng = np.random.default_rng(0)
    for channel, name in enumerate(("red", "green")):
        (folder / name).mkdir(parents=True)
        for i in range(40):
            pixels = rng.integers(0, 120, (70 + i, 90, 3))
            pixels[..., channel] += 110
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.jpg")
    torn = folder / "red" / "3.jpg"
    torn.write_bytes(torn.read_bytes()[:1000])
    return folder


def start(
    repository: Path, photos: Path, output: Path, changed: Mapping[str, Any] | None = None
) -> subprocess.Popen:
    """Starts the run, or goes on with it; its output goes to `<output>.log`."""
    command = [sys.executable, str(repository / "recipes" / "train_imagenet.py")]
    command += ["--data-dir", str(photos), "--output", str(output)]
    command += ["--export-dir", str(output / "export")]
    for name, value in {**OPTIONS, **(changed or {})}.items():
        command += [name, str(value)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    with open(f"{output}.log", "a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=output.parent)


def kill_at_random(run: subprocess.Popen, within: float, draw: random.Random) -> bool:
    """SIGKILLs a run after a random part of `within` seconds; whether it still ran."""
    deadline = time.monotonic() + draw.uniform(0, within)
    while run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return _kill(run)


def kill_while_writing(run: subprocess.Popen, output: Path, draw: random.Random) -> bool:
    """SIGKILLs a run while it writes one of its first checkpoints; whether it came to that."""
    folder, left, seen = output / "checkpoints", draw.randint(1, 4), None
    while run.poll() is None:
        parts = sorted(folder.glob(".step-*.part")) if folder.is_dir() else []
        if parts and parts[0].name != seen:
            seen, left = parts[0].name, left - 1
            if left == 0:
                # Somewhere between its first byte and its new name.
                time.sleep(draw.uniform(0, 0.05))
                return _kill(run)
        time.sleep(0.0005)
    return False


def wait_for_weights(run: subprocess.Popen, output: Path, already: int) -> int | None:
    """Waits until a run has its final weights, and ends it then: a report takes as long again.

    Args:
        already: bytes that were in its log when it was started.

    Returns:
        Its exit code if it ended by itself, else None.
    """
    log = Path(f"{output}.log")
    while run.poll() is None:
        if b"\n== report" in log.read_bytes()[already:]:
            _kill(run)
            return None
        time.sleep(0.05)
    return run.returncode


def final_state(output: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All arrays of the last checkpoint, and its state without what a clock says.

    How far the last measurement was when it was written is a matter of time, too.
    """
    newest = max((output / "checkpoints").glob("step-*.npz"))
    with np.load(newest) as members:
        names = [n for n in members.files if not n.startswith("measured/") and ".json" not in n]
        arrays = {name: members[name] for name in names}
    with zipfile.ZipFile(newest) as archive:
        state = json.loads(archive.read("checkpoint.json"))["state"]
    for row in state["rows"]:
        del row["seconds"]
    clocks = ("seconds", "seconds_saving", "epoch_seconds", "measured")
    return arrays, {name: value for name, value in state.items() if name not in clocks}


def differences(
    one: tuple[dict[str, np.ndarray], dict[str, Any]],
    other: tuple[dict[str, np.ndarray], dict[str, Any]],
) -> list[str]:
    """What is not the same, bit for bit, in two final states."""
    names = sorted(set(one[0]) | set(other[0]))
    unequal = [
        name
        for name in names
        if name not in one[0]
        or name not in other[0]
        or one[0][name].tobytes() != other[0][name].tobytes()
    ]
    # As text, in which NaN equals NaN.
    return unequal + [
        key for key in one[1] if json.dumps(one[1][key]) != json.dumps(other[1].get(key))
    ]


def _kill(run: subprocess.Popen) -> bool:
    alive = run.poll() is None
    if alive:
        run.send_signal(signal.SIGKILL)
    run.wait()
    return alive
