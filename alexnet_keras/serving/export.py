"""Signatures, and a versioned folder that is whole or not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from alexnet_keras.data import centre_view
from alexnet_keras.errors import UserError
from alexnet_keras.evaluation import answers
from alexnet_keras.runs import check_writable, full_disk
from alexnet_keras.weights import preprocessing_of


def export(
    model: keras.Model, folder: str | Path, class_names: Sequence[str], *, mirrored: bool = False
) -> Path:
    """Writes `folder/<version>/`, a SavedModel; the version is one more than the largest there.

    It is written beside and renamed, so a server that watches `folder` never sees half of it.
    The signatures:

    - `serving_default`: `images`, string (batch,), encoded JPEG, PNG, GIF, BMP or WebP files.
    - `predict_images`: `images`, float32 (batch, side, side, 3), RGB pixels in 0..255 at the
      model's own side; already cropped.

    Both return `classes`, string (batch, classes), labels with the best first; `scores`, float32
    (batch, classes), their probabilities; and `probabilities`, float32 (batch, classes), in the
    order of `class_names`. Decoding, EXIF orientation, resizing, the centre crop and the
    preprocessing of the weights are inside.

    Args:
        model: a classifier of `transfer.build_classifier`, from pixels to probabilities.
        folder: the model's folder, which holds its versions.
        class_names: labels in the order of the model's outputs.
        mirrored: as in `evaluation.answers`, so that what is served is what was measured.

    Returns:
        The folder of the new version.

    Raises:
        UserError: `folder` cannot be written to or its disk is full; nothing is left there then.
        ValueError: the number of class names is not the model's number of outputs.
    """
    folder = Path(folder)
    if len(class_names) != model.output_shape[-1]:
        raise ValueError(
            f"The model has {model.output_shape[-1]} outputs; received {len(class_names)} class "
            "names."
        )
    check_writable(folder, "--export-dir")
    # Dot and letters: TensorFlow Serving looks at names that are integers only.
    beside = folder / f".writing-{os.getpid()}"
    shutil.rmtree(beside, ignore_errors=True)
    try:
        _write(model, beside, class_names, mirrored)
        return _publish(beside, folder)
    except (OSError, tf.errors.OpError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise full_disk(error, folder) or UserError(
            f"The model could not be exported to {folder} ({str(error).splitlines()[0]}); give "
            "another folder with --export-dir."
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def versions(folder: str | Path) -> list[int]:
    """The versions in a model's folder, ascending."""
    return sorted(int(entry.name) for entry in Path(folder).iterdir() if entry.name.isdecimal())


def _write(model: keras.Model, folder: Path, class_names: Sequence[str], mirrored: bool) -> None:
    side = model.input_shape[1]
    geometry = preprocessing_of(model).geometry
    labels = tf.constant(list(class_names))

    def answer(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = tf.cast(answers(model, pixels, mirrored), tf.float32)
        scores, order = tf.math.top_k(probabilities, k=len(class_names))
        return {
            "classes": tf.gather(labels, order),
            "scores": scores,
            "probabilities": probabilities,
        }

    def from_files(images: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels = tf.map_fn(
            lambda encoded: centre_view(encoded, side, **geometry),
            images,
            fn_output_signature=tf.TensorSpec((side, side, 3), tf.float32),
        )
        return answer(pixels)

    archive: Any = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serving_default", from_files, [tf.TensorSpec((None,), tf.string, name="images")]
    )
    archive.add_endpoint(
        "predict_images",
        answer,
        [tf.TensorSpec((None, side, side, 3), tf.float32, name="images")],
    )
    archive.write_out(str(folder), verbose=False)


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
