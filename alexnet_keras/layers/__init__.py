"""The layers of AlexNet that Keras does not have."""

from alexnet_keras.layers.bilinear_pooling import BilinearPooling
from alexnet_keras.layers.ceil_max_pooling_2d import CeilMaxPooling2D
from alexnet_keras.layers.classic_dropout import ClassicDropout
from alexnet_keras.layers.local_response_normalization import LocalResponseNormalization
from alexnet_keras.layers.pca_color_augmentation import PCAColorAugmentation
from alexnet_keras.layers.spatial_response_normalization import SpatialResponseNormalization

__all__ = [
    "BilinearPooling",
    "CeilMaxPooling2D",
    "ClassicDropout",
    "LocalResponseNormalization",
    "PCAColorAugmentation",
    "SpatialResponseNormalization",
]
