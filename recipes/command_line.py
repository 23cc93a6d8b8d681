"""The command line that every recipe shares.

Here and not in the package, which imports TensorFlow: `--help` and a mistyped option answer at
once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import click

# Written out, because the tables they stand for live beside TensorFlow; a test compares them.
DATASETS = ("auto", "drawn_flowers", "cars196", "oxford_flowers102", "tf_flowers")
VARIANTS = ("alexnet", "torchvision", "paper", "release", "caffe", "caffenet", "modern")
AUGMENTATIONS = ("alexnet2012", "inception", "gentle", "random_resized_crop")
STRATEGIES = ("auto", "none", "mirrored")
HEADS = ("auto", "fc", "pooled", "bilinear")
CROPS = ("centre", "whole")
FINE_TUNE_PRECISIONS = ("auto", "float32", "bfloat16")
EXPORT_FORMATS = ("saved-model", "onnx", "onnx-int8", "litert", "litert-int8")
#: the choices of `transfer.Choices` that have an option of their own
CHOICE_OPTIONS = (
    "head",
    "image_size",
    "crop",
    "views",
    "augmentation",
    "mirror",
    "batch_size",
    "unfreeze_from",
    "head_epochs",
    "epochs",
    "learning_rate",
)
UNFREEZABLE = ("fc6", "conv5", "conv4", "conv3", "conv2", "conv1")

# What an option becomes that is not given: with pretrained weights, and from random ones.
BATCH_SIZE = (64, 32)
EPOCHS = (6, 14)
LEARNING_RATE = (0.01, 0.0003)
AUGMENTATION = ("gentle", "alexnet2012")


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """The options of every recipe, with its name."""

    recipe: str
    dataset: str
    data_dir: Path | None
    val_dir: Path | None
    weights: str
    variant: str | None
    strategy: str
    image_size: int | None
    batch_size: int | None
    epochs: int | None
    seed: int
    output: Path | None
    export_dir: Path
    allow_bad: bool

    def with_weights(self, source: str | None) -> Self:
        """The same with the weights that `auto` turned out to be; `None` for random ones."""
        return replace(self, weights=source or "none")

    @property
    def weights_source(self) -> str | None:
        """Weights by name, or the path of a file; `None` for random weights.

        Raises:
            ValueError: it is still open what `auto` is.
        """
        if self.weights == "auto":
            raise ValueError("weights='auto' is not resolved; see with_weights().")
        return None if self.weights == "none" else self.weights


@dataclass(frozen=True, kw_only=True)
class FineTuneOptions(CommonOptions):
    """The options of the fine-tuning recipes.

    Attributes:
        settings: choices without an option of their own, from `--settings`.
        settings_weights: the weights that these were found with.
    """

    head: str
    crop: str
    mirror: bool
    augmentation: str | None
    unfreeze_from: tuple[str, ...]
    head_epochs: int
    views: int
    learning_rate: float | None
    precision: str
    search_rate: bool
    compare_scratch: bool
    settings: Mapping[str, Any] = field(default_factory=dict)
    settings_weights: str | None = None

    def choices(self) -> dict[str, Any]:
        """What `transfer.Choices` is made of: the options that are such, and the settings."""
        return {**{name: getattr(self, name) for name in CHOICE_OPTIONS}, **self.settings}

    def resolved(self) -> FineTuneOptions:
        """The same with every default that depends on the weights filled in.

        Raises:
            ValueError: as `weights_source`.
        """
        which = 1 if self.weights_source is None else 0
        return replace(
            self,
            batch_size=self.batch_size or BATCH_SIZE[which],
            augmentation=self.augmentation or AUGMENTATION[which],
            epochs=EPOCHS[which] if self.epochs is None else self.epochs,
            learning_rate=self.learning_rate or LEARNING_RATE[which],
        )


@dataclass(frozen=True, kw_only=True)
class ClassifyOptions:
    """The options of the recipe that names what photographs show."""

    photographs: tuple[Path, ...]
    weights: str
    variant: str | None
    top: int
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class RecordsOptions:
    """The options of the recipe that makes TFRecords."""

    data_dir: Path | None
    output: Path
    shards: int | None
    shard_megabytes: int
    resize: int | None
    quality: int
    verify: bool


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """The options of the recipe that exports."""

    model: Path
    formats: tuple[str, ...]
    labels: Path | None
    data_dir: Path | None
    export_dir: Path | None
    mirror: bool | None
    top: int
    max_megabytes: int
    max_megapixels: int
    max_images: int
    embedding: str | None
    warm_up: tuple[Path, ...]
    calibration_images: int


class _Layers(click.ParamType):
    """Names of layers with commas between them, or none."""

    name = "layers"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        if isinstance(value, tuple):
            names = value
        else:
            names = () if value == "none" else tuple(value.split(","))
        if unknown := [name for name in names if name not in UNFREEZABLE]:
            self.fail(
                f"{unknown[0]!r} is no layer; name some of {', '.join(UNFREEZABLE)}, or none.",
                param,
                ctx,
            )
        return names


def _either(values: tuple[Any, Any]) -> str:
    return f"[default: {values[0]} with pretrained weights, {values[1]} from random ones]"


_VARIANT = click.option(
    "--variant",
    type=click.Choice(VARIANTS),
    help="Form of the net.  [default: the one that the weights belong to, else alexnet]",
)


def dataset_option(default: str) -> Any:
    return click.option(
        "--dataset",
        type=click.Choice(DATASETS),
        default=default,
        help="Photographs by name; auto takes tf_flowers where it is prepared or can be "
        "downloaded, and drawn_flowers otherwise.",
    )


def crop_option(default: str, more: str = "") -> Any:
    return click.option(
        "--crop",
        type=click.Choice(CROPS),
        default=default,
        help="What of a photograph is seen when it is measured and served: the central square, or "
        "the whole photograph stretched to a square, for those that are cut to their object."
        f"{more}",
    )


def head_epochs_option(default: int, more: str = "") -> Any:
    return click.option(
        "--head-epochs",
        type=click.IntRange(1),
        default=default,
        help=f"Passes in the phase that trains the layers without pretrained weights only.{more}",
    )


COMMON_OPTIONS = {
    "data_dir": click.option(
        "--data-dir",
        type=click.Path(path_type=Path),
        help="Your own photographs, one subfolder a class; takes the place of --dataset.",
    ),
    "val_dir": click.option(
        "--val-dir",
        type=click.Path(path_type=Path),
        help="Validation photographs, with the same subfolders as --data-dir.  "
        "[default: a fixed fifth of --data-dir]",
    ),
    "weights": click.option(
        "--weights",
        default="auto",
        metavar="auto|none|starter|imagenet|PATH",
        help="Pretrained weights: those that come with the package, ImageNet's of the variant, the "
        "path of a weights file, or none for random ones; auto takes ImageNet's where they are in "
        "Keras's cache or can be downloaded, else the starter weights that come with the package, "
        "and says which.",
    ),
    "variant": _VARIANT,
    "strategy": click.option(
        "--strategy",
        type=click.Choice(STRATEGIES),
        default="auto",
        help="mirrored trains on all GPUs of this machine; auto does so where there are several.",
    ),
    "image_size": click.option(
        "--image-size",
        type=click.IntRange(63, 1024),
        help="Side of the square input in pixels.  [default: 256 with a bilinear head, 288 with a "
        "pooled one (128 on the modern net), the published 224 or 227 with fc6 and fc7, 96 from "
        "random weights]",
    ),
    "batch_size": click.option(
        "--batch-size",
        type=click.IntRange(1),
        help=f"Photographs a step, over all devices together.  {_either(BATCH_SIZE)}",
    ),
    "epochs": click.option(
        "--epochs",
        type=click.IntRange(0),
        help="Passes over the training photographs in the phase that trains convolutions.  "
        f"{_either(EPOCHS)}",
    ),
    "seed": click.option(
        "--seed", type=click.IntRange(0, 2**31 - 1), default=0, help="Makes a run repeatable."
    ),
    "output": click.option(
        "--output",
        type=click.Path(path_type=Path),
        help="Folder for everything that the run leaves.  [default: runs/<recipe>/<time>]",
    ),
    "export_dir": click.option(
        "--export-dir",
        type=click.Path(path_type=Path),
        help="Folder for the SavedModel's versions.  [default: saved_models/<recipe>]",
    ),
    "allow_bad": click.option(
        "--allow-bad",
        is_flag=True,
        help="Go on even if more than 5% of the images cannot be read.",
    ),
}

FINE_TUNE_OPTIONS = {
    "settings": click.option(
        "--settings",
        type=click.Path(path_type=Path),
        metavar="best.json",
        help="Settings that tune_flowers.py has found, in place of defaults; an option that is "
        "given counts for more.",
    ),
    "head": click.option(
        "--head",
        type=click.Choice(HEADS),
        default="auto",
        help="What follows the convolutions: AlexNet's own fc6 and fc7, one small layer on "
        "averages of pool5, or a linear classifier on which features of conv3 to conv5 occur "
        "together; auto takes the last with pretrained weights.",
    ),
    "mirror": click.option(
        "--mirror/--no-mirror",
        default=True,
        help="Train on left-right mirrors too, and let what is measured and served be the mean of "
        "the photograph's and its mirror's probabilities; not for letters, say.",
    ),
    "augmentation": click.option(
        "--augmentation",
        type=click.Choice(AUGMENTATIONS),
        help="Random views for training: shifted crops and PCA colour noise as in 2012, or crops "
        "of random area, with colour jitter (inception; gentle: of at least 70%) or without.  "
        f"{_either(AUGMENTATION)}",
    ),
    "unfreeze_from": click.option(
        "--unfreeze-from",
        type=_Layers(),
        default="none",
        metavar="LAYER[,LAYER...]|none",
        help="The oldest pretrained layer to train after the head: "
        f"{', '.join(UNFREEZABLE)}. Several are a phase each, from the newest to the oldest; none "
        "trains the head only, which is best with a bilinear one.",
    ),
    "views": click.option(
        "--views",
        type=click.IntRange(1),
        default=4,
        help="Views of each photograph (as it is measured, mirrored, then random ones) for phases "
        "of at least twice as many epochs: their frozen layers see each view once, and what they "
        "give is stored.",
    ),
    "learning_rate": click.option(
        "--learning-rate",
        type=click.FloatRange(0, min_open=True),
        help=f"Largest rate in the phase that trains convolutions.  {_either(LEARNING_RATE)}",
    ),
    "precision": click.option(
        "--precision",
        type=click.Choice(FINE_TUNE_PRECISIONS),
        default="auto",
        help="What convolutions compute in while training: auto takes bfloat16 where the hardware "
        "has units for it. Measuring and serving are in float32.",
    ),
    "search_rate": click.option(
        "--search-rate",
        is_flag=True,
        help="Begin each phase with a range test, which chooses its rate and is plotted in the "
        "report.",
    ),
    "compare_scratch": click.option(
        "--compare-scratch",
        is_flag=True,
        help="Then train the same net from random weights, for the same time and on to its own "
        "plateau: the report shows what the pretrained weights are worth.",
    ),
}


_CLASSIFY = [
    click.argument(
        "photographs", nargs=-1, required=True, metavar="PHOTO...", type=click.Path(path_type=Path)
    ),
    click.option(
        "--weights",
        default="imagenet",
        metavar="imagenet|PATH",
        help="The published weights of the variant, downloaded once, or the path of a weights "
        "file with ImageNet's 1000 classes.",
    ),
    click.option(
        "--variant",
        type=click.Choice(VARIANTS),
        help="Form of the net.  [default: the one that the weights belong to; torchvision with "
        "imagenet]",
    ),
    click.option(
        "--top", type=click.IntRange(1, 1000), default=5, help="Labels for each photograph."
    ),
    click.option("--batch-size", type=click.IntRange(1), default=32, help="Photographs at a time."),
]


_RECORDS = [
    click.option(
        "--data-dir",
        type=click.Path(path_type=Path),
        help="The photographs: one subfolder a class, or train/ and val/ with one subfolder a "
        "class each.",
    ),
    click.option(
        "--output",
        required=True,
        type=click.Path(path_type=Path),
        help="Where the TFRecords go: a new folder, or one that the same command has begun.",
    ),
    click.option(
        "--shards",
        type=click.IntRange(1, 99_999),
        help="How many files for the training part, in place of --shard-megabytes; val/ gets some "
        "of about the same size.",
    ),
    click.option(
        "--shard-megabytes",
        type=click.IntRange(1),
        default=128,
        help="About how large a file is to be; what was done of one is done again after a break.",
    ),
    click.option(
        "--resize",
        type=click.IntRange(32, 4096),
        help="Reduce the shorter side of larger photographs to so many pixels, and store them as "
        "JPEG; without it every photograph keeps its bytes.",
    ),
    click.option(
        "--quality",
        type=click.IntRange(1, 100),
        default=95,
        help="Of the JPEGs that --resize makes.",
    ),
    click.option(
        "--verify",
        is_flag=True,
        help="Compare the files in --output with their checksums, and do nothing else.",
    ),
]


_EXPORT = [
    click.argument("model", metavar="MODEL.keras", type=click.Path(path_type=Path)),
    click.option(
        "--format",
        "formats",
        type=click.Choice(EXPORT_FORMATS),
        multiple=True,
        default=("saved-model",),
        help="What to write, several times for several: the SavedModel for TensorFlow Serving, or "
        "beside the model one file for other runtimes, which takes pixels.",
    ),
    click.option(
        "--labels",
        type=click.Path(path_type=Path),
        help="A file with a label a line, in the order of the model's outputs.  [default: what "
        "metrics.json beside the model says]",
    ),
    click.option(
        "--data-dir",
        type=click.Path(path_type=Path),
        help="Photographs, one subfolder a class: int8 is calibrated on the four fifths that the "
        "recipes train on, and all files are measured on the rest.  [default for int8: what the "
        "model was trained on]",
    ),
    click.option(
        "--export-dir",
        type=click.Path(path_type=Path),
        help="Folder for the SavedModel's versions.  [default: saved_models/<recipe of the run>]",
    ),
    click.option(
        "--mirror/--no-mirror",
        default=None,
        help="Answer with the mean over a photograph and its mirror.  [default: as the run was "
        "measured; no-mirror for a model without a run]",
    ),
    click.option(
        "--top", type=click.IntRange(1), default=5, help="Labels in the answer to a photograph."
    ),
    click.option(
        "--max-megabytes",
        type=click.IntRange(1, 2047),
        default=20,
        help="Refuse larger files, in 2**20 bytes.",
    ),
    click.option(
        "--max-megapixels",
        type=click.IntRange(1, 4294),
        default=50,
        help="Refuse larger images by their header, in millions of pixels.",
    ),
    click.option(
        "--max-images",
        type=click.IntRange(1),
        default=256,
        help="Refuse what comes after so many images of one request.",
    ),
    click.option(
        "--embedding",
        metavar="LAYER",
        help="What the signature embed gives.  [default: fc7, pool5, or the last convolution]",
    ),
    click.option(
        "--warm-up",
        type=click.Path(path_type=Path),
        multiple=True,
        help="A photograph for the requests that TensorFlow Serving warms up with; it becomes part "
        "of the export.  [default: a drawn picture]",
    ),
    click.option(
        "--calibration-images",
        type=click.IntRange(1),
        default=100,
        help="Photographs that int8 takes its ranges from.",
    ),
]


class _Command(click.Command):
    """A command that lists its options when it is given one that it does not have."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            known = [name for option in self.get_params(ctx) for name in option.opts]
            raise click.UsageError(
                f"There is no option {error.option_name}; the options are {', '.join(known)}.", ctx
            ) from error


