"""Bilinear pooling: which features occur together, averaged over positions."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops
from scipy import fft

#: below the root, as a share of the mean square of an activation: at 0 its slope is infinite
_OFFSET = 1e-5
#: the least that is divided by, so that a map of zeros stays one; compilers square it for gradients
_LEAST = 1e-18


@keras.saving.register_keras_serializable(package="alexnet_keras")
class BilinearPooling(keras.layers.Layer):
    """The second moments of activations over positions, with signed square root and unit length.

    For each pair of channels `i <= j` the mean over all positions of `a[i] * a[j]`, then
    `sign(m) * sqrt(|m|)`, then all divided by their length (Euclidean), so that neither the size of
    the map nor the scale of its activations matters. An average over positions tells how much there
    is of each feature; this also tells which ones stand at the same place, which separates classes
    that consist of the same parts. On ImageNet-trained convolutions without fine-tuning a linear
    classifier on it labels a set of 200 birds half as often again right as one on fc6 and fc7 (Lin,
    RoyChowdhury and Maji, "Bilinear CNN models for fine-grained visual recognition", ICCV 2015,
    arXiv:1504.07889: section 3.1 for the formulas, of which this is the case of two equal streams).

    The number of pairs grows with the square of the channels. With `projected` the activations at
    each position are first projected onto so many of them: the lowest frequencies of the discrete
    cosine transform over the channels (DCT-II, orthonormal). The channels of a trained net stand in
    no order, so that no frequency means more than another: it does what a random projection does,
    which nearly keeps lengths and products (Johnson and Lindenstrauss, 1984), without a seed, and
    without weights that a file would have to keep.

    Computes in float32 under every dtype policy; only the products of bfloat16 activations are in
    bfloat16, summed by the backend in more. Those of float16 would leave its range.

    Input: (batch, height, width, channels). Output: (batch, n * (n + 1) / 2) in float32, n being
    the channels or, if that is less, `projected`; in the order of the upper triangle, row by row.

    Args:
        projected: channels to project onto; `None` pairs the activations as they are.

    Raises:
        ValueError: `projected` is less than 1; an input that is not 4-D, or whose number of
            channels is unknown.
    """

    def __init__(self, projected: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if projected is not None and projected < 1:
            raise ValueError(f"projected={projected!r} is not at least 1.")
        self.projected = projected

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if len(input_shape) != 4 or input_shape[-1] is None:
            raise ValueError(
                "BilinearPooling takes (batch, height, width, channels) with a known number of "
                f"channels; received {tuple(input_shape)}."
            )
        channels, paired = input_shape[-1], self._paired(input_shape)
        self._basis = None
        if paired < channels:
            self._basis = fft.dct(np.eye(channels), norm="ortho")[:, :paired].astype("float32")
        rows, columns = np.triu_indices(paired)
        self._places = (rows * paired + columns).astype("int32")
        self.built = True

    def call(self, inputs: Any) -> Any:
        if keras.backend.standardize_dtype(inputs.dtype) == "float16":
            inputs = ops.cast(inputs, "float32")
        _, height, width, channels = inputs.shape
        if None in (height, width):
            height, width = ops.shape(inputs)[1:3]
        at_positions = ops.reshape(inputs, (-1, height * width, channels))
        if self._basis is not None:
            at_positions = ops.matmul(at_positions, ops.cast(self._basis, inputs.dtype))
            channels = self.projected
        products = ops.matmul(ops.transpose(at_positions, (0, 2, 1)), at_positions)
        products = ops.cast(products, "float32")
        # As shares of the mean square (their trace), so that the offset is as small for all trunks.
        squares = ops.square(ops.cast(at_positions, "float32"))
        energy = ops.sum(squares, axis=(1, 2))[:, None] / channels
        flat = ops.reshape(products, (-1, channels * channels))
        pairs = ops.take(flat, self._places, axis=1) / ops.maximum(energy, _LEAST)
        roots = ops.sign(pairs) * (ops.sqrt(ops.abs(pairs) + _OFFSET) - _OFFSET**0.5)
        # Not ops.normalize, whose gradient at zeros is no number once XLA has compiled it.
        squares = ops.sum(ops.square(roots), axis=-1, keepdims=True)
        return roots * ops.rsqrt(ops.maximum(squares, _LEAST))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, int]:
        paired = self._paired(input_shape)
        return input_shape[0], paired * (paired + 1) // 2

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype="float32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "projected": self.projected}

    def _paired(self, input_shape: tuple[int | None, ...]) -> int:
        channels = input_shape[-1]
        return channels if self.projected is None else min(channels, self.projected)
