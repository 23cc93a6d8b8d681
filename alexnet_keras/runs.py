"""The folder that a run leaves: what was asked, what came out, how long it took."""

from __future__ import annotations

import csv
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np

from alexnet_keras.data import Examples, Splits
from alexnet_keras.errors import UserError, is_full_disk
from alexnet_keras.evaluation import Answers
from alexnet_keras.whole_files import write_json, written_beside

PACKAGES = ("alexnet-keras", "tensorflow", "keras", "tensorflow-datasets", "numpy", "pillow")
#: what marks a folder as holding a finished run
RESULTS = ("metrics.json", "model.keras")


class Run:
    """One run of a recipe, and the folder it writes to.

    Attributes:
        folder: where everything goes.
        notes: sentences that the user should see, on the console and in the report.
        seconds: duration of each phase that has ended.
        verbose: Keras's verbosity: a moving bar on a terminal, a line an epoch elsewhere.
        writes: whether this process is the one that writes and speaks.
    """

    def __init__(
        self,
        recipe: str,
        folder: Path | None,
        results: tuple[str, ...] = RESULTS,
        writes: bool = True,
    ) -> None:
        """Makes the folder, `runs/<recipe>/<time>` by default.

        Args:
            results: files that mark a finished run, which is not written over.
            writes: False where another process of the same run writes and speaks for all.

        Raises:
            UserError: the folder cannot be written to, or holds the results of another run.
        """
        self.recipe = recipe
        self.folder = folder or Path("runs", recipe, datetime.now().strftime("%Y%m%d-%H%M%S"))
        self.notes: list[str] = []
        self.seconds: dict[str, float] = {}
        self.verbose = 1 if sys.stdout.isatty() else 2
        self.writes = writes
        self._began = time.monotonic()
        if not writes:
            return
        check_writable(self.folder, "--output")
        if done := [name for name in results if (self.folder / name).exists()]:
            raise UserError(
                f"The output folder {self.folder} holds the {done[0]} of an earlier run, which "
                "would be lost; give another folder with --output."
            )

    def note(self, sentence: str) -> None:
        """Tells the user something now and in the report."""
        if self.writes:
            self.notes.append(sentence)
            print(sentence, flush=True)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times a part of the run, and says on the console which one it is."""
        if self.writes:
            print(f"\n== {name}", flush=True)
        began = time.monotonic()
        try:
            yield
        except Exception as error:
            if (sentence := full_disk(error, self.folder)) is not None:
                raise sentence from error
            raise
        finally:
            seconds = self.seconds.get(name, 0.0) + time.monotonic() - began
            self.seconds[name] = round(seconds, 2)

    def went_before(self, phase: str, seconds: float) -> None:
        """Counts what an interrupted run has already spent on a phase that it goes on with."""
        self._began -= seconds
        self.seconds[phase] = seconds

    @property
    def seconds_total(self) -> float:
        """Seconds since the run began."""
        return round(time.monotonic() - self._began, 2)

    def write_config(self, options: Any, **resolved: Any) -> dict[str, Any]:
        """Writes `config.json`, all that is needed to do the same again, and returns it.

        Args:
            options: the recipe's options, a dataclass.
            resolved: what options became that named no value, such as the variant.
        """
        config = {
            "recipe": self.recipe,
            "options": {**asdict(options), "output": self.folder, **resolved},
            "packages": {name: _version(name) for name in PACKAGES},
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
            "git_revision": git_revision(Path(__file__).parent),
        }
        return self.write_json("config.json", config)

    def write_metrics(
        self, splits: Splits, images_skipped: int, result: Answers, weights: str
    ) -> dict[str, Any]:
        """Writes `metrics.json` and returns it; accuracies are shares, 0..1."""
        metrics = self.metrics(splits.train, splits.stopping, images_skipped, result, weights)
        return self.write_json("metrics.json", metrics)

    def metrics(
        self,
        train: Examples,
        watched: Examples | None,
        images_skipped: int,
        result: Answers,
        weights: str,
    ) -> dict[str, Any]:
        """The contents of `metrics.json`; accuracies are shares, 0..1.

        Args:
            train, watched: photographs that were trained on, and that were looked at meanwhile.
            images_skipped: photographs that cannot be read.
            result: what was answered to photographs that no choice has seen.
            weights: where the net's weights came from.
        """
        names = train.class_names
        watched_images = 0 if watched is None else len(watched)
        return {
            "dataset": train.name,
            "weights": weights,
            "train_images": len(train) + watched_images,
            "early_stopping_images": watched_images,
            "val_images": len(result),
            "images_skipped": images_skipped,
            "classes": len(names),
            "class_names": names,
            "val_top1": result.top(1),
            **({"val_top5": result.top(5)} if len(names) > 5 else {}),
            "seconds_total": self.seconds_total,
            "seconds": self.seconds,
        }

    def write_predictions(self, examples: Examples, result: Answers) -> None:
        """Writes `predictions.csv`, a row for each example that `result` answers, in its order.

        Columns: the photograph's key, its true class, the predicted one with its probability
        (0..1), and the place of the true class among all, from 1.
        """
        names = np.array(examples.class_names, object)
        columns = (names[result.labels], names[result.predictions])
        with (
            written_beside(self.folder / "predictions.csv") as part,
            part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(("photograph", "truth", "prediction", "confidence", "rank"))
            for key, truth, prediction, confidence, rank in zip(
                examples.keys, *columns, result.confidence, result.ranks, strict=True
            ):
                writer.writerow((key, truth, prediction, f"{confidence:.4f}", rank))

    def save_model(self, model: keras.Model) -> None:
        """Writes `model.keras`, whole or not at all."""
        beside = self.folder / ".model.part.keras"
        try:
            model.save(beside)
            beside.replace(self.folder / "model.keras")
        finally:
            beside.unlink(missing_ok=True)

    def finish(self, metrics: dict[str, Any], exported: Path) -> None:
        """Brings the times in `metrics.json` up to date; says what came out and where it lies."""
        times = {"seconds_total": self.seconds_total, "seconds": self.seconds}
        self.write_json("metrics.json", {**metrics, **times})
        top5 = f" ({metrics['val_top5']:.1%} in five)" if "val_top5" in metrics else ""
        print(
            f"\n{metrics['val_top1']:.1%} of {metrics['val_images']} photographs of "
            f"{metrics['dataset']} that no choice has seen are labelled right{top5}, after "
            f"{self.seconds_total:.0f} s.\n"
            f"  report  {self.folder / 'report.html'}\n"
            f"  model   {self.folder / 'model.keras'}\n"
            f"  export  {exported}"
        )

    def write_json(self, name: str, content: dict[str, Any]) -> dict[str, Any]:
        """Writes a JSON file of the run, whole or not at all; returns it as it reads back."""
        if self.writes:
            write_json(self.folder / name, content, default=_plain)
        return json.loads(json.dumps(content, default=_plain))


def is_finished(folder: Path, **options: Any) -> bool:
    """Whether `folder` holds a finished run with these options, as `Run.write_config` wrote them.

    Where a run is started again whatever happened to it, this tells that nothing is left to do.
    """
    try:
        json.loads((folder / "metrics.json").read_text())
        written = json.loads((folder / "config.json").read_text())["options"]
    except (OSError, ValueError, KeyError):
        return False
    return json.loads(json.dumps(options, default=_plain)) == {
        name: written.get(name) for name in options
    }


def load_model(path: Path) -> keras.Model:
    """The model of a `.keras` file, such as a run's `model.keras`.

    Raises:
        UserError: there is no such file, or it holds no model that can be loaded.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}; give the model.keras of a finished run.")
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever it stumbles over
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{path} is no Keras model that can be loaded ({said[0]}); give the model.keras of a "
            "finished run."
        ) from error


