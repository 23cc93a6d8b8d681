"""Runs exported files in their own runtimes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from alexnet_keras.data import Examples
from alexnet_keras.errors import UserError
from alexnet_keras.evaluation import Evaluation, centre_batches

#: from float32 pixels (batch, side, side, 3) to float32 probabilities (batch, classes)
Answer = Callable[[np.ndarray], np.ndarray]


def open_exported(path: str | Path, threads: int = 0) -> Answer:
    """The function of a file that `export_onnx` or `export_litert` wrote.

    Args:
        path: ends in `.onnx` or `.tflite`.
        threads: to use; 0 for all cores.

    Raises:
        UserError: another ending, or the runtime's package is missing.
    """
    suffix = Path(path).suffix
    if suffix not in _OPENED:
        raise UserError(f"An exported file ends in {' or '.join(_OPENED)}; received {path}.")
    try:
        return _OPENED[suffix](str(path), threads)
    except ImportError as error:
        raise missing_package(error, f"running {suffix} files") from error


def evaluate_exported(
    path: str | Path, model: keras.Model, examples: Examples, batch_size: int = 32
) -> Evaluation:
    """`evaluation.evaluate` of a file that was exported from `model`.

    Raises:
        UserError: as `open_exported`.
    """
    answer = open_exported(path)
    batches = centre_batches(model, examples, batch_size)
    found = np.concatenate([answer(pixels.numpy()) for pixels, _ in batches])
    return Evaluation(found.astype(np.float64), examples.labels.astype(int))


def missing_package(error: ImportError, what: str) -> UserError:
    """The sentence for a package that is not installed."""
    return UserError(
        f"For {what} the package {error.name} is needed; install alexnet-keras[portable]."
    )


def _onnx(path: str, threads: int) -> Answer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: pixels})[0]


def _litert(path: str, threads: int) -> Answer:
    import os

    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=threads or os.cpu_count())
    taken = interpreter.get_input_details()[0]["index"]
    given = interpreter.get_output_details()[0]["index"]

    def answer(pixels: np.ndarray) -> np.ndarray:
        if tuple(interpreter.get_input_details()[0]["shape"]) != pixels.shape:
            interpreter.resize_tensor_input(taken, pixels.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(taken, pixels)
        interpreter.invoke()
        return interpreter.get_tensor(given)

    interpreter.allocate_tensors()
    return answer


_OPENED: dict[str, Callable[[str, int], Answer]] = {".onnx": _onnx, ".tflite": _litert}
