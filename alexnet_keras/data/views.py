"""Views of photographs that are the same in every run, and say all that they depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import tensorflow as tf

from alexnet_keras.data.augmentation import Augmentation
from alexnet_keras.data.pipeline import augmented_view, centre_view


class View(Protocol):
    """What a net is shown of a photograph.

    Two views whose `repr` is the same show the same of the same bytes, wherever the photograph
    stands in its set and whatever it is called.
    """

    def __call__(self, encoded: tf.Tensor, seed: tf.Tensor, image_size: int) -> tf.Tensor:
        """float32 (image_size, image_size, 3) in 0..255 of one encoded image.

        Args:
            seed: int64 scalar that belongs to the image's bytes.
        """


@dataclass(frozen=True)
class CentreView:
    """What evaluation sees, or its left-right mirror.

    Attributes:
        resize_ratio, keep_aspect: as in `centre_view`.
    """

    resize_ratio: float
    keep_aspect: bool = True
    mirrored: bool = False

    def __call__(self, encoded: tf.Tensor, seed: tf.Tensor, image_size: int) -> tf.Tensor:
        pixels = centre_view(encoded, image_size, self.resize_ratio, self.keep_aspect)
        return tf.reverse(pixels, [1]) if self.mirrored else pixels


@dataclass(frozen=True)
class RandomView:
    """One of the views that training sees.

    Attributes:
        number: which; two numbers give independent views of each photograph.
    """

    augmentation: Augmentation
    number: int = 0

    def __call__(self, encoded: tf.Tensor, seed: tf.Tensor, image_size: int) -> tf.Tensor:
        keyed = tf.stack([seed, tf.cast(self.number, tf.int64)])
        return augmented_view(encoded, self.augmentation, image_size, keyed)
