"""The curves and tables of docs/results/tiny_imagenet, from finished runs of train_imagenet.py.

    python benchmarks/tiny_imagenet_results.py --modern RUN --alexnet RUN --curves FILE.svg

Prints, as tables for the page: top-1 and top-5 with Wilson's 95% intervals, the classes that are
known best and worst, and the pairs that are most often taken for one another. Nothing is measured
again: all of it comes from `metrics.json`, `history.csv` and `predictions.csv` of the runs.
"""

import argparse
import csv
import json
from collections import Counter
from pathlib import Path

from matplotlib.figure import Figure

from alexnet_keras.evaluation import wilson_interval

WORST = 15


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--modern", type=Path, required=True)
    parser.add_argument("--alexnet", type=Path, required=True)
    parser.add_argument("--curves", type=Path, required=True)
    options = parser.parse_args()
    runs = {"modern": options.modern, "alexnet": options.alexnet}
    print(accuracies(runs))
    for name, folder in runs.items():
        print(f"\n### {name}\n")
        print(classes(answers(folder)))
        print(confusions(answers(folder)))
    draw({name: history(folder) for name, folder in runs.items()}, options.curves)


def accuracies(runs: dict[str, Path]) -> str:
    lines = ["| net | top-1 | top-5 | ten crops | epochs | minutes |", "|---|---|---|---|---|---|"]
    for name, folder in runs.items():
        metrics = json.loads((folder / "metrics.json").read_text())
        count = metrics["val_images"]
        shares = [metrics["val_top1"], metrics["val_top5"]]
        shown = [f"{share:.1%} ({interval(share, count)})" for share in shares]
        ten = f"{metrics['val_top1_ten_crop']:.1%} / {metrics['val_top5_ten_crop']:.1%}"
        minutes = metrics["seconds_training"] / 60
        lines.append(
            f"| `{name}` | {' | '.join(shown)} | {ten} | {metrics['epochs']} | {minutes:.0f} |"
        )
    return "\n".join(lines)


def interval(share: float, count: int) -> str:
    low, high = wilson_interval(round(share * count), count)
    return f"{low:.1%} to {high:.1%}"


def answers(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def history(folder: Path) -> list[dict[str, float]]:
    with (folder / "history.csv").open(newline="") as file:
        return [
            {key: float(value) for key, value in row.items() if key != "phase"}
            for row in csv.DictReader(file)
        ]


def classes(rows: list[dict[str, str]]) -> str:
    """The classes whose images are labelled right most and least often."""
    seen = Counter(row["truth"] for row in rows)
    right = Counter(row["truth"] for row in rows if row["truth"] == row["prediction"])
    order = sorted(seen, key=lambda name: (-right[name] / seen[name], name))
    lines = ["| known best | top-1 | known worst | top-1 |", "|---|---|---|---|"]
    for best, worst in zip(order[:10], order[::-1][:10], strict=True):
        cells = [f"{name} | {right[name] / seen[name]:.0%}" for name in (best, worst)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def confusions(rows: list[dict[str, str]]) -> str:
    """The worst classes, and what their images are taken for."""
    seen = Counter(row["truth"] for row in rows)
    pairs = Counter(
        (row["truth"], row["prediction"]) for row in rows if row["truth"] != row["prediction"]
    )
    lines = ["| class | taken for | of its images | and the reverse |", "|---|---|---|---|"]
    for (truth, taken), count in pairs.most_common(WORST):
        reverse = pairs[taken, truth]
        lines.append(f"| {truth} | {taken} | {count} of {seen[truth]} | {reverse} |")
    return "\n".join(lines)


def draw(runs: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Top-1 of the images that are trained on and of those that are watched, over minutes."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for (name, rows), colour in zip(runs.items(), ("#1f6f8b", "#c05a2e"), strict=True):
        minutes, total = [], 0.0
        for row in rows:
            total += row["seconds"] / 60
            minutes.append(total)
        watched = [100 * row["stop_accuracy"] for row in rows]
        training = [100 * row["accuracy"] for row in rows]
        axes.plot(minutes, watched, color=colour, label=f"{name}, watched")
        axes.plot(minutes, training, ":", color=colour, label=f"{name}, training views")
    axes.set(xlabel="minutes on 2 cores", ylabel="top-1, %", ylim=(0, None), xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()
