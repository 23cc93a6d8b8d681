"""Published weights: reading files, putting them into a built model, and their preprocessing."""

from alexnet_keras.weights.automatic import automatic_weights
from alexnet_keras.weights.formats import read_weights
from alexnet_keras.weights.formats.keras_files import save_weights
from alexnet_keras.weights.loading import (
    LoadReport,
    load_tensors,
    load_weights,
    open_weights,
    published_keys,
)
from alexnet_keras.weights.preprocessing import (
    PREPROCESSING,
    InputPreprocessing,
    Preprocessing,
    from_pixels,
    preprocessing_of,
)
from alexnet_keras.weights.published import PUBLISHED, Published
from alexnet_keras.weights.starter import open_starter, write_starter
from alexnet_keras.weights.stored import StoredWeights

__all__ = [
    "PREPROCESSING",
    "PUBLISHED",
    "InputPreprocessing",
    "LoadReport",
    "Preprocessing",
    "Published",
    "StoredWeights",
    "automatic_weights",
    "from_pixels",
    "load_tensors",
    "load_weights",
    "open_starter",
    "open_weights",
    "preprocessing_of",
    "published_keys",
    "read_weights",
    "save_weights",
    "write_starter",
]
