"""The options of `train_imagenet.py`, which are many; `command_line.py` has what recipes share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

from command_line import VARIANTS, recipe

# Written out, because the tables they stand for live beside TensorFlow; a test compares them.
PRESETS = ("paper", "release", "caffe")
OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("preset", "step", "plateau", "cosine")
STRATEGIES = ("auto", "none", "mirrored", "multiworker")
PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The options of the recipe that trains from scratch.

    Attributes:
        plan: the arguments of `training.Plan`.
    """

    recipe: str
    dataset: str
    data_dir: Path | None
    val_dir: Path | None
    watch_share: float
    strategy: str
    worker_timeout: float
    crops: str
    output: Path
    export_dir: Path
    allow_changes: bool
    plan: dict[str, Any]


_OPTIONS = [
    click.option(
        "--preset",
        type=click.Choice(PRESETS),
        default="paper",
        help="A published way of training: variant, batch, epochs, rates, decay and colour noise; "
        "every option below that is given takes the place of its part.",
    ),
    click.option(
        "--dataset",
        default="imagenet2012",
        metavar="NAME",
        help="A TFDS dataset for image classification that is prepared on this machine, or "
        "drawn_flowers.",
    ),
    click.option(
        "--data-dir",
        type=click.Path(path_type=Path),
        help="In place of --dataset: a folder with train/ and val/, which hold one subfolder a "
        "class; or class folders alone; or the TFRecords of make_tfrecords.py.",
    ),
    click.option(
        "--val-dir",
        type=click.Path(path_type=Path),
        help="Validation photographs in class folders.  [default: those beside the training "
        "photographs, else a fixed fifth of them]",
    ),
    click.option(
        "--watch-share",
        type=click.FloatRange(0, 0.5),
        default=0.02,
        help="Share of the training photographs that is measured after each epoch and not trained "
        "on; 0 for none, which the plateau schedule needs.",
    ),
    click.option(
        "--variant", type=click.Choice(VARIANTS), help="Form of the net.  [default: the preset's]"
    ),
    click.option(
        "--normalization",
        type=click.Choice(("auto", "lrn", "batch", "none")),
        default="auto",
        help="auto is the variant's own.",
    ),
    click.option(
        "--residual",
        type=click.Choice(("auto", "yes", "no")),
        default="auto",
        help="Whether the inputs of conv4 and conv5 are added to their outputs; auto is the "
        "variant's own.",
    ),
    click.option(
        "--width",
        type=click.FloatRange(0, 16, min_open=True),
        default=1.0,
        help="Factor on all channels and hidden units.",
    ),
    click.option(
        "--initialization",
        type=click.Choice(("published", "he")),
        default="published",
        help="Of the weights; he learns faster on small data sets.",
    ),
    click.option(
        "--image-size",
        type=click.IntRange(32, 1024),
        help="Side of the square input in pixels.  [default: the published 224 or 227; 64 with "
        "modern]",
    ),
    click.option(
        "--first-view-size",
        type=click.IntRange(32, 1024),
        help="Side of the training views at first, from which they grow over two thirds of the "
        "run (progressive resizing); with modern only.  [default: --last-view-size]",
    ),
    click.option(
        "--last-view-size",
        type=click.IntRange(32, 1024),
        help="Side of the training views at last; with modern only.  [default: --image-size]",
    ),
    click.option(
        "--batch-size",
        type=click.IntRange(1),
        help="Photographs a step, over all devices together.  [default: the preset's]",
    ),
    click.option(
        "--epochs",
        type=click.IntRange(1),
        help="Passes over the training photographs.  [default: the preset's]",
    ),
    click.option(
        "--optimizer",
        type=click.Choice(OPTIMIZERS),
        default="sgd",
        help="sgd is that of 2012: momentum with the weight decay inside it.",
    ),
    click.option(
        "--schedule",
        type=click.Choice(SCHEDULES),
        help="How the rate falls: divided by ten at given epochs (step) or when the watched loss "
        "stops falling (plateau), or along a cosine.  [default: preset; cosine with adamw]",
    ),
    click.option(
        "--learning-rate",
        type=click.FloatRange(0, min_open=True),
        help="First rate of the weights.  [default: the preset's; 0.001 with adamw]",
    ),
    click.option(
        "--weight-decay",
        type=click.FloatRange(0),
        help="Of the weights.  [default: the preset's; 0.05 with adamw]",
    ),
    click.option(
        "--warmup-epochs",
        type=click.FloatRange(0),
        help="In which the rate rises from zero.  [default: 0; with adamw 5 of 90]",
    ),
    click.option(
        "--scale-rate",
        is_flag=True,
        help="Scale the rate with the batch, from the preset's batch on.",
    ),
    click.option(
        "--augmentation",
        type=click.Choice(("published", "inception", "random_resized_crop")),
        default="published",
        help="Random views: shifted crops of a 256 resize and the preset's colour noise, or crops "
        "of random area, with colour jitter (inception) or without.",
    ),
    click.option("--mixup", type=click.FloatRange(0), default=0.0, help="Alpha of mixup."),
    click.option("--cutmix", type=click.FloatRange(0, 1), default=0.0, help="Alpha of CutMix."),
    click.option(
        "--label-smoothing",
        type=click.FloatRange(0, 1, max_open=True),
        default=0.0,
        help="Share of the target probability spread over all classes.",
    ),
    click.option(
        "--clip-norm",
        type=click.FloatRange(0, min_open=True),
        help="Largest norm of the gradient.  [default: any]",
    ),
    click.option(
        "--ema",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        help="Decay a step of a moving average of the weights, which is then measured and saved, "
        "such as 0.9999.  [default: none]",
    ),
    click.option(
        "--precision",
        type=click.Choice(PRECISIONS),
        default="float32",
        help="Of activations and gradients, where the hardware has it.",
    ),
    click.option(
        "--strategy",
        type=click.Choice(STRATEGIES),
        default="auto",
        help="mirrored trains on all GPUs of this machine, as auto does where there are several; "
        "multiworker on several machines, by TF_CONFIG or SLURM.",
    ),
    click.option(
        "--worker-timeout",
        type=click.FloatRange(1),
        default=300.0,
        help="Seconds that a worker waits for the others at the start.",
    ),
    click.option(
        "--checkpoint-seconds",
        type=click.FloatRange(0, min_open=True),
        default=60.0,
        help="Time between two checkpoints: the most work that is lost.",
    ),
    click.option(
        "--crops",
        type=click.Choice(("1", "10")),
        default="10",
        help="Views of each validation photograph in the end: the centre crop, or ten crops too.",
    ),
    click.option(
        "--seed", type=click.IntRange(0, 2**31 - 1), default=0, help="Makes a run repeatable."
    ),
    click.option(
        "--output",
        type=click.Path(path_type=Path),
        help="Folder of the run; the same command goes on where it was interrupted.  "
        "[default: runs/train_imagenet/<data>-<preset>]",
    ),
    click.option(
        "--export-dir",
        type=click.Path(path_type=Path),
        help="Folder for the SavedModel's versions.  [default: saved_models/train_imagenet]",
    ),
    click.option(
        "--allow-bad",
        is_flag=True,
        help="Go on even if more than 5% of the photographs cannot be read.",
    ),
    click.option(
        "--allow-changes",
        is_flag=True,
        help="Go on with other rates or augmentation than the run began with.",
    ),
]


def training_recipe(
    name: str,
) -> Callable[[Callable[[TrainOptions], int | None]], click.Command]:
    """Turns `main(options)`, which may return an exit code, into the command of recipe `name`."""

    def options(**values: Any) -> TrainOptions:
        given = click.get_current_context().get_parameter_source("dataset")
        if values["data_dir"] is not None and given is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError("Give either --dataset or --data-dir, not both.")
        if values["val_dir"] is not None and values["data_dir"] is None:
            raise click.UsageError("--val-dir needs --data-dir.")
        values["export_dir"] = values["export_dir"] or Path("saved_models", name)
        data_dir = values["data_dir"]
        data = values["dataset"] if data_dir is None else data_dir.resolve().name
        values["output"] = values["output"] or Path("runs", name, f"{data}-{values['preset']}")
        own = {field.name for field in fields(TrainOptions)}
        plan = {key: values.pop(key) for key in [*values] if key not in own}
        return TrainOptions(recipe=name, plan=plan, **values)

    return recipe(name, options, _OPTIONS)
