"""What whoever serves a model should know of it: a page beside it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from alexnet_keras.errors import UserError
from alexnet_keras.evaluation import wilson_interval
from alexnet_keras.serving.net import ServedNet
from alexnet_keras.serving.reading import Limits
from alexnet_keras.weights import PUBLISHED, Preprocessing, published_keys

CARD = "README.md"

_UNKNOWN = "not recorded"
#: what the card says of a run, as `metrics.json` calls it
_MEASURED = {"val_images", "val_top1", "weights", "train_images", "dataset", "classes"}


@dataclass(frozen=True)
class ModelCard:
    """What is known of a model besides its graph, in sentences.

    Attributes:
        data: what it was trained on.
        accuracy: how good it is, on what.
        weights: where its weights began.
        licence: of those weights.
        intended_use: what it is for, and what not.
    """

    data: str = _UNKNOWN
    accuracy: str = _UNKNOWN
    weights: str = _UNKNOWN
    licence: str = _UNKNOWN
    intended_use: str = (
        "telling these classes apart in photographs like those it was trained on; a photograph of "
        "something else gets the label of one of them all the same. Not for decisions about people."
    )

    @classmethod
    def of_run(cls, metrics: Mapping[str, Any], variant: str | None = None) -> ModelCard:
        """The card of a run.

        Args:
            metrics: the contents of its `metrics.json`; nothing is known of a run without.
            variant: of the net.
        """
        if not metrics.keys() >= _MEASURED:
            return cls()
        images, right = metrics["val_images"], metrics["val_top1"]
        low, high = wilson_interval(right * images, images)
        weights = str(metrics["weights"])
        return cls(
            data=(
                f"{metrics['train_images']} photographs of {metrics['dataset']}, "
                f"{metrics['classes']} classes"
            ),
            accuracy=(
                f"{right:.1%} (95%: {low:.1%} to {high:.1%}) of {images} photographs of "
                f"{metrics['dataset']} that neither training nor any choice of the run has seen"
            ),
            weights="random numbers" if _random(weights) else weights,
            licence=licence(weights, variant),
        )


def licence(weights: str, variant: str | None = None) -> str:
    """The terms of pretrained weights, by name or path, as far as they are known."""
    if _random(weights):
        return "there were none; what the training photographs' terms ask for"
    if weights == "starter":
        return (
            "alexnet-keras (MIT); trained on Tiny ImageNet, whose images ImageNet gives out for "
            "non-commercial research and education"
        )
    try:
        keys = published_keys(weights, variant)
    except UserError:
        keys = ()
    name = Path(weights).name
    published = [PUBLISHED[key] for key in keys] or [
        one for one in PUBLISHED.values() if one.file_name == name
    ]
    if published:
        terms = " or ".join(dict.fromkeys(one.licence for one in published))
        return f"{terms} ({published[0].source}); ImageNet's own terms may bind them too"
    return f"whatever the file {name} came with; this package does not know it"


def _random(weights: str) -> bool:
    return weights.partition(" ")[0] == "none"  # as the recipes record it, perhaps with a remark


def written_card(
    card: ModelCard,
    name: str,
    labels: Sequence[str],
    net: ServedNet,
    mirrored: bool,
    top: int,
    limits: Limits,
) -> str:
    """The page, in Markdown."""
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("tensorflow", "keras"))
    shown = ", ".join(_cell(label) for label in labels[:40]) + (
        f" and {len(labels) - 40} more" if len(labels) > 40 else ""
    )
    looks = "the mean of the photograph's and its mirror's" if mirrored else "the photograph's"
    return f"""# {name}

AlexNet, {net.parameters:,} parameters, exported by alexnet-keras on {datetime.date.today()} \
with {versions}.

| | |
|---|---|
| classes | {len(labels)}: {shown} |
| trained on | {_cell(card.data)} |
| accuracy | {_cell(card.accuracy)} |
| weights began as | {_cell(card.weights)} |
| their licence | {_cell(card.licence)} |
| meant for | {_cell(card.intended_use)} |
| answer | probabilities, {looks}; {top} labels, best first |

## What a client sends

JPEG, PNG, GIF, BMP or WebP files as they are: at most {limits.encoded_bytes:,} bytes and \
{limits.pixels:,} pixels each. All else is inside: {described_preprocessing(net)}
An image that cannot be read comes back with empty labels, zeros and the reason in `error`; the
others of its batch are answered.

| signature | inputs | outputs |
|---|---|---|
| `serving_default` | `images` string (n,) | `classes` string (n, {top}), `scores` float32 \
(n, {top}), `probabilities` float32 (n, {len(labels)}), `error` string (n,) |
| `predict_top` | the same, `k` int32 () | the same, (n, k) |
| `predict_images` | `images` float32 (n, {net.side}, {net.side}, 3), RGB in 0..255 | as the first |
| `predict_images_uint8` | the same as uint8 | as the first |
| `classify` | `inputs` string (n,), tf.Examples with `image/encoded` | `classes`, `scores` |
| `embed` | `images` string (n,) | `embedding` float32 (n, d) of unit length, from \
`{net.embedding}`; `error` |

The labels, one a line in the order of `probabilities`, are in `assets/labels.txt`.
"""


def described_preprocessing(net: ServedNet) -> str:
    """How encoded images become the net's input, in sentences."""
    return described_view(net.preprocessing, net.side) + (
        f" Then the mean {_numbers(net.preprocessing.mean)} (red, green, blue) is subtracted and "
        f"the rest divided by {_numbers(net.preprocessing.std)}"
        + ("; blue comes first." if net.preprocessing.channels == "BGR" else ".")
    )


def described_view(preprocessing: Preprocessing, side: int) -> str:
    """How an image becomes a square of pixels, in sentences."""
    resized = preprocessing.resize(side)
    what = "the shorter side is" if preprocessing.keep_aspect else "both sides are"
    cut = "" if resized == side else f" and the central {side} x {side} are taken"
    return (
        "the image is turned as its EXIF says, transparency becomes white, "
        f"{what} resized to {resized} pixels (bilinear, antialiased){cut}."
    )


def _cell(text: str) -> str:
    """The text as it can stand in a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
