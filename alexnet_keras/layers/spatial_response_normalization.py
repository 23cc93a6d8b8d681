"""Local response normalization within each map, from the 2012 source; the paper is silent on it."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="alexnet_keras")
class SpatialResponseNormalization(keras.layers.Layer):
    """Divides each activation by a power of the energy around it in the same map.

    `b[y, x] = a[y, x] / (bias + scale / size**2 * sum(a[window(y), window(x)] ** 2)) ** power`
    for each channel by itself, with `window(i)` the `size` positions from `i - size // 2` on. The
    sum ends at the borders; `size**2` stays. The defaults are those of `cnorm2a` and `cnorm2b`,
    which stand behind the cross-channel normalization of block 2 in the net of the published
    figures (type `rnorm` in `layers/layers-145.cfg`, constants in `layers/layer-params-145.cfg`).

    Source: computerhistory/AlexNet-Source-Code. `layer.py` (`NormLayerParser`) divides the scale
    by `size**2` and reads `minDiv` for the cross-channel kind alone. The release lacks the kernels
    that it was built with; `cudaconv2/conv_util.cu` of cuda-convnet, whose function takes the
    arguments that `ResponseNormLayer` in the release's `src/layer.cu` passes, adds 1 and has the
    window above, for odd and even sizes. So does `cudaconv3/src/conv_util.cu` of
    akrizhevsky/cuda-convnet2, where the 1 has become `minDiv`, 1 by default. Caffe's LRN with
    `norm_region: WITHIN_CHANNEL` is the same with `scale` as alpha, for the odd sizes that it has.

    Input and output are (batch, height, width, channels). The layer computes in float32 under
    every dtype policy, float64 included, as `LocalResponseNormalization` does, and returns the
    policy's compute dtype.

    Args:
        size: side of the window in positions, an integer of at least 1. The map may be smaller.
        scale: weight of the mean square over the window, at least 0.
        power: the exponent, at least 0.
        bias: the constant below the line, above 0.

    Raises:
        ValueError: an argument outside these bounds, an input that is not 4-D, or Keras set to
            channels-first images.
    """

    def __init__(
        self,
        size: int = 5,
        scale: float = 1e-3,
        power: float = 0.75,
        bias: float = 1.0,
        **kwargs: Any,
    ) -> None:
        # Without autocast a float32 input is not rounded to half precision before it is used.
        super().__init__(autocast=False, **kwargs)
        if size != int(size) or size < 1:
            raise ValueError(f"size is a whole number of positions, 1 or more; received {size}.")
        # Written so that a NaN fails too.
        if not (scale >= 0 and power >= 0 and bias > 0):
            raise ValueError(
                "scale and power have to be at least 0, bias above 0; received "
                f"scale={scale}, power={power}, bias={bias}."
            )
        if keras.config.image_data_format() != "channels_last":
            raise ValueError(
                "SpatialResponseNormalization is channels-last; received "
                "image_data_format='channels_first'. Call "
                "keras.config.set_image_data_format('channels_last')."
            )
        self.size = int(size)
        self.scale = float(scale)
        self.power = float(power)
        self.bias = float(bias)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def call(self, inputs: Any) -> Any:
        x = ops.cast(inputs, "float32")
        divisor = self.bias + self.scale * self._mean_square(x)
        # On a CPU exp and log are vectorized; a power takes seven times as long.
        x = x * ops.exp(-self.power * ops.log(divisor))
        return ops.cast(x, self.compute_dtype)

    def _mean_square(self, x: Any) -> Any:
        """Over all `size**2` positions of each window, those beyond the borders being zeros."""
        around = [self.size // 2, (self.size - 1) // 2]
        squares = ops.pad(x * x, [[0, 0], around, around, [0, 0]])
        # Height, then width: under XLA a third of the time of one square window.
        for window in ((self.size, 1), (1, self.size)):
            squares = ops.average_pool(squares, window, strides=1, data_format="channels_last")
        return squares

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "size": self.size,
            "scale": self.scale,
            "power": self.power,
            "bias": self.bias,
        }
