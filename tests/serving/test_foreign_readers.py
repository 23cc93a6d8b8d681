"""The exported model, read by programs that are not ours."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import openvino
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from alexnet_keras.data import Examples
from alexnet_keras.evaluation import evaluate
from alexnet_keras.serving import export
from served_model import NAMES, SIDE, picture, small_classifier

IMAGES = [picture(kind, seed) for seed, kind in enumerate(("JPEG", "PNG", "WEBP"))]


@pytest.fixture(scope="module")
def model():
    return small_classifier()


@pytest.fixture(scope="module")
def version(model, tmp_path_factory):
    return export(model, tmp_path_factory.mktemp("exported") / "flowers", NAMES, mirrored=True)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """A program in C++ on `tensorflow::LoadSavedModel`, which TensorFlow Serving loads with."""
    if shutil.which("g++") is None:
        pytest.skip("there is no g++")
    folder = Path(tf.__file__).parent
    source = Path(__file__).parents[1] / "support" / "answer_images.cc"
    made = tmp_path_factory.mktemp("program") / "answer_images"
    libraries = [path.name for path in folder.glob("libtensorflow_*.so.2")]
    subprocess.run(
        [
            *("g++", "-std=c++17", "-w", "-O0", "-DEIGEN_MAX_ALIGN_BYTES=64"),
            *(f"-D_GLIBCXX_USE_CXX11_ABI={tf.sysconfig.CXX11_ABI_FLAG}", f"-I{folder}/include"),
            *(source, "-o", made, f"-L{folder}", "-Wl,--no-as-needed", f"-Wl,-rpath,{folder}"),
            *(f"-l:{library}" for library in libraries),
        ],
        check=True,
    )
    return made


def test_a_program_without_python_answers_the_same(model, version, program, tmp_path):
    paths = [tmp_path / str(i) for i in range(4)]
    for path, content in zip(paths, [*IMAGES[:2], b"hello", IMAGES[2]], strict=True):
        path.write_bytes(content)
    done = subprocess.run(
        [program, version, "serving_default", *paths], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    examples = Examples("some", NAMES, ("0", "1", "2"), np.zeros(3, np.int32), IMAGES)
    expected = evaluate(model, examples, mirrored=True).probabilities
    rows = [line.split("\t") for line in lines[:4]]
    best = [NAMES[i] for i in expected.argmax(1)]
    assert [row[0] for row in rows] == [*best[:2], "", best[2]]
    assert rows[2] == ["", "0", "not a JPEG, PNG, GIF, BMP or WebP image"]
    found = [line.removeprefix("p ").split(" ") for line in lines[4:]]
    np.testing.assert_allclose(np.array(found, float)[[0, 1, 3]], expected, atol=1e-5)
    assert np.ptp(expected) > 0.01


def test_openvino_answers_pixels_the_same(model, version, tmp_path):
    # It reads `serving_default` only: of a copy, the pixels' signature is given that name.
    copy = tmp_path / "copy"
    shutil.copytree(version, copy)
    file = copy / "saved_model.pb"
    graph = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    signatures = graph.meta_graphs[0].signature_def
    pixels = signatures["predict_images"]
    for name in set(pixels.outputs) - {"probabilities"}:  # it has no strings
        del pixels.outputs[name]
    signatures["serving_default"].CopyFrom(pixels)
    file.write_bytes(graph.SerializeToString())

    compiled = openvino.compile_model(
        openvino.convert_model(copy), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    images = np.random.default_rng(0).uniform(0, 255, (3, SIDE, SIDE, 3)).astype(np.float32)
    expected = (model(images) + model(images[:, :, ::-1])) / 2
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(compiled(images)["probabilities"], expected, atol=1e-5)


def test_saved_model_cli_shows_and_runs_it(version, tmp_path):
    command = Path(sys.executable).with_name("saved_model_cli")

    def run(*arguments):
        done = subprocess.run([command, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    shown = run("show", "--dir", version, "--tag_set", "serve", "--signature_def", "classify")
    assert "Method name is: tensorflow/serving/classify" in shown
    assert "inputs['inputs'] tensor_info:\n      dtype: DT_STRING" in shown
    np.save(tmp_path / "pixels.npy", np.zeros((2, SIDE, SIDE, 3), np.uint8))
    answer = run(
        *("run", "--dir", version, "--tag_set", "serve", "--signature_def", "predict_images_uint8"),
        *("--inputs", f"images={tmp_path / 'pixels.npy'}"),
    )
    assert "Result for output key probabilities:" in answer
