"""A versioned folder of a model's folder, which is whole or not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from alexnet_keras.data import centre_view
from alexnet_keras.errors import UserError
from alexnet_keras.runs import check_writable, full_disk
from alexnet_keras.serving.model_card import CARD, ModelCard, written_card
from alexnet_keras.serving.net import ServedNet, served_net
from alexnet_keras.serving.reading import Limits
from alexnet_keras.serving.signatures import CLASSIFY, signatures
from alexnet_keras.serving.warm_up import WARM_UP, write_warm_up
from alexnet_keras.weights import Preprocessing

#: labels of the answer to a request, where there are so many classes
TOP = 5
#: one label a line, in the order of the probabilities; in the folder `assets`
LABELS = "labels.txt"


def export(
    model: keras.Model,
    path: str | Path,
    labels: Sequence[str],
    preprocessing: Preprocessing | None = None,
    *,
    mirrored: bool = False,
    top: int = TOP,
    limits: Limits | None = None,
    embedding: str | None = None,
    photographs: Sequence[bytes] = (),
    card: ModelCard | None = None,
) -> Path:
    """Writes `path/<version>/`, a SavedModel; the version is one more than the largest there.

    It is written beside and renamed, so a server that watches `path` never sees half of it. Inside
    are decoding, EXIF orientation, resizing, the centre crop and the preprocessing of the weights.
    The signatures, by name, with their inputs and outputs:

    - `serving_default`: `images`, string (batch,), encoded JPEG, PNG, GIF, BMP or WebP files.
    - `predict_top`: the same, and `k`, int32 scalar, how many labels are wanted.
    - `predict_images`: `images`, float32 (batch, side, side, 3), RGB pixels in 0..255 at the
      model's own side; already cropped. `predict_images_uint8`: the same as uint8.
    - `classify`: `inputs`, string (batch,), serialized `tf.Example`s with `image/encoded`, for the
      Classify API: `classes`, string, and `scores`, float32, (batch, top).
    - `embed`: `images` as the first, to `embedding`, float32 (batch, length), of unit length, and
      `error`: the layer `embedding`, maps averaged over positions.

    The first four return `classes`, string (batch, top), labels with the best first; `scores`,
    float32 (batch, top), their probabilities; `probabilities`, float32 (batch, classes), in the
    order of `labels`; and `error`, string (batch,), empty, or why this image has no answer: then
    its labels are empty, and its numbers 0. A bad image does not fail its batch.

    Beside the graph: `assets/labels.txt`; `assets.extra/tf_serving_warmup_requests`, requests of
    each signature but `predict_top`, which TensorFlow Serving runs before it takes others; and
    `README.md`, the model's card.

    Args:
        model: a classifier of `transfer.build_classifier`, from pixels to probabilities, or an
            `AlexNet()`.
        path: the model's folder, which holds its versions.
        labels: in the order of the model's outputs.
        preprocessing: that of the weights, for a model that does not say.
        mirrored: as in `evaluation.answers`, so that what is served is what was measured.
        top: how many labels an answer has; all, if there are fewer classes.
        limits: what an image may cost; see `Limits`.
        embedding: name of the layer that `embed` gives; by default `fc7`, else `pool5`, else the
            last convolution.
        photographs: content of image files for the warm-up; a picture is drawn if there is none.
        card: what the card says of data, accuracy and licence.

    Returns:
        The folder of the new version.

    Raises:
        UserError: `path` cannot be written to or its disk is full; nothing is left there then. The
            model has no such layer, no preprocessing, or does not give probabilities.
        ValueError: the number of labels is not the model's number of outputs, or `top` is less
            than 1.
    """
    path = Path(path)
    if len(labels) != model.output_shape[-1]:
        raise ValueError(
            f"The model has {model.output_shape[-1]} outputs; received {len(labels)} labels."
        )
    if top < 1:
        raise ValueError(f"top={top!r} is not at least 1.")
    if preprocessing is not None:
        model.preprocessing = preprocessing
    check_writable(path, "--export-dir")
    # What JSON and a line can hold: names of folders may be any bytes.
    labels = [
        label.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n") for label in labels
    ]
    net = served_net(model, mirrored=mirrored, embedding=embedding)
    limits = limits or Limits()
    top = min(top, len(labels))
    card = card or ModelCard()

    def write(folder: Path) -> None:
        _write_graph(net, folder, labels, top, limits)
        write_warm_up(
            folder / WARM_UP, path.name, [*photographs] or [drawn_photograph(net.side)], net.side
        )
        text = written_card(card, path.name, labels, net, mirrored, top, limits)
        (folder / CARD).write_text(text, "utf-8", "backslashreplace")

    return _written_version(path, write)


def _written_version(path: Path, write: Callable[[Path], None]) -> Path:
    """Lets `write` fill a folder, which then becomes the next version in `path`.

    Raises:
        UserError: as `export`.
    """
    # Dot and letters: TensorFlow Serving looks at names that are integers only.
    beside = path / f".writing-{os.getpid()}"
    shutil.rmtree(beside, ignore_errors=True)
    try:
        write(beside)
        return _publish(beside, path)
    except (OSError, tf.errors.OpError) as error:
        raise full_disk(error, path) or UserError(
            f"The model could not be exported to {path} ({str(error).splitlines()[0]}); give "
            "another folder with --export-dir."
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def versions(path: str | Path) -> list[int]:
    """The versions in a model's folder, ascending."""
    return sorted(int(entry.name) for entry in Path(path).iterdir() if entry.name.isdecimal())


def drawn_photograph(side: int) -> bytes:
    """A JPEG of colour gradients, somewhat larger than the net's input."""
    steps = tf.linspace(0.0, 255.0, side + side // 4)
    rows, columns = tf.meshgrid(steps, steps, indexing="ij")
    colours = tf.cast(tf.stack([rows, columns, 255 - rows], axis=-1), tf.uint8)
    return tf.io.encode_jpeg(colours).numpy()


def _write_graph(
    net: ServedNet, folder: Path, labels: Sequence[str], top: int, limits: Limits
) -> None:
    geometry = net.preprocessing.geometry
    module = tf.Module()
    module.weights = [variable.value for variable in net.variables]
    functions = signatures(
        net,
        labels,
        lambda encoded: centre_view(encoded, net.side, **geometry),
        top=top,
        limits=limits,
    )
    # Beside the folder, which TensorFlow makes; it copies the file into `assets`.
    asset = folder.with_name(f"{folder.name}-assets") / LABELS
    asset.parent.mkdir(exist_ok=True)
    try:
        asset.write_text("".join(f"{label}\n" for label in labels), "utf-8")
        module.labels = tf.saved_model.Asset(str(asset))
        tf.saved_model.save(module, str(folder), signatures=functions)
    finally:
        shutil.rmtree(asset.parent, ignore_errors=True)
    constants = tf.compat.v1.saved_model.signature_constants
    renamed = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(folder))
    renamed.replace_method_name(CLASSIFY, constants.CLASSIFY_METHOD_NAME)
    renamed.save()


def _publish(beside: Path, folder: Path) -> Path:
    while True:
        version = folder / str(max(versions(folder), default=0) + 1)
        try:
            # Fails if another export took this number meanwhile: a version is never empty.
            beside.rename(version)
        except OSError:
            if not version.exists():
                raise
        else:
            return version
