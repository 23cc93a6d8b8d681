"""Mixup and CutMix by Keras's own layers, keyed by seed, step and place in the batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from alexnet_keras.errors import UserError

#: consecutive examples of a batch that are mixed among themselves. A process then needs no
#: photographs but its own, and the same ones are mixed whatever the number of processes.
GROUP = 8


@dataclass(frozen=True)
class Mixing:
    """Training on mixtures of two examples; with both kinds on, each group takes one at random.

    Attributes:
        mixup: alpha of mixup (arXiv:1710.09412): both images are blended, the weights drawn from
            Beta(alpha, alpha); 0 for none.
        cutmix: alpha of CutMix (arXiv:1905.04899), up to 1: a box of one image replaces that of the
            other, and leaves it a share drawn from Beta(alpha, alpha); 0 for none.

    Raises:
        UserError: an alpha outside its range.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.mixup < math.inf:
            raise UserError(
                f"mixup={self.mixup} is the alpha of a Beta distribution; give 0 (none) or more."
            )
        if not 0 <= self.cutmix <= 1:
            raise UserError(
                f"cutmix={self.cutmix} is the alpha of a Beta distribution, of which Keras's layer "
                "takes 0 to 1; give 0 (none) to 1."
            )

    @property
    def is_on(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def mixer(self) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
        """A function that mixes one group of examples.

        It takes images (GROUP, height, width, 3), one-hot labels (GROUP, classes), which of them
        may be mixed into others, bool (GROUP,), and a stateless seed, int64 [2]; it returns mixed
        images and labels.
        """
        kinds = []
        if self.mixup:
            kinds.append(keras.layers.MixUp(alpha=self.mixup, dtype="float32"))
        if self.cutmix:
            # One number would stand for an alpha drawn anew between 0 and that.
            alpha = (self.cutmix, self.cutmix)
            kinds.append(keras.layers.CutMix(factor=alpha, dtype="float32"))

        def mix(
            images: tf.Tensor, labels: tf.Tensor, usable: tf.Tensor, seed: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor]:
            branches = [
                lambda kind=kind: _mix(kind, images, labels, usable, seed) for kind in kinds
            ]
            if len(branches) == 1:
                return branches[0]()
            first = tf.random.stateless_uniform([], tf.random.fold_in(seed, -1)) < 0.5
            return tf.cond(first, *branches)

        return mix


def _mix(
    kind: keras.Layer, images: tf.Tensor, labels: tf.Tensor, usable: tf.Tensor, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    chosen = kind.get_random_transformation(
        {"images": images, "labels": labels}, training=True, seed=_Keyed(seed)
    )
    partners = chosen["permutation_order"]
    itself = tf.range(tf.shape(partners)[0], dtype=partners.dtype)
    chosen["permutation_order"] = tf.where(tf.gather(usable, partners), partners, itself)
    return (
        kind.transform_images(images, chosen, training=True),
        kind.transform_labels(labels, chosen, training=True),
    )


class _Keyed(keras.random.SeedGenerator):
    """Seeds that follow from one given seed, in order, in place of a counter's."""

    def __init__(self, seed: tf.Tensor) -> None:
        # Not the parent's, which makes a variable: this one lives inside a traced function.
        self._seed, self._drawn = seed, 0

    def next(self, ordered: bool = True) -> Any:
        self._drawn += 1
        return tf.cast(tf.random.fold_in(self._seed, self._drawn), tf.int32)
