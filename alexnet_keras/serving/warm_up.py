"""Requests that TensorFlow Serving runs before a version takes any others.

The first request of each kind builds graphs and kernels, which takes a second; warmed up, the
version is not announced before that is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, predict_pb2, prediction_log_pb2

from alexnet_keras.serving.reading import EXAMPLE_KEY
from alexnet_keras.serving.signatures import CLASSIFY

#: where TensorFlow Serving looks for them, below a version's folder
WARM_UP = Path("assets.extra", "tf_serving_warmup_requests")
#: sizes of the batches of encoded images
BATCHES = (1, 8)


def write_warm_up(file: Path, name: str, photographs: Sequence[bytes], side: int) -> None:
    """Writes a TFRecord of `PredictionLog`s, some for each signature but `predict_top`.

    Its `k` is a scalar, which a server that batches refuses, and with it the version.

    Args:
        name: the served model's.
        photographs: content of image files, taken in turn.
        side: of the model's input in pixels.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(file)) as writer:
        for log in _logs(name, photographs, side):
            writer.write(log.SerializeToString())


def _logs(
    name: str, photographs: Sequence[bytes], side: int
) -> Iterator[prediction_log_pb2.PredictionLog]:
    def log(signature: str, **inputs: object) -> prediction_log_pb2.PredictionLog:
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = name, signature
        for key, value in inputs.items():
            request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
        return prediction_log_pb2.PredictionLog(
            predict_log=prediction_log_pb2.PredictLog(request=request)
        )

    for count in BATCHES:
        images = [photographs[i % len(photographs)] for i in range(count)]
        pixels = np.zeros((count, side, side, 3), np.uint8)
        yield log("serving_default", images=images)
        yield log("predict_images", images=pixels.astype(np.float32))
        yield log("predict_images_uint8", images=pixels)
        yield log("embed", images=images)
        request = classification_pb2.ClassificationRequest()
        request.model_spec.name, request.model_spec.signature_name = name, CLASSIFY
        for image in images:
            feature = request.input.example_list.examples.add().features.feature[EXAMPLE_KEY]
            feature.bytes_list.value.append(image)
        yield prediction_log_pb2.PredictionLog(
            classify_log=prediction_log_pb2.ClassifyLog(request=request)
        )
