"""The input pipeline against Pillow with NumPy and against bare JPEG decoding, in one run.

    python benchmarks/input_pipeline.py FOLDER

FOLDER holds JPEG photographs of ordinary size (500x375, say; anything below it is searched). Each
way reads the files, decodes, takes the random square crop that is 224 of 256 pixels of the shorter
side, resizes it to 224 px (bilinear, antialiased), flips half of the crops, and gives batches of 32
in float32:

* ours: what training does (`augmented_view`), without colour noise;
* Pillow: `resize` with `box`, which is its quickest way and crops in the same step, into NumPy;
  EXIF orientation, which ours applies, is left out;
* TensorFlow: the usual way in `tf.data`: all is decoded, the shorter side resized to 256, cropped.

The ceiling does nothing but read and decode whole photographs (libjpeg-turbo, by TensorFlow).
A round is one pass of each way over the photographs, the first round not counted. The table gives
images a second and core, the least, median and most of the rounds, and the ratios of ours within
rounds: on one thread in seconds of the processor, which other work on the machine hardly touches,
and on a thread for each core in seconds of the clock.
"""

import argparse
import io
import itertools
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from PIL import Image, features

from alexnet_keras.data.augmentation import Augmentation, ShiftedCrop, Unchanged
from alexnet_keras.data.pipeline import augmented_view

ROUNDS = 7
PHOTOGRAPHS = 512
BATCH = 32
SIZE, RESIZED = 224, 256
CORES = len(os.sched_getaffinity(0))
PLAIN = Augmentation(ShiftedCrop(RESIZED / SIZE), Unchanged())


def ours(path: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    return augmented_view(tf.io.read_file(path), PLAIN, SIZE, seed)


def usual(path: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    pixels = decoded(path)
    shape = tf.cast(tf.shape(pixels)[:2], tf.float32)
    shape = tf.cast(tf.round(shape * RESIZED / tf.reduce_min(shape)), tf.int32)
    pixels = tf.image.resize(pixels, shape, antialias=True)
    pixels = tf.image.stateless_random_crop(pixels, (SIZE, SIZE, 3), seed)
    return tf.image.stateless_random_flip_left_right(pixels, seed)


def decoded(path: tf.Tensor) -> tf.Tensor:
    encoded = tf.io.read_file(path)
    return tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")


def in_tf_data(view: Callable, paths: list[str], threads: int) -> Iterable:
    seeds = np.stack([np.arange(len(paths)), np.zeros(len(paths))], axis=1).astype(np.int32)
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    # They would prefetch, and so work while others are measured.
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    parallel = threads if threads > 1 else None
    views = tf.data.Dataset.from_tensor_slices((paths, seeds)).repeat().map(view, parallel)
    return views.batch(BATCH).with_options(options)


def bare(paths: list[str], threads: int) -> Iterable:
    """Of the decoded photographs only the shapes are handed on."""
    return in_tf_data(lambda path, seed: tf.shape(decoded(path)), paths, threads)


def pillow_view(path: str, seed: int, view: np.ndarray) -> None:
    with open(path, "rb") as file:
        image = Image.open(io.BytesIO(file.read())).convert("RGB")
    rng = np.random.default_rng(seed)
    side = round(min(image.size) * SIZE / RESIZED)
    left, top = (int(rng.integers(whole - side + 1)) for whole in image.size)
    box = (left, top, left + side, top + side)
    image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box)
    if rng.integers(2):
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    view[...] = image


def in_pillow(paths: list[str], threads: int) -> Iterator[np.ndarray]:
    run = map if threads == 1 else ThreadPoolExecutor(threads).map
    order = itertools.cycle(range(len(paths)))
    while True:
        batch = np.empty((BATCH, SIZE, SIZE, 3), np.float32)
        indices = list(itertools.islice(order, BATCH))
        list(run(pillow_view, [paths[index] for index in indices], indices, batch))
        yield batch


WAYS = {
    "ours": lambda paths, threads: in_tf_data(ours, paths, threads),
    "Pillow": in_pillow,
    "TensorFlow": lambda paths, threads: in_tf_data(usual, paths, threads),
    "ceiling": bare,
}


def rate(batches: Iterator, count: int, threads: int) -> float:
    """Images a second and core, over so many batches."""
    clock = time.process_time if threads == 1 else time.perf_counter
    began = clock()
    for _ in range(count):
        next(batches)
    return count * BATCH / (clock() - began) / threads


def machine() -> str:
    """A line that says what was measured on, and with what."""
    names = [platform.machine()]
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")][:1]
    return (
        f"{CORES} cores ({', '.join(names)}), Python {platform.python_version()}, "
        f"TensorFlow {tf.__version__}, Pillow {version('pillow')} with libjpeg-turbo "
        f"{features.version_feature('libjpeg_turbo') or '(none)'}"
    )


def spread(values: list[float], digits: int) -> str:
    parts = (min(values), statistics.median(values), max(values))
    return "".join(f"{value:9.{digits}f}" for value in parts)


def photographs(folder: Path) -> list[str]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if len(paths) < BATCH:
        sys.exit(f"{folder} holds {len(paths)} JPEG files; name a folder of {BATCH} or more.")
    picked = np.linspace(0, len(paths) - 1, min(PHOTOGRAPHS, len(paths))).round().astype(int)
    return [str(paths[index]) for index in picked]


def main() -> None:
    parser = argparse.ArgumentParser(description="The input pipeline, images a second and core.")
    parser.add_argument("folder", type=Path, help="JPEG photographs of ordinary size")
    paths = photographs(parser.parse_args().folder)
    tf.config.threading.set_intra_op_parallelism_threads(1)  # threads share images, not one image
    print(machine())
    sizes = np.array([Image.open(path).size for path in paths])
    width, height = np.median(sizes, axis=0)
    kilobytes = np.mean([os.path.getsize(path) for path in paths]) / 1e3
    print(f"{len(paths)} photographs, median {width:.0f}x{height:.0f}, mean {kilobytes:.0f} kB")

    print(f"{'images a second and core':26}{'least':>9}{'median':>9}{'most':>9}")
    for threads in sorted({1, CORES}):
        batches = {name: iter(way(paths, threads)) for name, way in WAYS.items()}
        rates = {name: [] for name in WAYS}
        for number in range(ROUNDS + 1):
            for name, iterator in batches.items():
                result = rate(iterator, len(paths) // BATCH, threads)
                if number > 0:
                    rates[name].append(result)
        print(f"{threads} thread{'s' * (threads > 1)}")
        for name, values in rates.items():
            print(f"  {name:24}{spread(values, 0)}")
        for name in list(WAYS)[1:]:
            ratios = [a / b for a, b in zip(rates["ours"], rates[name], strict=True)]
            print(f"  {'ours / ' + name:24}{spread(ratios, 2)}")


if __name__ == "__main__":
    main()
