"""What a search may choose, within which ranges, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras_tuner

from alexnet_keras.data import AUGMENTATIONS
from alexnet_keras.transfer import HEADS, Choices
from alexnet_keras.transfer.classifier import CROPS
from alexnet_keras.transfer.heads import CUTS, DROPOUT, FIRST_PAIRED
from alexnet_keras.transfer.plan import HEAD_TRAINING

#: every choice, with the reason for its range
REASONS = {
    "head": "Pairs of features need no hidden layer and learn fast; averages are 10 times fewer "
    "values and can suit classes that differ in amounts. AlexNet's own fc6 and fc7 are tried only "
    "where the weights hold them: from random ones they take most of a budget.",
    "cut": "Later convolutions know more of ImageNet's objects, earlier ones more of texture; what "
    "comes before conv3 has added nothing on flowers.",
    "paired": "How many convolutions a bilinear head reads, up to the cut: more are better with "
    "enough photographs, and more to learn by heart with few.",
    "hidden_units": "Of the pooled head's hidden layer, half and twice the default.",
    "dropout": "Against learning photographs by heart. A bilinear head does without by default: "
    "label smoothing and decay do the same, in a quarter of a step's time.",
    "head_rate": "A decade and more about the default of each kind of head, in its logarithm.",
    "head_epochs": "Half the default makes for quicker trials; twice suits classes that are many "
    "and alike: on cars it gave two to three points, in 1.4 times the time.",
    "weight_decay": "AdamW's decay, in its logarithm: what matters is its product with the rate.",
    "schedule": "How rates go on once they have risen; to zero is safer where epochs are few.",
    "label_smoothing": "None to twice the default; it also keeps probabilities from becoming sure.",
    "views": "Views of each photograph: the measured one, its mirror image, then random crops. "
    "Each costs a pass of the frozen layers, once for all trials of the same size; random ones "
    "once for those with the same augmentation too, so that more than four would take most of a "
    "search.",
    "augmentation": "What the random ones among them show, if there are any.",
    "strength": "Times the size of the augmentation's changes: few levels, so that trials share "
    "what the frozen layers give.",
    "image_size": "Larger inputs show convolutions more of a photograph and cost its square; about "
    "the size that the weights' default is. fc6 fits its own size only.",
    "crop": "The central square, or the whole photograph stretched to one: which is better where "
    "photographs are cut to their object already, as those of cars.",
    "unfreeze": "How many convolutions, from the cut down, are trained after the head. They rarely "
    "help with a bilinear head and few photographs, and cost far more than all else; trials go on "
    "to it only from a frozen net that is among the best so far.",
    "learning_rate": "Of the phase that trains convolutions, in its logarithm.",
}
#: times the default size, in steps of 32 pixels, or of 16 where that is small
SIZES = (0.75, 0.875, 1.0, 1.125)
#: the least that all five convolutions have something to pool of
LEAST_SIZE = 64
VIEWS = (1, 2, 3, 4)
STRENGTHS = (0.5, 1.0, 1.5)
LABEL_SMOOTHING = (0.0, 0.05, 0.1, 0.2)
#: times the default number of epochs
LENGTHS = (0.5, 1, 2)
#: of each kind of head, with its default
DROPOUTS = {
    "bilinear": ((0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6), DROPOUT["bilinear"]),
    "pooled": ((0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), DROPOUT["pooled"]),
    "fc": ((0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), 0.5),
}
#: the default rate of a head divided and multiplied by this
RATE_RANGE = 8.0


#: choices of what frozen layers are run on
SEEN = ("image_size", "crop", "views", "augmentation", "strength")
#: choices that count where convolutions are trained
THAWED = ("unfreeze", "learning_rate")
#: between a choice and the condition that it belongs to
WHERE = ":"


def plain(hp: keras_tuner.HyperParameters) -> dict[str, Any]:
    """The active choices of a trial, by the names in `REASONS`."""
    # A worker's trial also holds defaults that its conditions rule out.
    active = [one.name for one in hp.space if hp.is_active(one) and one.name in hp.values]
    named = {name.split(WHERE)[0]: hp.values[name] for name in active}
    return {name: named[name] for name in REASONS if name in named}


def net_of(values: Mapping[str, Any]) -> tuple[Any, ...]:
    """Head, cut, input size and crop: what makes another net, where the rest is how it is trained.

    Args:
        values: by the names in `REASONS`, or as keras-tuner has them.
    """
    head = values["head"]
    cut = values.get("cut", values.get(f"cut{WHERE}{head}"))
    return head, cut, values.get("image_size"), values.get("crop")


def sees_no_more(settings: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether frozen layers were run on all that `settings` asks for if they were for `other`.

    Args:
        settings, other: active choices, by name.
    """
    own, others = ([one.get(name) for name in SEEN] for one in (settings, other))
    size, crop, views, *random = own
    # Heads of AlexNet's own read something else than the others.
    same = (settings["head"] == "fc") == (other["head"] == "fc") and [size, crop] == others[:2]
    # The measured views come first, whatever random ones may follow.
    return same and views <= others[2] and (random == [None, None] or random == others[3:])