@dataclass(frozen=True)
class FinishedRun:
    """What the folder of a run says of it; empty where a file is missing.

    Attributes:
        options: as resolved, from `config.json`.
        recipe: its name, from there too.
        metrics: the contents of `metrics.json`.
    """

    options: dict[str, Any]
    recipe: str | None
    metrics: dict[str, Any]


def read_run(folder: Path) -> FinishedRun:
    """Reads the folder of a finished run.

    Raises:
        UserError: one of its files is damaged.
    """

    def read(name: str) -> dict[str, Any]:
        file = folder / name
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read ({error}); restore or remove it.") from error
        if not isinstance(found, dict):
            raise UserError(f"{file} is not what a run writes; restore or remove it.")
        return found

    config = read("config.json")
    return FinishedRun(config.get("options", {}), config.get("recipe"), read("metrics.json"))


def check_writable(folder: Path, option: str) -> None:
    """Makes `folder` if need be and tries to write into it.

    Raises:
        UserError: that is not possible; `option` is named as the way to give another.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"The folder {folder} cannot be written to ({error.strerror}); give another one with "
            f"{option}."
        ) from error


def full_disk(error: BaseException, folder: Path) -> UserError | None:
    """The sentence for a full disk, or None where `error` is something else."""
    if not is_full_disk(error):
        return None
    return UserError(
        f"The disk is full: writing to {folder} failed. What was already written is still there; "
        "make space, or give a folder on another disk."
    )


def git_revision(folder: Path) -> str | None:
    """The commit of the checkout that tracks `folder`, marked where files differ from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=False
        ).stdout.strip()

    try:
        # An installed copy may lie inside somebody else's checkout, ignored.
        if not git("ls-files", "."):
            return None
        return git("describe", "--always", "--dirty", "--abbrev=40") or None
    except (OSError, subprocess.TimeoutExpired):
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"Cannot write {type(value).__name__} as JSON.")
