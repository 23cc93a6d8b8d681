"""Augmentation presets: where to crop, and what to do to the colours.

Every op takes an explicit stateless seed (int32 [2]), so that the same example in the same step is
augmented alike, whatever thread works on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import tensorflow as tf

from alexnet_keras.layers import PCAColorAugmentation

#: (height, width, seed) of an image to the window (top, left, height, width), int32 [4]
Crop = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
#: (pixels, seed) to pixels, float32 [size, size, 3] in 0..255
Recolor = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
#: the least share of an image that a crop may show: that of the paper behind `AreaCrop`
LEAST_AREA = 0.08


@dataclass(frozen=True)
class Augmentation:
    """A training view: a random crop, a left-right mirror in half of all cases, new colours.

    The crops and colours of this module are values: two augmentations that are equal give the same
    views, and their `repr` says all that a view depends on besides image and seed.

    Attributes:
        mirror: False for photographs whose mirror image is something else, such as letters.
    """

    crop: Crop
    recolor: Recolor
    mirror: bool = True

    def at_strength(self, strength: float) -> Augmentation:
        """The same with changes of `strength` times the size: 0 for none, 1 for these.

        An area grows towards the whole image, an aspect ratio towards 1 in its logarithm; shares of
        colours and deviations of noise are multiplied. A mirror stays one.
        """
        if strength == 1:
            return self
        return replace(
            self, crop=self.crop.at_strength(strength), recolor=self.recolor.at_strength(strength)
        )


@dataclass(frozen=True)
class CentreCrop:
    """The centred square whose side is the shorter side divided by `ratio` (256/224, say).

    Without `keep_aspect` each side of the window is its own side of the image divided by `ratio`:
    the same as stretching the image to a square first. No seed is needed; one is ignored.
    """

    ratio: float
    keep_aspect: bool = True

    def __call__(
        self, height: tf.Tensor, width: tf.Tensor, seed: tf.Tensor | None = None
    ) -> tf.Tensor:
        if self.keep_aspect:
            rows = columns = _crop_side(height, width, self.ratio)
        else:
            rows = _crop_side(height, height, self.ratio)
            columns = _crop_side(width, width, self.ratio)
        return tf.stack([(height - rows) // 2, (width - columns) // 2, rows, columns])


@dataclass(frozen=True)
class ShiftedCrop:
    """A square of the centre crop's size at a random place of the whole photograph.

    `PublishedCrop` stays within the photograph's central square, as the paper does; this one also
    shows what lies outside it. The window is chosen first and only its pixels are decoded and
    resized.
    """

    ratio: float

    def at_strength(self, strength: float) -> ShiftedCrop:
        """Larger squares have less room to be shifted in."""
        return ShiftedCrop(1 + (self.ratio - 1) * strength)

    def __call__(self, height: tf.Tensor, width: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        side = _crop_side(height, width, self.ratio)
        top, left = tf.unstack(tf.random.stateless_uniform([2], seed))
        return tf.stack([_at(top, height - side), _at(left, width - side), side, side])


@dataclass(frozen=True)
class PublishedCrop:
    """A random place within what evaluation resizes: the paper's crops (section 4.1).

    The shorter side is resized to 256 and the central square of 256 taken (without `keep_aspect`,
    as Caffe does, the image is stretched to that square); a training view is 224 by 224 of it at a
    random place, and so can be any of evaluation's crops. As in `ShiftedCrop` only the window's
    pixels are decoded; places are whole pixels of the photograph.

    Attributes:
        ratio, keep_aspect: as in `CentreCrop`; those of the net's `Preprocessing`.
    """

    ratio: float
    keep_aspect: bool = True

    def at_strength(self, strength: float) -> PublishedCrop:
        """As `ShiftedCrop`'s."""
        return replace(self, ratio=1 + (self.ratio - 1) * strength)

    def __call__(self, height: tf.Tensor, width: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        centre = CentreCrop(self.ratio, self.keep_aspect)
        top, left, rows, columns = tf.unstack(centre(height, width))
        square = tf.minimum(height, width)
        free_rows = (square if self.keep_aspect else height) - rows
        free_columns = (square if self.keep_aspect else width) - columns
        down, right = tf.unstack(tf.random.stateless_uniform([2], seed))
        return tf.stack(
            [
                top - free_rows // 2 + _at(down, free_rows),
                left - free_columns // 2 + _at(right, free_columns),
                rows,
                columns,
            ]
        )


@dataclass(frozen=True)
class AreaCrop:
    """A window of random area (a share of the image) and aspect ratio (width by height).

    After "Going deeper with convolutions" (arXiv:1409.4842, section 6), whose areas begin at .08:
    too small where photographs are few and the whole flower tells. The aspect is drawn evenly in
    its logarithm; a window too long for the image is cut to it.
    """

    area: tuple[float, float] = (0.35, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)

    def at_strength(self, strength: float) -> AreaCrop:
        low, high = (max(1 - (1 - share) * strength, LEAST_AREA) for share in self.area)
        return AreaCrop((low, high), tuple(ratio**strength for ratio in self.aspect))

    def __call__(self, height: tf.Tensor, width: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        u = tf.random.stateless_uniform([4], seed)
        share = self.area[0] + (self.area[1] - self.area[0]) * u[0]
        low, high = math.log(self.aspect[0]), math.log(self.aspect[1])
        ratio = tf.exp(low + (high - low) * u[1])
        full_height, full_width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
        pixels = share * full_height * full_width
        crop_height = tf.clip_by_value(tf.sqrt(pixels / ratio), 1.0, full_height)
        crop_width = tf.clip_by_value(tf.sqrt(pixels * ratio), 1.0, full_width)
        crop_height = tf.cast(tf.round(crop_height), tf.int32)
        crop_width = tf.cast(tf.round(crop_width), tf.int32)
        return tf.stack(
            [
                _at(u[2], height - crop_height),
                _at(u[3], width - crop_width),
                crop_height,
                crop_width,
            ]
        )


@dataclass(frozen=True)
class PCANoise:
    """The paper's colour noise (section 4.1), scaled as in the 2012 code."""

    sigma: float = 0.1
    # Made with the augmentation: a data pipeline, which calls this, is no place to make variables.
    layer: PCAColorAugmentation = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        layer = PCAColorAugmentation(
            self.sigma, scale="stddev", value_range=(0, 255), dtype="float32"
        )
        object.__setattr__(self, "layer", layer)  # how a frozen dataclass sets its own

    def at_strength(self, strength: float) -> PCANoise:
        return PCANoise(self.sigma * strength)

    def __call__(self, pixels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        noise = self.layer.sigma * tf.random.stateless_normal([3], seed)
        return self.layer.augment(pixels, noise)


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast and saturation, each multiplied by 1 plus or minus up to the share."""

    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3

    def at_strength(self, strength: float) -> ColorJitter:
        shares = (self.brightness, self.contrast, self.saturation)
        return ColorJitter(*(min(share * strength, 1.0) for share in shares))

    def __call__(self, pixels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        b, c, s = tf.unstack(tf.random.stateless_uniform([3], seed, -1.0, 1.0))
        pixels *= 1 + self.brightness * b
        gray = tf.tensordot(pixels, tf.constant([0.299, 0.587, 0.114]), 1)[..., tf.newaxis]
        pixels = gray + (1 + self.saturation * s) * (pixels - gray)
        mean = tf.reduce_mean(gray)
        pixels = mean + (1 + self.contrast * c) * (pixels - mean)
        return tf.clip_by_value(pixels, 0.0, 255.0)


@dataclass(frozen=True)
class Unchanged:
    """Colours as they are."""

    def at_strength(self, strength: float) -> Unchanged:
        return self

    def __call__(self, pixels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return pixels


AUGMENTATIONS: dict[str, Callable[[], Augmentation]] = {
    "alexnet2012": lambda: Augmentation(ShiftedCrop(256 / 224), PCANoise()),
    "inception": lambda: Augmentation(AreaCrop(), ColorJitter()),
    # Near what evaluation shows: a linear classifier on stored outputs has no use for other scales.
    "gentle": lambda: Augmentation(AreaCrop((0.7, 1.0), (0.85, 1 / 0.85)), ColorJitter()),
    "random_resized_crop": lambda: Augmentation(AreaCrop(), Unchanged()),
}


def published_augmentation(
    resize_ratio: float, keep_aspect: bool = True, color_noise: bool = True
) -> Augmentation:
    """The views of 2012 for a net's own geometry: random places, flips and PCA colour noise.

    Args:
        resize_ratio, keep_aspect: of the net's `Preprocessing`, which evaluation uses too.
        color_noise: Caffe trained without it.
    """
    recolor = PCANoise() if color_noise else Unchanged()
    return Augmentation(PublishedCrop(resize_ratio, keep_aspect), recolor)


def _crop_side(height: tf.Tensor, width: tf.Tensor, ratio: float) -> tf.Tensor:
    shorter = tf.cast(tf.minimum(height, width), tf.float32)
    return tf.maximum(tf.cast(tf.round(shorter / ratio), tf.int32), 1)


def _at(share: tf.Tensor, room: tf.Tensor) -> tf.Tensor:
    """An offset in 0..room, evenly, from `share` in [0, 1)."""
    return tf.minimum(tf.cast(share * tf.cast(room + 1, tf.float32), tf.int32), room)