def sizes(default: int) -> list[int]:
    """The sizes that are tried where a net's default is `default` pixels."""
    step = 32 if default >= 192 else 16
    tried = {round(default * share / step) * step for share in SIZES}
    return sorted({size for size in tried if size >= LEAST_SIZE} | {default})


def ask(
    hp: keras_tuner.HyperParameters,
    defaults: Choices,
    *,
    image_size: int,
    heads: Sequence[str] = ("bilinear", "pooled"),
) -> Choices:
    """What `hp` chooses of all the choices in `REASONS`; the others are those of `defaults`.

    Args:
        image_size: the default size in pixels, about which others are tried.
        heads: the kinds of head to be tried, keys of `HEADS`, the default first.
    """
    found: dict[str, Any] = {}

    # keras-tuner wants another name for each condition.
    def choose(name: str, values: Sequence[Any], default: Any, where: str = "") -> None:
        value = hp.Choice(f"{name}{where}", list(values), default=default)
        if value is not None:  # None where the condition of its scope is not met
            found[name] = value

    def range_of(name: str, *limits: float, where: str = "", **options: Any) -> None:
        value = hp.Float(f"{name}{where}", *limits, **options)
        if value is not None:
            found[name] = value

    choose("head", heads, heads[0])
    for head in heads:
        with hp.conditional_scope("head", [head]):
            _ask_of_head(hp, head, choose, range_of)
    lengths = sorted({max(round(share * defaults.head_epochs), 1) for share in LENGTHS})
    choose("head_epochs", lengths, defaults.head_epochs)
    choose("schedule", ("cosine", "linear", "constant"), "cosine")
    choose("label_smoothing", LABEL_SMOOTHING, 0.1)
    if free := [head for head in heads if head != "fc"]:  # stored fc6 fits its own size only
        with hp.conditional_scope("head", free):
            choose("image_size", sizes(image_size), image_size)
    choose("crop", tuple(CROPS), defaults.crop)
    views = sorted({*VIEWS, defaults.views})
    choose("views", views, defaults.views)
    measured = 2 if defaults.mirror else 1
    with hp.conditional_scope("views", [count for count in views if count > measured]):
        choose("augmentation", tuple(AUGMENTATIONS), "gentle")
        choose("strength", STRENGTHS, 1.0)
    unfreeze = hp.Choice("unfreeze", [0, 1, 2, 3], default=0)
    with hp.conditional_scope("unfreeze", [1, 2, 3]):
        range_of("learning_rate", 1e-3, 3e-2, sampling="log", default=0.01)

    last = 5 if found["head"] == "fc" else int(found["cut"][-1])
    layers = (f"conv{last - unfreeze + 1}",) if unfreeze else ()
    return replace(defaults, **found, unfreeze_from=layers)


def _ask_of_head(hp: keras_tuner.HyperParameters, head: str, choose: Any, range_of: Any) -> None:
    """The choices that belong to one kind of head, within its scope."""
    if head not in HEADS:
        raise ValueError(f"head={head!r} is not one of {', '.join(HEADS)}.")
    where = f"{WHERE}{head}"
    if head != "fc":
        choose("cut", CUTS, CUTS[0], where)
    if head == "bilinear":
        for cut in CUTS:
            most = int(cut[-1]) - FIRST_PAIRED + 1
            if most > 1:
                with hp.conditional_scope(f"cut{where}", [cut]):
                    choose("paired", range(1, most + 1), most, f"{WHERE}{cut}")
    elif head == "pooled":
        choose("hidden_units", (256, 512, 1024), 512)
    choose("dropout", *DROPOUTS[head], where)
    optimizer, rate = HEAD_TRAINING[head]
    limits = float(f"{rate / RATE_RANGE:.1e}"), float(f"{rate * RATE_RANGE:.1e}")
    range_of("head_rate", *limits, where=where, sampling="log", default=rate)
    if optimizer == "adamw":
        range_of("weight_decay", 1e-3, 0.5, where=where, sampling="log", default=0.05)