def fine_tuning_recipe(
    name: str, dataset: str = "auto", crop: str = "centre", head_epochs: int = 20
) -> Callable[[Callable[[FineTuneOptions], None]], click.Command]:
    """Turns `main(options)` into the command of the fine-tuning recipe `name`.

    Args:
        dataset: what `--dataset` is by default.
        crop: what `--crop` is by default.
        head_epochs: what `--head-epochs` is by default.
    """

    def options(**values: Any) -> FineTuneOptions:
        check_data_options(values)
        if values["compare_scratch"] and values["settings"] is not None:
            raise click.UsageError(
                "Give either --settings or --compare-scratch: settings of fine-tuning are none for "
                "training from random weights."
            )
        if values["compare_scratch"] and values["weights"] == "none":
            raise click.UsageError("--compare-scratch needs pretrained weights to compare with.")
        values["export_dir"] = values["export_dir"] or Path("saved_models", name)
        values |= _settings(values["settings"])
        return FineTuneOptions(recipe=name, **values)

    return recipe(
        name,
        options,
        [
            dataset_option(dataset),
            *COMMON_OPTIONS.values(),
            crop_option(crop),
            *FINE_TUNE_OPTIONS.values(),
            head_epochs_option(head_epochs),
        ],
    )


def check_data_options(values: Mapping[str, Any]) -> None:
    """
    Raises:
        UsageError: options that name photographs contradict each other.
    """
    given = click.get_current_context().get_parameter_source("dataset")
    if values["data_dir"] is not None and given is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("Give either --dataset or --data-dir, not both.")
    if values["val_dir"] is not None and values["data_dir"] is None:
        raise click.UsageError("--val-dir needs --data-dir.")


