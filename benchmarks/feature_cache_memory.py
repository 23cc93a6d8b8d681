"""Peak memory of training on stored outputs, over the number of photographs.

    python benchmarks/feature_cache_memory.py --work FOLDER [--images 10000 100000]

For each number of images, which are drawn at 64 px and lie in files of their own, a process of its
own trains the head of a narrow net on stored outputs of its frozen convolutions: two views of each
image, four epochs. What memory a run needs beyond that should not grow with the images.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 64
CLASSES = 10
PER_FOLDER = 1000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="for images and outputs")
    parser.add_argument("--images", nargs="+", type=int, default=[10_000, 100_000])
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measured(options.only, options.work)))
        return
    draw(max(options.images), options.work / "images")
    print("| images | peak memory | outputs on disk | seconds |\n|---|---|---|---|")
    first = None
    for count in options.images:
        command = [sys.executable, __file__, "--work", str(options.work), "--only", str(count)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        row = json.loads(done.stdout.splitlines()[-1])
        first = first or row["peak"]
        print(
            f"| {count:,} | {row['peak'] / 2**20:,.0f} MiB, {row['peak'] / first:.2f} times the "
            f"first | {row['stored'] / 2**20:,.0f} MiB | {row['seconds']:.0f} |",
            flush=True,
        )


def draw(count: int, folder: Path) -> None:
    """Files of coarse noise, each another, a thousand in a folder."""
    for number in range(count):
        path = image_path(folder, number)
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(coarse).resize((SIDE, SIDE)).save(path, quality=80)


def image_path(folder: Path, number: int) -> Path:
    return folder / f"{number // PER_FOLDER:05}" / f"{number:07}.jpg"


def measured(count: int, work: Path) -> dict[str, float]:
    import time

    import keras

    from alexnet_keras.alexnet import build
    from alexnet_keras.data import AUGMENTATIONS, Examples, Splits
    from alexnet_keras.training import EpochLog
    from alexnet_keras.transfer import FeatureCache, Settings, fine_tune, plan_phases
    from alexnet_keras.variants import VARIANTS
    from alexnet_keras.weights import PREPROCESSING, InputPreprocessing

    keras.utils.set_random_seed(0)
    row = replace(VARIANTS["torchvision"], filters=(8, 8, 8, 8, 64), hidden_units=(16, 16))
    pixels = keras.Input((SIDE, SIDE, 3), name="image")
    preprocessing = InputPreprocessing.of(PREPROCESSING["torchvision"])
    model = build(row, input_tensor=preprocessing(pixels), classes=CLASSES)
    paths = [image_path(work / "images", number) for number in range(count)]
    labels = np.arange(count, dtype=np.int32) % CLASSES
    names = tuple(f"class {number}" for number in range(CLASSES))
    examples = Examples("drawn", names, [path.name for path in paths], labels, paths)
    stopping = count // 10
    splits = Splits(
        examples.select(np.arange(stopping, count)),
        examples.select(np.arange(stopping)),
        examples.select(np.arange(1)),
    )
    phases = plan_phases(
        model,
        [f"conv{number}" for number in range(1, 6)],
        unfreeze_from=(),
        head_epochs=4,
        epochs=0,
        learning_rate=0.01,
    )
    folder = work / f"run-{count}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    cache = FeatureCache(folder / "outputs")
    began = time.monotonic()
    fine_tune(
        model,
        splits,
        phases,
        Settings(AUGMENTATIONS["random_resized_crop"](), batch_size=256, views=2, patience=1.0),
        log=EpochLog(folder / "history.csv", folder / "tensorboard"),
        cache=cache,
        verbose=0,
    )
    (stored,) = cache.sets()
    if stored.outputs < 2 * (count - stopping):
        raise SystemExit(f"Only {stored.outputs} outputs were stored; the measurement is void.")
    return {
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "stored": stored.size,
        "seconds": time.monotonic() - began,
    }


if __name__ == "__main__":
    main()
