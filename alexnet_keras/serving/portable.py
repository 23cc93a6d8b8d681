"""The same net as one file for other runtimes: ONNX and LiteRT, in float32 or int8.

They take pixels; how photographs become pixels is in the description beside each file, and in the
ONNX file's own metadata. int8 is post-training quantization, calibrated on photographs:
convolutions and large dense layers are computed in 8 bits; bilinear pooling and what follows it
stays in float32.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from alexnet_keras.errors import UserError
from alexnet_keras.layers import BilinearPooling
from alexnet_keras.runs import check_writable, full_disk
from alexnet_keras.serving.model_card import described_view
from alexnet_keras.serving.net import ServedNet, served_net
from alexnet_keras.serving.running import missing_package
from alexnet_keras.whole_files import written_beside

#: 17: what ONNX Runtime, OpenVINO and TensorRT of the last years read
OPSET = 17
#: dense layers with fewer weights than these stay in float32: nothing is won there
_LARGE = 2**20
#: operations of LiteRT that stay in float32; what only moves numbers too, since otherwise their
#: inputs are rounded to 8 bits
_FLOAT_OPS = (
    *("ABS", "ADD", "BATCH_MATMUL", "CONCATENATION", "DIV", "GATHER", "L2_NORMALIZATION"),
    *("MAXIMUM", "MEAN", "MUL", "PACK", "RESHAPE", "REVERSE_V2", "RSQRT", "SIGN", "SOFTMAX"),
    *("SQRT", "SQUARE", "STRIDED_SLICE", "SUB", "SUM", "TRANSPOSE"),
)


def export_onnx(
    model: keras.Model,
    path: str | Path,
    labels: Sequence[str],
    *,
    mirrored: bool = False,
    calibration: np.ndarray | None = None,
) -> Path:
    """Writes an ONNX file, and `<path>.json`, which describes it.

    Input `images`: float32 (batch, side, side, 3), RGB pixels in 0..255, cropped as the description
    says; the mean and the scale of the weights are inside. Output `probabilities`: float32 (batch,
    classes), in the order of `labels`.

    Args:
        model, labels, mirrored: as in `serving.export`.
        path: of the file, ending in `.onnx`.
        calibration: pixels of photographs (n, side, side, 3) that were trained on: writes int8,
            whose ranges are taken from these; a hundred are enough. `None` writes float32.

    Raises:
        UserError: the packages of the extra `portable` are missing; `path` ends otherwise or cannot
            be written to, or as `served_net`.
    """
    path = _checked(path, ".onnx")
    try:
        import onnx
        import tf2onnx
    except ImportError as error:
        raise missing_package(error, "ONNX") from error
    net = served_net(model, mirrored=mirrored, constant=True)
    function = _probabilities(net)
    converted, _ = tf2onnx.convert.from_function(function, function.input_signature, opset=OPSET)
    if calibration is not None:
        converted = _quantized_onnx(converted, calibration)
    description = _description(net, labels, mirrored, calibration)
    onnx.helper.set_model_props(
        converted, {key: json.dumps(value) for key, value in description.items()}
    )
    return _written(path, converted.SerializeToString(), description)


def export_litert(
    model: keras.Model,
    path: str | Path,
    labels: Sequence[str],
    *,
    mirrored: bool = False,
    calibration: np.ndarray | None = None,
) -> Path:
    """Writes a LiteRT (TensorFlow Lite) file, and `<path>.json`, which describes it.

    Input and output as those of `export_onnx`; the batch can be resized.

    Args:
        model, labels, mirrored, calibration: as in `export_onnx`.
        path: of the file, ending in `.tflite`.

    Raises:
        UserError: `path` ends otherwise or cannot be written to, or as `served_net`.
    """
    path = _checked(path, ".tflite")
    net = served_net(model, mirrored=mirrored, constant=True)
    function = _probabilities(net).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
    if calibration is None:
        content = converter.convert()
    else:
        content = _quantized_litert(converter, calibration, _has_bilinear_pooling(model))
    return _written(path, content, _description(net, labels, mirrored, calibration))


def _probabilities(net: ServedNet) -> Any:
    @tf.function(input_signature=net.function.input_signature, autograph=False)
    def probabilities(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": net.function(images)["probabilities"]}

    return probabilities


def _quantized_onnx(model: Any, calibration: np.ndarray) -> Any:
    try:
        import onnx
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise missing_package(error, "int8 in ONNX") from error

    with tempfile.TemporaryDirectory() as folder:
        given, prepared, result = (os.path.join(folder, name) for name in ("1", "2", "3"))
        onnx.save(model, given)
        quant_pre_process(given, prepared, skip_symbolic_shape=True)  # folds and fuses
        nodes = onnx.load(prepared).graph
        sizes = {tensor.name: np.prod(tensor.dims) for tensor in nodes.initializer}
        quantization.quantize_static(
            prepared,
            result,
            _OneByOne(calibration, model.graph.input[0].name),
            op_types_to_quantize=["Conv", "Relu", "MaxPool", "MatMul", "Gemm"],
            nodes_to_exclude=[
                node.name
                for node in nodes.node
                if node.op_type in ("MatMul", "Gemm")
                and max(sizes.get(name, 0) for name in node.input) < _LARGE
            ],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        return onnx.load(result)


class _OneByOne:
    """Gives ONNX Runtime one image at a time, as its `CalibrationDataReader` does."""

    def __init__(self, pixels: np.ndarray, name: str) -> None:
        self._images = iter(pixels)
        self._name = name

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._images, None)
        return None if image is None else {self._name: image[None]}


def _quantized_litert(converter: Any, calibration: np.ndarray, bilinear: bool) -> bytes:
    def images() -> Iterator[list[np.ndarray]]:
        return ([image[None]] for image in calibration)

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = images
    kept = [*_FLOAT_OPS, *(["FULLY_CONNECTED"] if bilinear else [])]
    chooser = tf.lite.experimental.QuantizationDebugger(
        converter=converter,
        debug_dataset=lambda: ([image[None]] for image in calibration[:1]),
        debug_options=tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=kept),
    )
    return chooser.get_nondebug_quantized_model()


def _has_bilinear_pooling(model: keras.Model) -> bool:
    return any(isinstance(layer, BilinearPooling) for layer in model.layers)


def _description(
    net: ServedNet, labels: Sequence[str], mirrored: bool, calibration: np.ndarray | None
) -> dict[str, Any]:
    size = [net.side, net.side, 3]
    return {
        "input": {"name": "images", "dtype": "float32", "shape": ["batch", *size]},
        "output": {"name": "probabilities", "dtype": "float32", "shape": ["batch", net.classes]},
        "labels": list(labels),
        "preprocessing": described_view(net.preprocessing, net.side)
        + " The input is RGB in 0..255; mean and scale are inside.",
        "looks": "photograph and mirror, averaged" if mirrored else "photograph",
        "precision": "float32" if calibration is None else "int8",
        "calibration_images": 0 if calibration is None else len(calibration),
    }


def _checked(path: str | Path, suffix: str) -> Path:
    path = Path(path)
    if path.suffix != suffix:
        raise UserError(f"The file has to end in {suffix}; received {path}.")
    check_writable(path.parent, "a copy of the model in it")
    return path


def _written(path: Path, content: bytes, description: dict[str, Any]) -> Path:
    described = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
    try:
        with written_beside(path.with_name(f"{path.name}.json")) as part:
            part.write_text(described, "utf-8", "replace")
        with written_beside(path) as part:
            part.write_bytes(content)
    except OSError as error:
        raise full_disk(error, path.parent) or UserError(
            f"{path} could not be written ({error.strerror}); give another path."
        ) from error
    return path