def _settings(path: Path | None) -> dict[str, Any]:
    """The options that a file of settings changes, `settings` with those that are no options.

    Raises:
        UsageError: it is no such file, or one of its values is none of the option.
    """
    if path is None:
        return {"settings": {}}
    context = click.get_current_context()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        settings = dict(found["settings"])
        search = dict(found.get("search", {}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = getattr(error, "strerror", None) or "it holds no settings"
        raise click.UsageError(
            f"{path} cannot be read ({why}); give the best.json of a search with --settings."
        ) from error
    changed: dict[str, Any] = {"settings": {}, "settings_weights": search.get("weights")}
    options = {option.name: option for option in context.command.params}
    for name, value in settings.items():
        if name not in CHOICE_OPTIONS:
            changed["settings"][name] = value
        elif context.get_parameter_source(name) != click.core.ParameterSource.COMMANDLINE:
            given = tuple(value) if isinstance(value, list) else value
            if value is not None:
                changed[name] = options[name].type.convert(given, options[name], context)
    return changed


def classifying_recipe(
    name: str,
) -> Callable[[Callable[[ClassifyOptions], int | None]], click.Command]:
    """Turns `main(options)`, which returns an exit code, into the command of the recipe `name`."""
    return recipe(name, ClassifyOptions, _CLASSIFY)


def exporting_recipe(
    name: str,
) -> Callable[[Callable[[ExportOptions], int | None]], click.Command]:
    """Turns `main(options)` into the command of the recipe `name`, which exports."""
    return recipe(name, ExportOptions, _EXPORT)


def records_recipe(
    name: str,
) -> Callable[[Callable[[RecordsOptions], int | None]], click.Command]:
    """Turns `main(options)` into the command of the recipe `name`, which makes TFRecords."""

    def options(**values: Any) -> RecordsOptions:
        if values["data_dir"] is None and not values["verify"]:
            raise click.UsageError("Give the photographs with --data-dir, or --verify.")
        given = click.get_current_context().get_parameter_source("shard_megabytes")
        if values["shards"] is not None and given is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError("Give either --shards or --shard-megabytes, not both.")
        return RecordsOptions(**values)

    return recipe(name, options, _RECORDS)


def recipe(
    name: str, make_options: Callable[..., Any], options: list[Any]
) -> Callable[..., click.Command]:
    def decorate(main: Callable[[Any], int | None]) -> click.Command:
        def command(**values: Any) -> None:
            given = make_options(**values)
            with one_sentence_errors():
                sys.exit(main(given) or 0)

        for option in reversed(options):
            command = option(command)
        return click.command(
            cls=_Command,
            name=name,
            help=sys.modules[main.__module__].__doc__,
            context_settings={"show_default": True, "max_content_width": 100},
        )(command)

    return decorate


def read_given(path: Path, option: str) -> bytes:
    """The content of a file that was given with `option`.

    Raises:
        UserError: it cannot be read.
    """
    from alexnet_keras import UserError

    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); give another file with {option}."
        ) from error


