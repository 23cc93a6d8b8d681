"""What pixels must become before weights can read them. It belongs to the weights, not the user."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from alexnet_keras.errors import UserError


@dataclass(frozen=True)
class Preprocessing:
    """From RGB pixels in 0..255 to a net's input: `(pixels - mean) / std`, a value a channel.

    Attributes:
        name: the key in `PREPROCESSING`.
        mean, std: in pixel levels (0..255), for red, green and blue.
        channels: `"BGR"` where the net's first channel is blue, as in Caffe; else `"RGB"`.
        resize_ratio: evaluation resizes the shorter side to `image_size * resize_ratio` and takes
            the centre crop.
        keep_aspect: `False` where evaluation resizes both sides, so that images are stretched to a
            square.
    """

    name: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: str = "RGB"
    resize_ratio: float = 256 / 224
    keep_aspect: bool = True

    def resize(self, image_size: int) -> int:
        """Length in pixels of the resized side, of which the crop takes `image_size`."""
        return round(image_size * self.resize_ratio)

    @property
    def geometry(self) -> dict[str, Any]:
        """What `data.centre_view` needs to know: `resize_ratio` and `keep_aspect`."""
        return {"resize_ratio": self.resize_ratio, "keep_aspect": self.keep_aspect}

    def apply(self, pixels: Any) -> Any:
        """The net's input for RGB pixels in 0..255, as float32.

        Args:
            pixels: an array or a tensor of any numeric dtype whose last axis is the three channels.

        Returns:
            A NumPy array for a NumPy array, else a tensor; the same shape.
        """
        if isinstance(pixels, np.ndarray):
            values = (pixels.astype(np.float32) - np.float32(self.mean)) / np.float32(self.std)
        else:
            # In float32 whatever the policy: 255 levels minus a mean do not fit half precision.
            mean = ops.convert_to_tensor(self.mean, dtype="float32")
            std = ops.convert_to_tensor(self.std, dtype="float32")
            values = (ops.cast(pixels, "float32") - mean) / std
        return values[..., ::-1] if self.channels == "BGR" else values


_IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, of pixels in 0..1: torchvision's documentation
_IMAGENET_STD = (0.229, 0.224, 0.225)

PREPROCESSING: dict[str, Preprocessing] = {
    # Paper, section 2: "subtracting the mean activity over the training set", pixels in 0..255.
    # One mean a channel stands for the mean image, as in Caffe's later practice.
    "paper": Preprocessing(
        name="paper", mean=tuple(255 * m for m in _IMAGENET_MEAN), std=(1.0, 1.0, 1.0)
    ),
    "torchvision": Preprocessing(
        name="torchvision",
        mean=tuple(255 * m for m in _IMAGENET_MEAN),
        std=tuple(255 * s for s in _IMAGENET_STD),
    ),
    # BVLC/caffe: data/ilsvrc12 and python/caffe/imagenet/ilsvrc_2012_mean.npy, whose channel means
    # these are (the mean image differs from them by little, towards the borders);
    # examples/imagenet/create_imagenet.sh stretches to 256x256, of which a net takes 227.
    "caffe": Preprocessing(
        name="caffe",
        mean=(122.67891434, 116.66876762, 104.00698793),
        std=(1.0, 1.0, 1.0),
        channels="BGR",
        resize_ratio=256 / 227,
        keep_aspect=False,
    ),
    # Ours: torchvision's scale, and of an image that is small already no border is cut off.
    "modern": Preprocessing(
        name="modern",
        mean=tuple(255 * m for m in _IMAGENET_MEAN),
        std=tuple(255 * s for s in _IMAGENET_STD),
        resize_ratio=1.0,
    ),
}


@keras.saving.register_keras_serializable(package="alexnet_keras")
class InputPreprocessing(keras.layers.Layer):
    """A `Preprocessing` as the first layer of a model, so that the two cannot be parted.

    Input: RGB pixels in 0..255, any numeric dtype, (batch, height, width, 3). Output: the net's
    input in the layer's compute dtype, same shape.
    """

    def __init__(self, convention: str, **fields: Any) -> None:
        """Takes the fields of a `Preprocessing` (`convention` is its name) and of a layer."""
        known = {key: fields.pop(key) for key in _FIELDS if key in fields}
        super().__init__(**fields)
        # JSON knows lists only.
        known |= {key: tuple(known[key]) for key in ("mean", "std")}
        self.preprocessing = Preprocessing(convention, **known)

    @classmethod
    def of(cls, preprocessing: Preprocessing) -> InputPreprocessing:
        fields = asdict(preprocessing)
        return cls(convention=fields.pop("name"), **fields, name="preprocessing")

    def call(self, pixels: Any) -> Any:
        return ops.cast(self.preprocessing.apply(pixels), self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        fields = asdict(self.preprocessing)
        return {**super().get_config(), "convention": fields.pop("name"), **fields}


_FIELDS = [name for name in Preprocessing.__dataclass_fields__ if name != "name"]


def from_pixels(model: keras.Model) -> keras.Model:
    """The same model behind its preprocessing: its input is RGB pixels in 0..255.

    Raises:
        UserError: the model records no preprocessing.
    """
    if any(isinstance(layer, InputPreprocessing) for layer in model.layers):
        return model
    pixels = keras.Input(model.input_shape[1:], name="pixels")
    preprocessed = InputPreprocessing.of(preprocessing_of(model))(pixels)
    return keras.Model(pixels, model(preprocessed), name=model.name)


def preprocessing_of(model: keras.Model) -> Preprocessing:
    """The preprocessing recorded with `model`: its preprocessing layer's, or `AlexNet()`'s note.

    Raises:
        UserError: a `ValueError`: nothing is recorded.
    """
    for layer in model.layers:
        if isinstance(layer, InputPreprocessing):
            return layer.preprocessing
    if (noted := getattr(model, "preprocessing", None)) is not None:
        return noted
    raise UserError(
        f"The model {model.name!r} records no preprocessing; load its weights with "
        "AlexNet(weights=...), or say what it was trained on: model.preprocessing = "
        "PREPROCESSING['torchvision'] (alexnet_keras.weights)."
    )
