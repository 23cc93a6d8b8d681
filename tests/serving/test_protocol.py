"""The contract with TensorFlow Serving's clients, over its own protocol."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import urllib.request
from base64 import b64encode

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

from alexnet_keras.data import Examples
from alexnet_keras.evaluation import evaluate
from alexnet_keras.serving import export
from prediction_server import serving
from served_model import NAMES, SIDE, picture, small_classifier

IMAGES = [picture(kind, seed) for seed, kind in enumerate(("JPEG", "PNG", "WEBP"))]
MIXED = [IMAGES[0], b"hello", *IMAGES[1:]]


@pytest.fixture(scope="module")
def expected():
    examples = Examples("some", NAMES, ("0", "1", "2"), np.zeros(3, np.int32), IMAGES)
    return evaluate(small_classifier(), examples).probabilities


@pytest.fixture(scope="module")
def ports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "flowers"
    export(small_classifier(), folder, NAMES, top=3)
    with serving(folder) as ports:
        yield ports


@pytest.fixture
def client(ports):
    with grpc.insecure_channel(f"127.0.0.1:{ports[0]}") as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def request(signature="", name="flowers", outputs=(), **inputs):
    made = predict_pb2.PredictRequest(output_filter=outputs)
    made.model_spec.name, made.model_spec.signature_name = name, signature
    for key, value in inputs.items():
        made.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return made


def test_predict_answers_encoded_images(client, expected):
    outputs = client.Predict(request(images=MIXED)).outputs
    found = {key: tf.make_ndarray(value) for key, value in outputs.items()}
    assert set(found) == {"classes", "scores", "probabilities", "error"}
    np.testing.assert_allclose(found["probabilities"][[0, 2, 3]], expected, atol=1e-5)
    best = [NAMES[i].encode() for i in expected.argmax(1)]
    assert found["classes"][:, 0].tolist() == [best[0], b"", *best[1:]]
    assert found["error"].tolist()[1] == b"not a JPEG, PNG, GIF, BMP or WebP image"


def test_predict_takes_the_other_signatures(client):
    asked = request("predict_top", images=MIXED, k=np.int32(1), outputs=["classes"])
    filtered = client.Predict(asked)
    assert tf.make_ndarray(filtered.outputs["classes"]).shape == (4, 1)
    assert list(filtered.outputs) == ["classes"]
    pixels = np.zeros((2, SIDE, SIDE, 3))
    for signature, kind in (("predict_images", np.float32), ("predict_images_uint8", np.uint8)):
        outputs = client.Predict(request(signature, images=pixels.astype(kind))).outputs
        assert tf.make_ndarray(outputs["scores"]).shape == (2, 3)
    embedding = client.Predict(request("embed", images=MIXED)).outputs["embedding"]
    assert tf.make_ndarray(embedding).shape == (4, 256)


def test_classify_answers_examples(client, expected):
    asked = classification_pb2.ClassificationRequest()
    asked.model_spec.name, asked.model_spec.signature_name = "flowers", "classify"
    for image in MIXED:
        feature = asked.input.example_list.examples.add().features.feature["image/encoded"]
        feature.bytes_list.value.append(image)
    rows = client.Classify(asked).result.classifications
    assert [row.classes[0].label for row in rows] == [
        *(NAMES[expected[0].argmax()], "", *(NAMES[i] for i in expected[1:].argmax(1)))
    ]
    np.testing.assert_allclose(rows[2].classes[0].score, expected[1].max(), atol=1e-5)
    asked.model_spec.signature_name = "serving_default"
    with pytest.raises(grpc.RpcError, match="method_name"):
        client.Classify(asked)


def test_metadata_names_every_input_and_output(client):
    asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    asked.model_spec.name = "flowers"
    answer = client.GetModelMetadata(asked)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    answer.metadata["signature_def"].Unpack(signatures)

    def named(tensors):
        return {
            name: (tf.as_dtype(t.dtype).name, [dim.size for dim in t.tensor_shape.dim])
            for name, t in tensors.items()
        }

    best = {"classes": ("string", [-1, 3]), "scores": ("float32", [-1, 3])}
    answer = {**best, "probabilities": ("float32", [-1, 3]), "error": ("string", [-1])}
    images, pixels = {"images": ("string", [-1])}, [-1, SIDE, SIDE, 3]
    found = {
        name: (named(signature.inputs), named(signature.outputs))
        for name, signature in signatures.signature_def.items()
        if not name.startswith("__")
    }
    top = {name: (kind, [-1, -1]) for name, (kind, _) in best.items()}
    assert found == {
        "serving_default": (images, answer),
        "predict_top": ({**images, "k": ("int32", [])}, {**answer, **top}),
        "predict_images": ({"images": ("float32", pixels)}, answer),
        "predict_images_uint8": ({"images": ("uint8", pixels)}, answer),
        "classify": ({"inputs": ("string", [-1])}, best),
        "embed": (images, {"embedding": ("float32", [-1, 256]), "error": ("string", [-1])}),
    }


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (request(name="cars", images=IMAGES), grpc.StatusCode.NOT_FOUND),
        (request("no_such", images=IMAGES), grpc.StatusCode.INVALID_ARGUMENT),
        (request(photos=IMAGES), grpc.StatusCode.INVALID_ARGUMENT),
        (request(images=np.zeros(2, np.float32)), grpc.StatusCode.INVALID_ARGUMENT),
        (request(images=[[IMAGES[0]]]), grpc.StatusCode.INVALID_ARGUMENT),
        (request("predict_images", images=np.zeros((1, 8, 8, 3), np.float32)), None),
    ],
)
def test_what_does_not_fit_a_signature_is_refused(client, asked, code):
    with pytest.raises(grpc.RpcError) as caught:
        client.Predict(asked)
    assert code is None or caught.value.code() == code


def test_rest_takes_base64_and_answers_in_json(ports, expected):
    body = {"instances": [{"images": {"b64": b64encode(image).decode()}} for image in MIXED]}
    sent = urllib.request.Request(
        f"http://127.0.0.1:{ports[1]}/v1/models/flowers:predict", json.dumps(body).encode()
    )
    with urllib.request.urlopen(sent) as answer:
        rows = json.load(answer)["predictions"]
    assert rows[0]["classes"][0] == NAMES[expected[0].argmax()]
    np.testing.assert_allclose(rows[3]["probabilities"], expected[2], atol=1e-5)
    assert rows[1] == {
        **{"classes": [""] * 3, "scores": [0.0] * 3, "probabilities": [0.0] * 3},
        "error": "not a JPEG, PNG, GIF, BMP or WebP image",
    }


class TestTheReadmes:
    @pytest.fixture
    def blocks(self, repository):
        """Its blocks of code about serving, as (language, code)."""
        text = (repository / "README.md").read_text(encoding="utf-8")
        section = text[text.index("\n## Serving\n") : text.index("\n## Training from scratch\n")]
        return re.findall(r"```(\w*)\n(.*?)```", section, re.DOTALL)

    @pytest.fixture
    def folder(self, tmp_path):
        (tmp_path / "rose.jpg").write_bytes(IMAGES[0])
        return tmp_path

    def test_grpc_client_gets_an_answer(self, blocks, ports, folder, expected):
        (code,) = [code for kind, code in blocks if kind == "python" and "import grpc" in code]
        code = code.replace("localhost:8500", f"127.0.0.1:{ports[0]}")
        code = code.replace("timeout=5", "timeout=300")  # tests beside it may keep the cores busy
        assert "timeout=300" in code
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=False
        )
        assert done.returncode == 0, done.stderr
        label, score = done.stdout.split()
        assert label == NAMES[expected[0].argmax()]
        assert float(score) == pytest.approx(expected[0].max(), abs=1e-5)

    @pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
    def test_curl_gets_an_answer_like_the_one_shown(self, blocks, ports, folder, expected):
        (code,) = [code for kind, code in blocks if kind == "sh"]
        (shown,) = [json.loads(code) for kind, code in blocks if kind == "json"]
        code = code.replace("localhost:8501", f"127.0.0.1:{ports[1]}")
        done = subprocess.run(code, shell=True, capture_output=True, text=True, cwd=folder)
        (row,) = json.loads(done.stdout)["predictions"]
        assert row["classes"][0] == NAMES[expected[0].argmax()]
        assert row.keys() == shown["predictions"][0].keys()

    def test_config_is_one(self, blocks):
        (code,) = [code for _, code in blocks if "model_config_list" in code]
        parsed = text_format.Parse(code, model_server_config_pb2.ModelServerConfig())
        (config,) = parsed.model_config_list.config
        assert config.name == "flowers"
        assert list(config.model_version_policy.specific.versions) == [1, 2]
