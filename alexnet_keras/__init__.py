"""AlexNet (Krizhevsky, Sutskever, Hinton 2012) in Keras 3 on TensorFlow."""

from alexnet_keras.alexnet import AlexNet
from alexnet_keras.errors import UserError
from alexnet_keras.feature_extraction import features
from alexnet_keras.imagenet import decode_predictions, preprocess_input
from alexnet_keras.layers import (
    CeilMaxPooling2D,
    ClassicDropout,
    LocalResponseNormalization,
    PCAColorAugmentation,
    SpatialResponseNormalization,
)
from alexnet_keras.variants import VARIANTS

__all__ = [
    "VARIANTS",
    "AlexNet",
    "CeilMaxPooling2D",
    "ClassicDropout",
    "LocalResponseNormalization",
    "PCAColorAugmentation",
    "SpatialResponseNormalization",
    "UserError",
    "decode_predictions",
    "features",
    "preprocess_input",
]
__version__ = "0.1.0"
