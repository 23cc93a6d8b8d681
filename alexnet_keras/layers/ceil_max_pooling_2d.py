"""Max pooling whose output size is rounded up, as in the 2012 source and in Caffe."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="alexnet_keras")
class CeilMaxPooling2D(keras.layers.MaxPooling2D):
    """Max pooling whose last windows may hang over the bottom and the right edge.

    A side of n pixels gives `ceil((n - pool_size) / strides) + 1` outputs, the last window being
    cut off at the edge; Keras rounds down and leaves the last pixels out. The two agree where the
    windows fit, as at 55, 27 and 13, the sides that AlexNet pools at its own input size. What
    hangs over is padded with minus infinity (integers: their least value), so that neither values
    nor gradients come from there. If several pixels of a window are the greatest, one gets the
    gradient; akrizhevsky/cuda-convnet2 (`kLocalMaxUndo`) gives it to each.

    Source: `PoolLayerParser` in `layer.py` of computerhistory/AlexNet-Source-Code, `Reshape` and
    `Forward_cpu` in `src/caffe/layers/pooling_layer.cpp` of BVLC/caffe (without its padding).
    `torch.nn.MaxPool2d(pool_size, strides, ceil_mode=True)` is the same.

    Input and output are (batch, height, width, channels), of the policy's compute dtype; integers
    stay as they are. Height and width may be unknown.

    Args:
        pool_size: side of the window in pixels, or (height, width).
        strides: step from window to window in pixels, or (height, width), from 1 to `pool_size`:
            with a longer one the last window could lie outside the image. `None`: `pool_size`.

    Raises:
        ValueError: an argument outside these bounds, an input that is not 4-D or has a side of
            `pool_size - strides` pixels or fewer, or Keras set to channels-first images.
    """

    def __init__(
        self,
        pool_size: int | tuple[int, int] = 3,
        strides: int | tuple[int, int] | None = 2,
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_size, strides, padding="valid", data_format="channels_last", **kwargs)
        if any(not 1 <= s <= p for p, s in zip(self.pool_size, self.strides, strict=True)):
            raise ValueError(
                "strides have to be from 1 to pool_size, for every window to start inside the "
                f"image; received strides={strides} with pool_size={pool_size}."
            )
        if keras.config.image_data_format() != "channels_last":
            raise ValueError(
                "CeilMaxPooling2D is channels-last; received image_data_format='channels_first'. "
                "Call keras.config.set_image_data_format('channels_last')."
            )

    def call(self, inputs: Any) -> Any:
        bottom, right = self._overhangs(inputs.shape)
        if bottom or right:
            dtype = keras.backend.standardize_dtype(inputs.dtype)
            least = np.iinfo(dtype).min if "int" in dtype else -np.inf
            inputs = ops.pad(
                inputs, [[0, 0], [0, bottom], [0, right], [0, 0]], constant_values=least
            )
        return super().call(inputs)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        batch, height, width, channels = input_shape
        bottom, right = self._overhangs(input_shape)
        padded = (
            batch,
            None if height is None else height + bottom,
            None if width is None else width + right,
            channels,
        )
        return super().compute_output_shape(padded)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["padding"], config["data_format"]
        return config

    def _overhangs(self, shape: tuple[int | None, ...]) -> list[int]:
        """By how many pixels the last windows pass the bottom and the right edge."""
        overhangs = []
        for side, pool, stride in zip(shape[1:3], self.pool_size, self.strides, strict=True):
            if side is not None and side <= pool - stride:
                raise ValueError(
                    f"CeilMaxPooling2D with pool_size={self.pool_size} and strides={self.strides} "
                    f"needs sides of more than {pool - stride} pixels; received an input of "
                    f"{tuple(shape)}."
                )
            # Rounding down after one pixel less than a stride is rounding up.
            overhangs.append(stride - 1 if side is None else (pool - side) % stride)
        return overhangs
