"""Photographs: where they come from, how they are decoded, augmented and split."""

from alexnet_keras.data.augmentation import AUGMENTATIONS, Augmentation, published_augmentation
from alexnet_keras.data.datasets import DATASETS, load_examples
from alexnet_keras.data.examples import Examples, in_fraction
from alexnet_keras.data.folders import read_folder, read_paths
from alexnet_keras.data.mixing import Mixing
from alexnet_keras.data.pipeline import (
    centre_view,
    evaluation_batches,
    fixed_views,
    training_batches,
)
from alexnet_keras.data.prepare import TrainingParts, prepare_splits, prepare_training
from alexnet_keras.data.screening import Skipped, check_skipped, screen
from alexnet_keras.data.splits import Splits, split
from alexnet_keras.data.views import CentreView, RandomView, View

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "Augmentation",
    "CentreView",
    "Examples",
    "Mixing",
    "RandomView",
    "Skipped",
    "Splits",
    "TrainingParts",
    "View",
    "centre_view",
    "check_skipped",
    "evaluation_batches",
    "fixed_views",
    "in_fraction",
    "load_examples",
    "prepare_splits",
    "prepare_training",
    "published_augmentation",
    "read_folder",
    "read_paths",
    "screen",
    "split",
    "training_batches",
]
