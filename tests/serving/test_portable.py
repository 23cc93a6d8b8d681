from __future__ import annotations

import builtins
import json

import keras
import numpy as np
import onnx
import onnxruntime
import pytest

from alexnet_keras.data import Examples
from alexnet_keras.errors import UserError
from alexnet_keras.evaluation import answers, evaluate
from alexnet_keras.serving import (
    evaluate_exported,
    export_litert,
    export_onnx,
    open_exported,
    portable,
)
from served_model import NAMES, SIDE, narrow_classifier, picture, small_classifier

FORMATS = {"onnx": (export_onnx, ".onnx"), "litert": (export_litert, ".tflite")}


@pytest.fixture(scope="module", params=["bilinear", "fc"])
def model(request):
    return small_classifier() if request.param == "bilinear" else narrow_classifier()


def pixels(count, seed=0):
    """Smooth images: in noise no ranges are found that serve photographs."""
    coarse = np.random.default_rng(seed).uniform(0, 255, (count, 8, 8, 3))
    return np.asarray(keras.ops.image.resize(coarse, (SIDE, SIDE))).astype(np.float32)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("mirrored", [False, True])
def test_in_float32_it_is_the_same_function_at_any_batch(model, name, mirrored, tmp_path):
    export, suffix = FORMATS[name]
    path = export(model, tmp_path / f"model{suffix}", NAMES, mirrored=mirrored)
    answer = open_exported(path)
    for count in (1, 5, 3):
        expected = np.asarray(answers(model, pixels(count), mirrored))
        np.testing.assert_allclose(answer(pixels(count)), expected, atol=1e-5)
    assert np.ptp(expected) > 0.01


@pytest.mark.parametrize("name", FORMATS)
def test_in_int8_it_is_a_quarter_as_large_and_nearly_the_same(model, name, tmp_path, monkeypatch):
    monkeypatch.setattr(portable, "_LARGE", 2**15)  # what is large in a small net
    export, suffix = FORMATS[name]
    whole = export(model, tmp_path / f"model{suffix}", NAMES)
    calibration = pixels(20, seed=1)
    path = export(model, tmp_path / f"model.int8{suffix}", NAMES, calibration=calibration)
    # A bilinear head's projections stay in float32.
    assert path.stat().st_size < 0.4 * whole.stat().st_size
    expected, found = np.asarray(model(pixels(16))), open_exported(path)(pixels(16))
    assert np.abs(found - expected).max() < 0.15  # of random convolutions
    assert np.abs(found - expected).max() > 1e-5  # it is quantized
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.8


def test_its_accuracy_is_measured_on_photographs(model, tmp_path):
    labels = np.array([0, 1, 2, 0], np.int32)
    contents = [picture(seed=seed) for seed in range(4)]
    examples = Examples("some", NAMES, list("abcd"), labels, contents)
    path = export_onnx(model, tmp_path / "model.onnx", NAMES)
    found = evaluate_exported(path, model, examples, batch_size=3)
    expected = evaluate(model, examples)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
    assert found.labels.tolist() == labels.tolist()


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_client_has_to_know_is_beside_it(model, name, tmp_path):
    export, suffix = FORMATS[name]
    path = export(model, tmp_path / f"model{suffix}", NAMES, mirrored=True)
    described = json.loads((tmp_path / f"model{suffix}.json").read_text(encoding="utf-8"))
    assert described["labels"] == list(NAMES)
    assert described["input"]["shape"] == ["batch", SIDE, SIDE, 3]
    assert "resized to 73 pixels" in described["preprocessing"]
    assert described["looks"] == "photograph and mirror, averaged"
    assert sorted(file.name for file in tmp_path.iterdir()) == [path.name, f"{path.name}.json"]
    if name == "onnx":
        properties = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        assert {key: json.loads(value) for key, value in properties.items()} == described
        session = onnxruntime.InferenceSession(path)
        assert [entry.name for entry in session.get_inputs()] == ["images"]
        assert [entry.name for entry in session.get_outputs()] == ["probabilities"]


class TestMistakes:
    @pytest.mark.parametrize("name", FORMATS)
    def test_another_ending_is_refused(self, name, tmp_path):
        export, suffix = FORMATS[name]
        with pytest.raises(UserError, match=f"has to end in {suffix}; received .*model.bin"):
            export(None, tmp_path / "model.bin", NAMES)

    def test_a_file_of_another_kind_is_not_opened(self):
        with pytest.raises(UserError, match="ends in .onnx or .tflite; received model.keras"):
            open_exported("model.keras")

    @pytest.mark.parametrize("package", ["tf2onnx", "onnxruntime", "ai_edge_litert"])
    def test_a_missing_package_is_named_with_the_extra(self, package, tmp_path, monkeypatch):
        model = small_classifier()
        if package == "ai_edge_litert":
            path = export_litert(model, tmp_path / "model.tflite", NAMES)
        importing = builtins.__import__

        def without(name, *given, **options):
            if name.split(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {package!r}", name=package)
            return importing(name, *given, **options)

        monkeypatch.setattr(builtins, "__import__", without)
        with pytest.raises(UserError, match=rf"{package} is needed; .*alexnet-keras\[portable\]"):
            if package == "ai_edge_litert":
                open_exported(path)
            else:
                export_onnx(model, tmp_path / "a.onnx", NAMES, calibration=pixels(2))
        assert not list(tmp_path.glob("*.onnx"))
