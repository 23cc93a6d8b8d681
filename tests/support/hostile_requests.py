"""Sends damaged images and tf.Examples through an exported model, in a process that may die of it.

    python hostile_requests.py MODEL FIRST COUNT

Each batch has two good images among six mutants. A line of JSON after each batch: the number of
mutants so far, what became of them, and the process's memory in bytes. A wrong answer ends it.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from mutants import mutant
from served_model import animated_gif, as_example, picture

MUTANTS, GOOD = 6, 2
ORIGINALS = [
    picture("JPEG", 1),
    picture("JPEG", 2, (400, 300), progressive=True),
    picture("JPEG", 3, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"),
    picture("PNG", 4),
    picture("PNG", 5, (70, 70), bits=4),
    picture("WEBP", 6),
    picture("WEBP", 7, lossless=True),
    picture("GIF", 8),
    animated_gif(5, 80),
    picture("BMP", 9),
]
SOUND = [picture("JPEG", 20), picture("PNG", 21)]


def memory() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * 4096


def main(path: str, first: int, count: int) -> None:
    import tensorflow as tf

    signatures = tf.saved_model.load(path).signatures
    images, examples = signatures["serving_default"], signatures["classify"]
    expected = images(images=tf.constant(SOUND))
    labels, scores = expected["classes"].numpy(), expected["scores"].numpy()
    serialized = [as_example(original) for original in ORIGINALS]
    outcomes: Counter = Counter()
    for seed in range(first, first + count, MUTANTS):
        rng = random.Random(seed)
        of_examples = rng.random() < 0.3
        source = serialized if of_examples else ORIGINALS
        batch = [mutant(rng.choice(source), number) for number in range(seed, seed + MUTANTS)]
        places = sorted(rng.sample(range(MUTANTS + GOOD), GOOD))
        for place, sound in zip(places, SOUND, strict=True):
            batch.insert(place, as_example(sound) if of_examples else sound)
        if of_examples:
            answer = examples(inputs=tf.constant(batch))
        else:
            answer = images(images=tf.constant(batch))
        found = {name: value.numpy() for name, value in answer.items()}
        right = (
            (found["classes"][places] == labels).all()
            and np.abs(found["scores"][places] - scores).max() < 1e-5
            and np.isfinite(found["scores"]).all()
        )
        for place in set(range(len(batch))) - set(places):
            answered = found["classes"][place, 0] != b""
            outcomes["answered" if answered else "refused"] += 1
            if "error" in found:
                right = right and answered == (found["error"][place] == b"")
            right = right and answered == (found["scores"][place].max() > 0)
        if not right:
            raise SystemExit(f"wrong answer at seed {seed}: {found}")
        print(json.dumps([seed + MUTANTS - first, dict(outcomes), memory()]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
