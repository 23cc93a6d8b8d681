"""How soon fine-tuning is as good as the stock recipe ever gets, with the same weights.

    python benchmarks/time_to_accuracy.py PHOTOGRAPHS --trunk TRUNK.npz --work FOLDER

PHOTOGRAPHS holds a subfolder of JPEG photographs for each class, TRUNK the convolutions of
torchvision's ImageNet net (`conv1/kernel` .. `conv5/bias`). The photographs are dealt into five
folds, class by class. Seed 0 holds back fold 0, seed 1 fold 1 and so on, so that seeds differ in
their photographs too; within a seed all contestants have the same to train on and are measured on
the same:

* stock Keras: a linear head with dropout on pool5 at 224 px, trained on stored features of centre
  views; then the whole net for ten epochs by `fit`, with random crops and flips, Nesterov's
  momentum .9 and a cosine from .002 (`stock_keras.py`);
* stock PyTorch: the same there, with a `DataLoader` (`stock_torch.py`); needs the extra
  `reference`;
* ours: `recipes/finetune_flowers.py`, or the `--recipe` given, as it is without further options
  (`watched_recipe.py`).

The clock starts with the process, so imports, reading and compiling count. Each epoch's weights are
kept and measured when all training is done: measuring costs nobody time. The stock recipes get the
end of the epoch that turns out best on the photographs they are measured on, the trained head alone
among them; ours gets the end of its training, with the weights that it has chosen by a tenth of its
training photographs. When ours would have been as good, had the held-back photographs stopped it
too, is told beside it. The seconds to 90% are those of the first epoch so good, for all.

Contestants run one after another, on the CPU, in the opposite order for every other seed. The
photographs have been read and the libraries imported once before. A finished run in FOLDER is not
made again, and one that was cut off is begun anew. `--figure` draws the curves, as SVG.
"""

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from accuracy_curves import Curve, outcomes_table, ratios_table, read_curve
from contestant import CURVE, starting
from recipe_runs import link, run_script
from transfer import FOLDS, fold_links, photographs

