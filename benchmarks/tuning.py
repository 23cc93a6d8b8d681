"""What a search among fine-tuning settings is worth: against the default, and against chance.

    python benchmarks/tuning.py FLOWERS --work FOLDER --trunk TRUNK.npz

FLOWERS holds a subfolder of photographs for each class, TRUNK ImageNet's convolutions.
`recipes/tune_flowers.py` searches twice for the same minutes, once with a Gaussian process and once
at random, on four fifths of the photographs, each with an empty KERAS_HOME of its own. Then
`recipes/finetune_flowers.py` is trained with the default and with what each search found, five
times with other seeds, and measured on the fifth that no search has looked at: the same photographs
for all. Where a search has kept the default, the best of its other settings is trained instead.

The tables give each search's trials; the accuracies; and by how much each search's settings beat
the default's with the same seed, and the first search the second: the mean of five differences with
its 95% interval by Student's t, which covers what seeds change, and a paired bootstrap over the
photographs, each one's five answers averaged, which covers what other photographs would. Neither
covers what another search, with another seed, would have found.
"""

from __future__ import annotations

import argparse
import csv
import json
from hashlib import sha256
from pathlib import Path

import numpy as np
from scipy import stats

from recipe_runs import RECIPES, run_recipe, run_script

SEARCHES = ("bayesian", "random")
SEEDS = 5
#: choices that a search which runs the net in every trial pays for each time
OF_THE_TRUNK = ("views", "image_size", "cut")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FLOWERS")
    parser.add_argument("--work", type=Path, required=True, help="where searches and runs are kept")
    parser.add_argument("--trunk", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--searches", nargs="+", choices=SEARCHES, default=SEARCHES)
    options = parser.parse_args()
    common = {"data-dir": options.folder, "weights": options.trunk}
    print(
        "| search | trials | distinct | of other views, size or cut | best in its folds | default |"
    )
    print("|---|---|---|---|---|---|")
    settings: dict[str, Path | None] = {"default": None}
    for search in options.searches:
        output = options.work / search
        if not (output / "best.json").exists():
            given = {"search": search, "minutes": options.minutes, "workers": options.workers}
            home = {"KERAS_HOME": str(options.work / f"{search}.home")}
            run_script(
                RECIPES / "tune_flowers.py",
                {**common, **given, "output": output},
                output,
                environment=lambda home=home: home,
            )
        name, path = challenger(output)
        settings[f"{search}{name}"] = path
        print(about(output), flush=True)
    right = {
        name: np.array([answers(common, name, path, seed, options.work) for seed in range(SEEDS)])
        for name, path in settings.items()
    }
    print(
        "\n| settings | accuracy, each seed | mean | above the default, by seeds | by photographs |"
    )
    print("|---|---|---|---|---|")
    for name, found in right.items():
        print(row(name, found, right["default"]), flush=True)
    if len(options.searches) == 2:
        _, one, other = right
        print(row(f"{one}, above {other}", right[one], right[other]), flush=True)


def challenger(output: Path) -> tuple[str, Path]:
    """What a search set against the default, and how it is called beside the search's name."""
    found = json.loads((output / "best.json").read_text())
    if int(found["search"]["trial"]) != 0 or not found["search"]["others"]:
        return "", output / "best.json"
    other = output / "other.json"
    best = found["search"]["others"][0]
    other.write_text(json.dumps({"settings": best["settings"]}))
    return f", which kept the default: its trial {best['trial']}", other


def about(output: Path) -> str:
    """A row of the first table."""
    with (output / "trials.csv").open(newline="") as file:
        trials = list(csv.DictReader(file))
    search = json.loads((output / "best.json").read_text())["search"]
    chosen = list(trials[0])[list(trials[0]).index("head") :]
    scored = [trial for trial in trials if trial["accuracy"]]
    distinct = {tuple(trial[name] for name in chosen) for trial in scored}
    usual = next(trial for trial in trials if int(trial["trial"]) == 0)
    others = sum(any(trial[name] != usual[name] for name in OF_THE_TRUNK) for trial in scored)
    return (
        f"| {search['search']} | {len(scored)} of {len(trials)} | {len(distinct)} | {others} | "
        f"{search['accuracy']:.2%} | {search['default_accuracy'] or float('nan'):.2%} |"
    )


def answers(
    common: dict[str, Path], name: str, settings: Path | None, seed: int, work: Path
) -> np.ndarray:
    """Whether each photograph is labelled right, bool (photographs,), by key."""
    # Another result of the same search is another run.
    mark = "" if settings is None else f" {sha256(settings.read_bytes()).hexdigest()[:8]}"
    output = work / "runs" / f"{name}{mark}, seed {seed}"
    run_recipe("finetune_flowers", {**common, "settings": settings, "seed": seed}, output)
    with (output / "predictions.csv").open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["photograph"])
    return np.array([row["truth"] == row["prediction"] for row in rows])


def row(name: str, right: np.ndarray, default: np.ndarray) -> str:
    """Of arrays (seeds, photographs)."""
    each = ", ".join(f"{100 * share:.1f}" for share in right.mean(axis=1))
    told = f"| {name} | {each}% | {right.mean():.2%} of {right.shape[1]} |"
    if right is default:
        return f"{told} | |"
    by_seed = right.mean(axis=1) - default.mean(axis=1)
    seeds = stats.t.interval(0.95, len(by_seed) - 1, loc=by_seed.mean(), scale=stats.sem(by_seed))
    by_photograph = right.mean(axis=0) - default.mean(axis=0)
    photographs = stats.bootstrap(
        (by_photograph,), np.mean, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return (
        f"{told} {points(by_seed.mean())} ({points(seeds[0])} to {points(seeds[1])}) | "
        f"{points(photographs.low)} to {points(photographs.high)} |"
    )


def points(share: float) -> str:
    return f"{100 * share:+.2f}"


if __name__ == "__main__":
    main()
