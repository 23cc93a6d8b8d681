"""What it costs to train on stored outputs of frozen layers: cutting, float16, bfloat16.

    python benchmarks/stored_outputs.py PHOTOGRAPHS --model runs/finetune_flowers/TIME/model.keras

PHOTOGRAPHS holds a subfolder of photographs for each class. The model, of a recipe's run, answers
to all of them as a whole in float32, and cut in two: from its trunk's outputs as they are, as the
cache keeps them (float16), and as they are computed and kept where the hardware has units for
bfloat16. Printed is how far the probabilities lie apart, and for how many photographs another class
comes first.
"""

import argparse
from pathlib import Path

import keras
import numpy as np

from alexnet_keras.data import CentreView, fixed_views, load_examples
from alexnet_keras.training import computing_in
from alexnet_keras.transfer import split_model
from alexnet_keras.weights import preprocessing_of


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="PHOTOGRAPHS")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--cut", default="fc8", help="the first layer of the trained part")
    options = parser.parse_args()
    model = keras.models.load_model(options.model)
    examples, _, _ = load_examples("folder", options.folder)
    trunk, tail = split_model(model, options.cut)
    views = fixed_views(
        [(examples, CentreView(**preprocessing_of(model).geometry))],
        image_size=model.input_shape[1],
        batch_size=64,
    )
    answers: dict[str, list[np.ndarray]] = {}

    def note(name: str, probabilities: object) -> None:
        answers.setdefault(name, []).append(np.asarray(probabilities))

    for images, _, _ in views:
        outputs = np.asarray(trunk(images, training=False))
        with computing_in("bfloat16", model):
            short = np.asarray(trunk(images, training=False))
        note("whole", model(images, training=False))
        note("cut", tail(outputs))
        note("float16", tail(outputs.astype(np.float16).astype(np.float32)))
        note("bfloat16, then float16", tail(short.astype(np.float16).astype(np.float32)))
    whole = np.concatenate(answers.pop("whole"))
    print(f"{len(examples):,} photographs, probabilities beside those of the whole in float32\n")
    print("| outputs | largest difference | mean difference | another class first |")
    print("|---|---|---|---|")
    for name, parts in answers.items():
        given = np.concatenate(parts)
        apart = np.abs(given - whole)
        others = int((given.argmax(axis=1) != whole.argmax(axis=1)).sum())
        print(f"| {name} | {apart.max():.1e} | {apart.mean():.1e} | {others} |")


if __name__ == "__main__":
    main()
