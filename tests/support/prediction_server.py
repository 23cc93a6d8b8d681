"""A stand-in for TensorFlow Serving: its own protocol over a SavedModel, and no code of ours.

It does what `tensorflow_serving/servables/tensorflow` documents for Predict, Classify and
GetModelMetadata over gRPC, and what "RESTful API" in TensorFlow Serving's guide says of Predict in
row format. Where the real server checks a signature, so does this one.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import grpc
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

CLASSIFY_METHOD = "tensorflow/serving/classify"


class Refused(Exception):
    """A request that the server does not answer: a gRPC status and a sentence."""


class ServedModel:
    """The largest version in a model's folder."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self.version = max(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit())
        path = folder / str(self.version)
        self.loaded = tf.saved_model.load(str(path), tags=["serve"])
        graph = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
        self.signatures = graph.meta_graphs[0].signature_def

    def check(self, spec) -> str:
        """The name of the signature that is asked for."""
        if (
            spec.name != self.name
            or spec.HasField("version")
            and spec.version.value != self.version
        ):
            raise Refused(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {spec}")
        name = spec.signature_name or "serving_default"
        if name not in self.signatures:
            raise Refused(
                grpc.StatusCode.INVALID_ARGUMENT, f'Serving signature key "{name}" not found.'
            )
        return name

    def run(self, name: str, inputs: dict) -> dict:
        expected = self.signatures[name].inputs
        if set(inputs) != set(expected):
            raise Refused(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"input tensor alias not found in signature: {sorted(set(inputs) ^ set(expected))}",
            )
        for key, value in inputs.items():
            if value.dtype.as_datatype_enum != expected[key].dtype:
                raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"{key} is of another type")
        try:
            return self.loaded.signatures[name](**inputs)
        except tf.errors.InvalidArgumentError as error:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, error.message) from error


class _Service(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, model: ServedModel) -> None:
        self.model = model

    def _answered(self, context, answer):
        try:
            return answer()
        except Refused as refused:
            context.abort(*refused.args)

    def Predict(self, request, context):
        def answer():
            name = self.model.check(request.model_spec)
            given = {key: tf.constant(tf.make_ndarray(v)) for key, v in request.inputs.items()}
            found = self.model.run(name, given)
            response = predict_pb2.PredictResponse()
            response.model_spec.name, response.model_spec.signature_name = self.model.name, name
            for key in request.output_filter or found:
                response.outputs[key].CopyFrom(tf.make_tensor_proto(found[key].numpy()))
            return response

        return self._answered(context, answer)

    def Classify(self, request, context):
        def answer():
            name = self.model.check(request.model_spec)
            signature = self.model.signatures[name]
            if signature.method_name != CLASSIFY_METHOD:
                raise Refused(
                    grpc.StatusCode.INVALID_ARGUMENT,
                    f"Expected classification signature method_name to be {CLASSIFY_METHOD}. Was: "
                    f"{signature.method_name}",
                )
            if list(signature.inputs) != ["inputs"] or set(signature.outputs) != {
                *("classes", "scores")
            }:
                raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "Expected one input, two outputs")
            examples = [e.SerializeToString() for e in request.input.example_list.examples]
            found = self.model.run(name, {"inputs": tf.constant(examples, tf.string)})
            response = classification_pb2.ClassificationResponse()
            for labels, scores in zip(
                found["classes"].numpy(), found["scores"].numpy(), strict=True
            ):
                row = response.result.classifications.add()
                for label, score in zip(labels, scores, strict=True):
                    row.classes.add(label=label.decode(), score=score)
            return response

        return self._answered(context, answer)

    def GetModelMetadata(self, request, context):
        def answer():
            self.model.check(request.model_spec)
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            response.model_spec.name = self.model.name
            response.model_spec.version.value = self.model.version
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for name, signature in self.model.signatures.items():
                signatures.signature_def[name].CopyFrom(signature)
            response.metadata["signature_def"].Pack(signatures)
            return response

        return self._answered(context, answer)


def _rest(model: ServedModel) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = body.get("signature_name", "serving_default")
            if self.path != f"/v1/models/{model.name}:predict":
                self._say(404, {"error": "Malformed request"})
                return
            columns: dict[str, list] = {}
            for row in body["instances"]:
                for key, value in row.items():
                    binary = isinstance(value, dict) and set(value) == {"b64"}
                    columns.setdefault(key, []).append(
                        base64.b64decode(value["b64"]) if binary else value
                    )
            types = model.signatures[name].inputs
            inputs = {
                key: tf.constant(values, tf.as_dtype(types[key].dtype))
                for key, values in columns.items()
            }
            try:
                found = model.run(name, inputs)
            except Refused as refused:
                self._say(400, {"error": refused.args[1]})
                return
            rows = [
                {key: _json(value[i]) for key, value in found.items()}
                for i in range(len(body["instances"]))
            ]
            self._say(200, {"predictions": rows})

        def _say(self, status: int, answer: dict) -> None:
            # Not `allow_nan`: JSON has no such numbers, and the real server refuses to write them.
            content = json.dumps(answer, allow_nan=False).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_) -> None:
            pass

    return Handler


def _json(value: tf.Tensor):
    if value.dtype != tf.string:
        return value.numpy().tolist()
    strings = value.numpy()
    return strings.decode() if isinstance(strings, bytes) else [one.decode() for one in strings]


@contextmanager
def serving(folder: Path) -> Iterator[tuple[int, int]]:
    """Serves the model in `folder` while the context lasts; gives the ports of gRPC and REST."""
    model = ServedModel(folder)
    server = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(_Service(model), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    web = ThreadingHTTPServer(("127.0.0.1", 0), _rest(model))
    Thread(target=web.serve_forever, daemon=True).start()
    try:
        yield port, web.server_address[1]
    finally:
        web.shutdown()
        web.server_close()
        server.stop(None).wait()