HERE = Path(__file__).parent
CORES = len(os.sched_getaffinity(0))
TARGET = 0.9
SCRIPTS = {
    "stock Keras": "stock_keras.py",
    "stock PyTorch": "stock_torch.py",
    "ours": "watched_recipe.py",
}
OURS = ("finetune_flowers", "finetune_cars")
COLOURS = {"stock Keras": "#1f6f8b", "stock PyTorch": "#7a5195", "ours": "#c05a2e"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="PHOTOGRAPHS")
    parser.add_argument("--trunk", type=Path, required=True, help="ImageNet's convolutions")
    parser.add_argument("--work", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--figure", type=Path, help="accuracy over seconds, as SVG")
    parser.add_argument("--seeds", nargs="+", type=int, choices=range(FOLDS), default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=list(SCRIPTS))
    parser.add_argument("--recipe", choices=OURS, default=OURS[0], help="ours")
    parser.add_argument("--epochs", type=int, default=10, help="of the stock recipes' whole net")
    options = parser.parse_args()
    names = [name for name in SCRIPTS if name in options.only]
    if "stock PyTorch" in names and importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed: its row is left out (pip install '.[reference]').")
        names.remove("stock PyTorch")

    images = photographs(options.folder)
    options.work /= options.folder.resolve().name  # so that several sets can share a --work
    for seed in options.seeds:
        link(fold_links(images, seed), options.work / "folds" / str(seed))
    print(heading(images, options.seeds, names), flush=True)
    warm([path for _, path, _ in images] + [options.trunk], names)
    curves: dict[tuple[str, int], Curve] = {}
    for number, seed in enumerate(options.seeds):
        for name in reversed(names) if number % 2 else names:
            curve = curves[name, seed] = measured(name, seed, options)
            end = curve.outcome
            print(f"{name}, seed {seed}: {end.accuracy:.1%} in {end.seconds:.0f} s", flush=True)

    rows = {name: [curves[name, seed] for seed in options.seeds] for name in names}
    print(f"\n{outcomes_table(rows, TARGET)}")
    if "ours" in rows:
        evaluated = statistics.median(curve.evaluated or 0.0 for curve in rows["ours"])
        print(f"\nOurs up to its own figure: {evaluated:,.0f} s, median.")
        if len(rows) > 1:
            print(f"\n{ratios_table(rows, 'ours')}")
    if options.figure is not None:
        draw(rows, options.figure)


def heading(images: list[tuple[str, Path, int]], seeds: list[int], names: list[str]) -> str:
    """On what machine, with which libraries, and on which photographs."""
    libraries = ["tensorflow", "keras", *(["torch"] if "stock PyTorch" in names else [])]
    held = [sum(own == seed for _, _, own in images) for seed in seeds]
    return (
        f"{CORES} cores, load {os.getloadavg()[0]:.1f} before the first run; "
        f"{', '.join(f'{name} {version(name)}' for name in libraries)}. {len(images):,} "
        f"photographs of {len({label for label, _, _ in images})} classes; held back by the seeds "
        f"{', '.join(map(str, seeds))}: {', '.join(map(str, held))}."
    )


def warm(paths: list[Path], names: list[str]) -> None:
    """Reads what all contestants read, so that the first finds it in the file cache too."""
    for path in paths:
        path.read_bytes()
    libraries = ["alexnet_keras", *(["torch"] if "stock PyTorch" in names else [])]
    command = [sys.executable, "-c", f"import {', '.join(libraries)}"]
    subprocess.run(command, stderr=subprocess.DEVNULL, check=True)


def measured(name: str, seed: int, options: argparse.Namespace) -> Curve:
    """The curve of a contestant's run, which is made if it is not there."""
    output = options.work / "runs" / f"{name}, seed {seed}"
    trunk, fold = options.trunk.resolve(), options.work / "folds" / str(seed)
    given = {"data-dir": fold / "train", "val-dir": fold / "val", "seed": seed, "output": output}
    if name == "ours":
        given |= {"weights": trunk, "export-dir": output / "exported"}
        given |= {"recipe": options.recipe}
    else:
        given |= {"trunk": trunk, "epochs": options.epochs}
    asked = {key: str(value) for key, value in given.items()}
    asked_file, home = output / "asked.json", output / "keras_home"
    if (output / CURVE).exists():
        if json.loads(asked_file.read_text()) != asked:
            sys.exit(f"{output} holds a run with other options; remove it or give another --work.")
        return read_curve(output / CURVE)
    if output.exists():
        shutil.rmtree(output)
    output.mkdir(parents=True)
    asked_file.write_text(json.dumps(asked, indent=1) + "\n")

    def environment() -> dict[str, str]:
        # A Keras home of its own: outputs of frozen layers stored there by an earlier run would
        # be a present.
        quiet = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        return {"KERAS_HOME": str(home.resolve()), **quiet, **starting()}

    try:
        run_script(HERE / SCRIPTS[name], given, output, environment)
    except subprocess.CalledProcessError:
        sys.exit(f"{name}, seed {seed} failed; {output / 'log.txt'} says why.")
    shutil.rmtree(home, ignore_errors=True)
    return read_curve(output / CURVE)


def draw(rows: dict[str, list[Curve]], path: Path) -> None:
    """Accuracy over seconds, a line for each run; a dot is what it counts with."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, curves in rows.items():
        for number, curve in enumerate(curves):
            end = curve.outcome
            line = [*curve.points, *([curve.chosen] if curve.chosen else [])]
            seconds, shares = zip(*line, strict=True)
            percent = [100 * share for share in shares]
            label = None if number else name
            axes.plot(seconds, percent, color=COLOURS[name], alpha=0.7, lw=1.2, label=label)
            axes.plot(end.seconds, 100 * end.accuracy, "o", color=COLOURS[name], ms=5)
    axes.axhline(100 * TARGET, color="grey", lw=0.8, ls=":")
    axes.set(xscale="log", xlabel=f"seconds on {CORES} cores", ylabel="accuracy, %")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter("")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path)


if __name__ == "__main__":
    main()
