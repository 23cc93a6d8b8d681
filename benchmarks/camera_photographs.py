"""Camera-sized JPEGs at reduced scale against full decoding, and against Pillow, in one run.

    python benchmarks/camera_photographs.py FOLDER
    python benchmarks/camera_photographs.py FOLDER --classes FLOWERS --weights TRUNK.npz

FOLDER holds photographs of 8 megapixels or more; eight are resized (Lanczos) to 12 and 24
megapixels and compressed at each quality and chroma subsampling. Each way gives the same square of
224 px (224 of 256 pixels of the shorter side, at the centre, bilinear, antialiased):

* ours: `centre_view`, which decodes at the reduced scale that leaves twice the pixels wanted;
* full: TensorFlow decodes all, crops and resizes;
* Pillow: `resize` with `box`, after full decoding and after `draft` (which also reduces the scale,
  here asked to leave twice the pixels, as `Image.thumbnail` asks).

Ways alternate, on one thread. The table gives the median of the rounds, in milliseconds of the
processor, how many times quicker ours is (least, median and most of the rounds), and how far the
pixels of ours are from full's in levels of 0 to 255: on average, 99% within, and the largest.

With `--classes`, a folder with a subfolder of photographs for each class, and torchvision's
convolutions, accuracy follows: of a linear classifier on the averages of pool5, trained on three
quarters of these photographs as they are. Of the others, 400 are scaled up to 12 megapixels
(Lanczos, and noise as a camera's with a standard deviation of 5 levels), compressed with 4:2:0 and
read in full and by ours.
"""

import argparse
import io
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from PIL import Image

from alexnet_keras import AlexNet, features
from alexnet_keras.data.augmentation import CentreCrop
from alexnet_keras.data.decoding import why_unreadable
from alexnet_keras.data.folders import read_folder
from alexnet_keras.data.pipeline import centre_view
from alexnet_keras.weights import load_weights
from input_pipeline import machine

ROUNDS = 5
PHOTOGRAPHS = 8
TESTED = 400
MEGAPIXELS = (12, 24)
QUALITIES = (75, 85, 95)
SUBSAMPLINGS = {"4:2:0": 2, "4:4:4": 0}
SIZE, RATIO = 224, 256 / 224
SCALAR = [tf.TensorSpec([], tf.string)]


@tf.function(input_signature=SCALAR)
def ours(encoded: tf.Tensor) -> tf.Tensor:
    return centre_view(encoded, SIZE, RATIO)


@tf.function(input_signature=SCALAR)
def full(encoded: tf.Tensor) -> tf.Tensor:
    pixels = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
    height, width, _ = tf.unstack(tf.shape(pixels))
    top, left, rows, columns = tf.unstack(CentreCrop(RATIO)(height, width))
    pixels = pixels[top : top + rows, left : left + columns]
    return tf.image.resize(pixels, (SIZE, SIZE), antialias=True)


def pillow(encoded: tf.Tensor, draft: bool = False) -> np.ndarray:
    image = Image.open(io.BytesIO(encoded.numpy()))
    width, height = image.size
    side = round(min(image.size) / RATIO)
    left, top = (width - side) // 2, (height - side) // 2
    scale = 1.0
    if draft:
        least = 2 * SIZE * RATIO / min(image.size)
        _, box = image.draft("RGB", (int(width * least), int(height * least)))
        scale = width / box[2]
    window = [edge / scale for edge in (left, top, left + side, top + side)]
    image = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=window)
    return np.asarray(image, np.float32)


WAYS = {
    "ours": ours,
    "full": full,
    "Pillow": pillow,
    "draft": lambda encoded: pillow(encoded, draft=True),
}


def compress(image: Image.Image, quality: int, subsampling: int) -> tf.Tensor:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return tf.constant(buffer.getvalue())


def scaled(image: Image.Image, megapixels: float) -> Image.Image:
    factor = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
    size = (round(image.width * factor), round(image.height * factor))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def camera_photographs(folder: Path) -> list[Path]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    large = []
    for path in paths:
        with Image.open(path) as image:
            size = image.width * image.height
        if size >= 8e6 and why_unreadable(path.read_bytes()) is None:
            large.append(path)
    if not large:
        sys.exit(f"{folder} holds no JPEG of 8 megapixels or more.")
    picked = np.linspace(0, len(large) - 1, min(PHOTOGRAPHS, len(large))).round().astype(int)
    return [large[index] for index in picked]


