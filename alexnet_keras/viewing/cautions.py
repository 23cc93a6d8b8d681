"""What a reader of a run's figures should be warned of, in sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from alexnet_keras.evaluation import Answers, wilson_interval

#: an interval of the accuracy that is wider than this share hides differences of a few points
WIDE = 0.05
#: classes are unevenly filled where the largest has at least this many times the smallest's
UNEVEN = 5


def cautions(
    train_counts: np.ndarray | Sequence[int], class_names: Sequence[str], answers: Answers
) -> list[str]:
    """A sentence for each reason to read the accuracy with care; none where there is none.

    - Its 95% interval by bootstrap over the photographs is wider than `WIDE`.
    - The interval reaches down to what always giving the commonest class would be right in.
    - The largest class has at least `UNEVEN` times as many training photographs as the smallest.

    Args:
        train_counts: photographs of each class that the net learned from, (classes,).
        class_names: the classes in order.
        answers: to the validation photographs.
    """
    return [
        *_of_the_interval(class_names, answers),
        *_of_the_balance(np.asarray(train_counts), class_names, answers),
    ]


def _of_the_interval(class_names: Sequence[str], answers: Answers) -> list[str]:
    if not len(answers):
        return []
    top1, photographs = answers.top(1), f"{len(answers):,} photograph{'s' * (len(answers) > 1)}"
    low, high = answers.bootstrap_interval()
    method = "bootstrap"
    if not low < high:
        # Answers that are all alike give a bootstrap nothing to vary.
        low, high = wilson_interval(answers.right.sum(), len(answers))
        method = "Wilson's score"
    interval = f"95% interval {100 * low:.1f} to {100 * high:.1f} by {method}, {photographs}"
    sentences = []
    if high - low > WIDE:
        # Two runs have an error each: that of their difference is the square root of two larger.
        noise = 100 * (high - low) / math.sqrt(2)
        sentences.append(
            f"A difference of less than {noise:.1f} points between two runs is within noise: "
            f"{interval}."
        )
    counts = np.bincount(answers.labels, minlength=len(class_names))
    commonest = int(counts.argmax())
    share = counts[commonest] / len(answers)
    if low <= share:
        sentences.append(
            f"The accuracy of {top1:.1%} is not shown to be better than always answering "
            f"{class_names[commonest]!r}, which would be right in {share:.1%}: {interval}."
        )
    return sentences


def _of_the_balance(counts: np.ndarray, class_names: Sequence[str], answers: Answers) -> list[str]:
    largest, smallest = int(counts.argmax()), int(counts.argmin())
    if counts[largest] == 0 or counts[largest] < UNEVEN * counts[smallest]:
        return []
    sentence = (
        f"The classes are unevenly filled: {counts[largest]:,} photographs of "
        f"{class_names[largest]!r} to learn from, {counts[smallest]:,} of "
        f"{class_names[smallest]!r}"
    )
    if not len(answers):
        return [sentence + "."]
    return [
        f"{sentence}; the mean of the classes' accuracies is {answers.balanced_accuracy():.1%} "
        f"(balanced accuracy), beside {answers.top(1):.1%} of all photographs."
    ]
