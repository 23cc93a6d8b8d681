"""Finding unreadable images before training, not in the middle of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from alexnet_keras.data.decoding import whole_jpeg, why_unreadable
from alexnet_keras.data.examples import Examples
from alexnet_keras.data.threads import in_threads
from alexnet_keras.errors import UserError

#: share of unreadable images above which something is wrong with the whole set
MOST_BAD = 0.05


@dataclass(frozen=True)
class Skipped:
    """An example that cannot be used, and why."""

    key: str
    reason: str


def screen(
    examples: Examples, advance: Callable[[], None] = lambda: None, threads: int = 4
) -> tuple[Examples, list[Skipped]]:
    """The examples that can be read and decoded, and those that cannot.

    Args:
        advance: called once for each example, for a progress bar.
        threads: files read and decoded at a time, of those that are not whole JPEGs.
    """

    readable = np.zeros(len(examples), bool)
    for index in _whole_jpegs(examples):
        readable[index] = True
        advance()
    others = np.flatnonzero(~readable)

    def reason(number: int) -> str | None:
        try:
            content = examples.read(others[number])
        except OSError as error:
            return f"cannot be read ({error.strerror or error})"
        return why_unreadable(content)

    skipped = []
    for index, found in zip(others, in_threads(reason, len(others), threads), strict=True):
        readable[index] = found is None
        if found is not None:
            skipped.append(Skipped(examples.keys[index], found))
        advance()
    if not skipped:
        return examples, []
    return examples.select(np.flatnonzero(readable)), skipped


def _whole_jpegs(examples: Examples) -> Iterator[int]:
    """The numbers of the JPEGs that can be decoded, found by threads that need no Python."""
    load = examples.loader()

    def checked(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return index, whole_jpeg(load(index))

    numbers = (
        tf.data.Dataset.range(len(examples))
        .map(checked, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .ignore_errors()
        .map(lambda index, _: index)
        .batch(64)
    )
    for some in numbers.as_numpy_iterator():
        yield from some.tolist()


def check_skipped(total: int, skipped: list[Skipped], name: str, allow_bad: bool) -> None:
    """Stops a run whose images are mostly or suspiciously often unreadable.

    Raises:
        UserError: none of `total` images is readable, or more than 5% are not and `allow_bad` is
            not set.
    """
    if not skipped:
        return
    first = f"the first is {skipped[0].key}: {skipped[0].reason}"
    if len(skipped) == total:
        raise UserError(
            f"None of the {total} images of {name} can be read ({first}); give photographs in "
            "JPEG, PNG, GIF, BMP or WebP."
        )
    if len(skipped) > MOST_BAD * total and not allow_bad:
        raise UserError(
            f"{len(skipped)} of {total} images of {name} cannot be read, more than "
            f"{MOST_BAD:.0%} ({first}); mend or remove them, or go on without them with "
            "--allow-bad."
        )