def read_lines(path: Path, option: str) -> list[str]:
    """The lines of a text file in UTF-8 that was given with `option`.

    Raises:
        UserError: it cannot be read, or is no such text.
    """
    from alexnet_keras import UserError

    try:
        return read_given(path, option).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8; save it as such for {option}.") from error


def read_photograph(path: Path, option: str) -> bytes:
    """The content of an image file that was given with `option`.

    Raises:
        UserError: it cannot be read, or is no image.
    """
    from alexnet_keras import UserError
    from alexnet_keras.data.decoding import why_unreadable

    content = read_given(path, option)
    if (reason := why_unreadable(content)) is not None:
        raise UserError(f"{path} cannot be read ({reason}); give another photograph with {option}.")
    return content


@contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Prints a `UserError` as one line and exits with its code, 2; Ctrl-C exits with code 130."""
    quiet_tensorflow()
    from alexnet_keras import UserError

    try:
        yield
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("Stopped. What was already written stays where it is.", file=sys.stderr)
        sys.exit(130)


def quiet_tensorflow() -> None:
    """Imports TensorFlow without its start-up messages about CPU kernels and absent GPUs.

    They come from C++ before any log level is read, so the file descriptor itself is muted; an
    import error still shows as a traceback.
    """
    # 3: Python's exceptions say what matters. What C++ calls errors are a machine without a GPU
    # ("failed call to cuInit") and libjpeg's complaints about images that we list ourselves.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        import tensorflow  # noqa: F401
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