def print_row(images: list[Image.Image], label: str, quality: int, subsampling: int) -> None:
    encoded = [compress(image, quality, subsampling) for image in images]
    far = np.abs([ours(one).numpy() - full(one).numpy() for one in encoded])
    seconds = {name: [] for name in WAYS}
    for _ in range(ROUNDS):
        spent = dict.fromkeys(WAYS, 0.0)
        for one in encoded:
            for name, way in WAYS.items():
                began = time.process_time()
                way(one)
                spent[name] += time.process_time() - began
        for name, total in spent.items():
            seconds[name].append(total / len(encoded))
    cells = [f"{statistics.median(values) * 1e3:8.1f}" for values in seconds.values()]
    for name in list(WAYS)[1:]:
        ratios = [a / b for a, b in zip(seconds[name], seconds["ours"], strict=True)]
        cells.append(f"  {statistics.median(ratios):4.2f} ({min(ratios):.2f}-{max(ratios):.2f})")
    size = np.mean([len(one.numpy()) for one in encoded]) / 1e6
    distance = f"{far.mean():8.2f}{np.percentile(far, 99):6.1f}{far.max():5.0f}"
    print(f"{label} {quality:3} {size:5.1f}{''.join(cells)}{distance}", flush=True)


def print_accuracy(classes: Path, weights: Path) -> None:
    model = AlexNet(variant="torchvision", include_top=False)
    load_weights(model, weights)
    trunk = features(model, ["pool5"])

    def describe(views: list) -> np.ndarray:
        """pool5 averaged over its places, and 1 for the bias."""
        pool5 = trunk.predict(np.stack(views), batch_size=32, verbose=0)["pool5"]
        return np.concatenate([pool5.mean((1, 2)), np.ones((len(pool5), 1))], axis=1)

    examples = read_folder(classes)
    order = np.random.default_rng(0).permutation(len(examples))
    training = order[: len(order) * 3 // 4]
    tested = order[len(training) :][:TESTED]
    labels = np.asarray(examples.labels)
    known, plain = (
        describe([ours(tf.constant(examples.read(index))) for index in indices])
        for indices in (training, tested)
    )
    targets = np.eye(len(examples.class_names))[labels[training]]
    # Least squares, with the usual small penalty: no step size or stopping to choose.
    penalty = 0.01 * np.trace(known.T @ known) / known.shape[1] * np.eye(known.shape[1])
    classifier = np.linalg.solve(known.T @ known + penalty, known.T @ targets)

    right = int(((plain @ classifier).argmax(1) == labels[tested]).sum())
    print(f"{len(tested)} photographs: right as they are {right}")
    noise = np.random.default_rng(0).normal(0, 5, (1 << 22,)).astype(np.float32)
    for quality in QUALITIES:
        views = {"full": [], "ours": []}
        for index in tested:
            photograph = Image.open(io.BytesIO(examples.read(index)))
            large = np.asarray(scaled(photograph, 12), np.float32)
            large = np.clip(np.round(large + np.resize(noise, large.shape)), 0, 255)
            encoded = compress(Image.fromarray(large.astype(np.uint8)), quality, 2)
            for name, found in views.items():
                found.append(WAYS[name](encoded))
        said = {name: (describe(v) @ classifier).argmax(1) for name, v in views.items()}
        full_right, ours_right = (int((said[name] == labels[tested]).sum()) for name in views)
        same = int((said["full"] == said["ours"]).sum())
        print(
            f"as 12 megapixels at quality {quality}: right in full {full_right}, by ours "
            f"{ours_right}; the same class said of {same}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Camera-sized JPEGs at reduced scale.")
    parser.add_argument("folder", type=Path, help="JPEG photographs of 8 megapixels or more")
    parser.add_argument("--classes", type=Path, help="photographs in a subfolder for each class")
    parser.add_argument("--weights", type=Path, help="torchvision's convolutions")
    arguments = parser.parse_args()
    if (arguments.classes is None) != (arguments.weights is None):
        parser.error("--classes and --weights belong together")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    paths = camera_photographs(arguments.folder)
    print(machine())
    print(f"{len(paths)} photographs; ms of the processor each; how many times quicker ours is")
    print(
        "MP chroma    q    MB    ours    full  Pillow   draft"
        "        than full      than Pillow       than draft    mean   99%  max"
    )
    for megapixels in MEGAPIXELS:
        images = [scaled(Image.open(path), megapixels) for path in paths]
        for name, subsampling in SUBSAMPLINGS.items():
            for quality in QUALITIES:
                print_row(images, f"{megapixels} {name}", quality, subsampling)
    if arguments.classes:
        print_accuracy(arguments.classes, arguments.weights)


if __name__ == "__main__":
    main()
