"""A classifier as a SavedModel that TensorFlow Serving takes as it is, and as files for others."""

from alexnet_keras.serving.export import export, versions
from alexnet_keras.serving.model_card import ModelCard
from alexnet_keras.serving.net import check_servable
from alexnet_keras.serving.portable import export_litert, export_onnx
from alexnet_keras.serving.reading import Limits
from alexnet_keras.serving.running import evaluate_exported, open_exported

__all__ = [
    "Limits",
    "ModelCard",
    "check_servable",
    "evaluate_exported",
    "export",
    "export_litert",
    "export_onnx",
    "open_exported",
    "versions",
]
