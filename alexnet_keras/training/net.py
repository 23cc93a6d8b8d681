"""The net that training from scratch begins with, and how it computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import keras
import tensorflow as tf
from keras import layers

from alexnet_keras.alexnet import build
from alexnet_keras.errors import UserError
from alexnet_keras.variants import variant_row, with_options
from alexnet_keras.weights import PREPROCESSING, InputPreprocessing

#: what `--precision` stands for, and the flags of x86 CPUs that have it in hardware
POLICIES = {
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}
_CPU_FLAGS = {"bfloat16": {"avx512_bf16", "amx_bf16"}, "float16": {"avx512_fp16", "amx_fp16"}}
#: the first compute capability of NVIDIA GPUs with matrix units for each
_CAPABILITY = {"bfloat16": (8, 0), "float16": (7, 0)}


def build_net(
    classes: int,
    *,
    variant: str,
    image_size: int | None = None,
    normalization: str | None = "auto",
    width: float = 1.0,
    residual: bool | None = None,
    he: bool = False,
) -> keras.Model:
    """An AlexNet with random weights, its preprocessing inside.

    Args:
        classes: number of classes.
        variant, normalization, width, residual: as in `AlexNet`.
        image_size: side of the square input in pixels; None takes the published one.
        he: whether weights are initialized as by He et al. (arXiv:1502.01852), for inputs of unit
            variance, in place of the published way.

    Returns:
        A model from RGB pixels in 0..255 (batch, image_size, image_size, 3) to probabilities
        (batch, classes).

    Raises:
        UserError: as `AlexNet`.
    """
    row = with_options(
        variant_row(variant), normalization=normalization, width=width, residual=residual
    )
    if he and row.initialization != "he":
        row = replace(row, initialization="he", preprocessing="torchvision")
    side = image_size or row.image_size
    smallest = row.smallest_input()
    if side < smallest:
        raise UserError(
            f"The variant {variant!r} needs images of at least {smallest} px; received "
            f"--image-size {side}."
        )
    pixels = keras.Input((side, side, 3), name="image")
    net = build(
        row,
        input_tensor=InputPreprocessing.of(PREPROCESSING[row.preprocessing])(pixels),
        classes=classes,
    )
    return keras.Model(pixels, net.output, name="alexnet")


def at_size(model: keras.Model, side: int) -> keras.Model:
    """The same layers, weights shared, for square images of another size.

    Args:
        side: in pixels.
    """
    if side == model.input_shape[1]:
        return model
    image = keras.Input((side, side, 3), name="image")
    return keras.models.clone_model(model, input_tensors=image, clone_function=lambda layer: layer)


def check_sizes(model: keras.Model, sides: Sequence[int]) -> None:
    """Whether a model can be trained on views of these sides in pixels, one after the other.

    Raises:
        UserError: they do not grow; the net's head is made for one size.
    """
    own = model.input_shape[1]
    if sides != sorted(sides):
        raise UserError(
            f"Training views of {sides[0]} px cannot grow to {sides[-1]} px; give a "
            "--first-view-size of at most --last-view-size."
        )
    if set(sides) != {own} and any(isinstance(layer, layers.Flatten) for layer in model.layers):
        raise UserError(
            f"fc6 is made for images of {own} px and cannot be trained on {min(sides)} px; leave "
            "--first-view-size and --last-view-size out, or take --variant modern, which averages "
            "over positions."
        )


def make_repeatable(seed: int) -> None:
    """Keys all that Keras draws by `seed`, and lets TensorFlow use deterministic kernels only."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def set_precision(name: str) -> None:
    """Sets Keras's dtype policy for the nets to come.

    Args:
        name: a key of `POLICIES`: `"float32"`, or activations and gradients of 16 bits with weights
            of 32, where the hardware computes so.

    Raises:
        UserError: the hardware does not.
    """
    if name != "float32":
        gpus = tf.config.list_physical_devices("GPU")
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        if gpus:
            have = all(d.get("compute_capability", (0, 0)) >= _CAPABILITY[name] for d in details)
        else:
            have = bool(_CPU_FLAGS[name] & _cpu_flags())
        if not have:
            device = details[0].get("device_name", "this GPU") if gpus else "this machine's CPU"
            raise UserError(
                f"{device} does not compute in {name}, which would be slower than float32; leave "
                f"--precision {name} out."
            )
    keras.mixed_precision.set_dtype_policy(POLICIES[name])


def _cpu_flags() -> set[str]:
    """Features of the CPU as Linux names them; empty elsewhere."""
    try:
        with open("/proc/cpuinfo") as file:
            lines = [line for line in file if line.startswith("flags")]
    except OSError:
        return set()
    return set(lines[0].split()) if lines else set()
