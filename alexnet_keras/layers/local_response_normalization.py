"""Local response normalization across channels (paper, section 3.3)."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops


@keras.saving.register_keras_serializable(package="alexnet_keras")
class LocalResponseNormalization(keras.layers.Layer):
    """Divides each activation by a power of the energy in the channels around it.

    `b[c] = a[c] / (bias + alpha * sum(a[c - depth_radius : c + depth_radius + 1] ** 2)) ** beta`,
    the sum ending at the first and the last channel. The defaults are the paper's k = 2, n = 5,
    alpha = 1e-4, beta = 0.75 (section 3.3), with n = 2 * depth_radius + 1.

    `alpha` is not divided by n, as in the paper's formula and in
    `tf.nn.local_response_normalization`. Caffe, PyTorch and the 2012 code do divide it: their
    alpha is `alpha / n` here, so `torch.nn.LocalResponseNorm(5, alpha=1e-4)` is `alpha=2e-5`.

    Input and output are (batch, height, width, channels). The layer computes in float32 under
    every dtype policy, float64 included, and returns the policy's compute dtype: TensorFlow's
    kernels have neither bfloat16 nor float64, nor float16 on a GPU or under XLA.

    On TensorFlow the values are those of `tf.nn.local_response_normalization`. Its own gradient
    takes four times as long as they do on a CPU; without a GPU the layer has another, which XLA
    compiles for each shape of the input (less than half a second) whether or not the rest is
    compiled, and which takes as long as the values. It can be differentiated again.

    Args:
        depth_radius: channels on each side that count, an integer of at least 0.
        bias: the paper's k, above 0.
        alpha: weight of the sum of squares, at least 0.
        beta: the exponent, at least 0.

    Raises:
        ValueError: an argument outside these bounds, an input that is not 4-D, or Keras set to
            channels-first images.
    """

    def __init__(
        self,
        depth_radius: int = 2,
        bias: float = 2.0,
        alpha: float = 1e-4,
        beta: float = 0.75,
        **kwargs: Any,
    ) -> None:
        # Without autocast a float32 input is not rounded to half precision before it is used.
        super().__init__(autocast=False, **kwargs)
        if depth_radius != int(depth_radius) or depth_radius < 0:
            raise ValueError(
                f"depth_radius is a whole number of channels, 0 or more; received {depth_radius}."
            )
        # Written so that a NaN fails too.
        if not (bias > 0 and alpha >= 0 and beta >= 0):
            raise ValueError(
                "bias has to be above 0, alpha and beta at least 0; received "
                f"bias={bias}, alpha={alpha}, beta={beta}."
            )
        if keras.config.image_data_format() != "channels_last":
            raise ValueError(
                "LocalResponseNormalization is channels-last; received "
                "image_data_format='channels_first'. Call "
                "keras.config.set_image_data_format('channels_last')."
            )
        self.depth_radius = int(depth_radius)
        self.bias = float(bias)
        self.alpha = float(alpha)
        self.beta = float(beta)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def call(self, inputs: Any) -> Any:
        x = ops.cast(inputs, "float32")
        if keras.backend.backend() == "tensorflow":
            # The gradient that TensorFlow has for GPUs is cuDNN's.
            normalize = _normalize if tf.config.get_visible_devices("GPU") else _normalize_on_cpu
            x = normalize(x, self.depth_radius, self.bias, self.alpha, self.beta)
        else:
            energy = _sum_around(x * x, self.depth_radius)
            x = x / (self.bias + self.alpha * energy) ** self.beta
        return ops.cast(x, self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "depth_radius": self.depth_radius,
            "bias": self.bias,
            "alpha": self.alpha,
            "beta": self.beta,
        }


def _sum_around(values: Any, depth_radius: int) -> Any:
    """Sums over each channel and its neighbours, in plain Keras."""
    channels = values.shape[-1]
    reach = min(depth_radius, channels - 1)
    padded = ops.pad(values, [[0, 0], [0, 0], [0, 0], [reach, reach]])
    return sum(padded[..., i : i + channels] for i in range(2 * reach + 1))


def _normalize(
    x: tf.Tensor, depth_radius: int, bias: float, alpha: float, beta: float
) -> tf.Tensor:
    return tf.nn.local_response_normalization(x, depth_radius, bias=bias, alpha=alpha, beta=beta)


def _normalize_on_cpu(x: tf.Tensor, *constants: Any) -> tf.Tensor:
    @tf.custom_gradient
    def normalize(x: tf.Tensor) -> Any:
        return _normalize(x, *constants), lambda upstream: _gradient(x, upstream, *constants)

    return normalize(x)


# XLA makes few passes over memory of this; uncompiled, each operation would be one.
@tf.function(jit_compile=True, autograph=False)
def _gradient(
    x: tf.Tensor, upstream: tf.Tensor, depth_radius: int, bias: float, alpha: float, beta: float
) -> tf.Tensor:
    divisor = bias + alpha * _sum_around(x * x, depth_radius)
    # exp and log are vectorized; a power takes twice as long.
    direct = upstream * tf.exp(-beta * tf.math.log(divisor))
    return direct - (2 * alpha * beta) * x * _sum_around(direct * x / divisor, depth_radius)
