"""Imported weights give what the frameworks that they come from would have given.

One independent reference for each source: PyTorch, a float64 NumPy forward pass for Caffe, and ONNX
Runtime on the model zoo's graph. Widths are a tenth or so of the published ones, but for PyTorch.
"""

from __future__ import annotations

import numpy as np
import pytest

from alexnet_keras import AlexNet, features
from alexnet_keras.weights import save_weights
from numpy_alexnet import forward, softmax
from weight_files import (
    CAFFE_BLOCKS,
    as_channels_last,
    caffe_blobs,
    write_caffemodel,
    write_npy,
    write_zoo_graph,
)

WIDTH, CLASSES = 0.125, 10


def largest_difference(given, expected):
    """Of the tensor's largest magnitude."""
    return np.abs(np.asarray(given) - expected).max() / np.abs(expected).max()


def images(side, count=2):
    return np.random.default_rng(1).normal(0, 50, (count, side, side, 3)).astype(np.float32)


@pytest.mark.reference
@pytest.mark.parametrize("legacy", [False, True])
def test_torchvisions_net_gives_pytorchs_pool5_and_fc8(legacy, tmp_path):
    torch = pytest.importorskip("torch")
    from torch_alexnet import TorchAlexNet

    torch.manual_seed(0)
    net = TorchAlexNet().eval()
    path = tmp_path / "alexnet.pth"
    torch.save(net.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    model = AlexNet(weights=path, classifier_activation=None)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3)).astype(np.float32)
    given = features(model, ["conv1", "conv5", "pool5", "fc8"])(pixels)
    mean, std = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
    expected = net.activations(((pixels / 255 - mean) / std).astype(np.float32))
    for name, tolerance in (("conv1", 1e-5), ("conv5", 1e-5), ("pool5", 1e-5), ("fc8", 1e-4)):
        assert largest_difference(given[name], expected[name]) < tolerance, name
    path.unlink()


@pytest.mark.parametrize("variant", CAFFE_BLOCKS)
@pytest.mark.parametrize("kind", ["caffemodel", "npy"])
@pytest.mark.parametrize("side", [227, 224])
def test_caffes_nets_give_what_a_float64_forward_pass_gives(variant, kind, side, tmp_path):
    # 224 px leave 54 positions to pool: there Caffe's rounding up tells.
    blobs = caffe_blobs(WIDTH, CLASSES)
    path = tmp_path / f"net.{kind}"
    write = {
        "caffemodel": lambda: write_caffemodel(path, variant, blobs),
        "npy": lambda: write_npy(path, blobs),
    }
    write[kind]()
    options = {"width": WIDTH, "classes": CLASSES, "input_shape": (side, side, 3)}
    # A .caffemodel holds its layers' order; a dictionary of arrays does not.
    asked = {} if kind == "caffemodel" else {"variant": variant}
    model = AlexNet(weights=path, **options, **asked)
    given = model.predict(images(side), verbose=0)
    for image, answer in zip(images(side), given, strict=True):
        expected = softmax(forward(variant, as_channels_last(blobs), image)["fc8"])
        assert np.ptp(expected) > 0.01
        np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("variant", CAFFE_BLOCKS)
def test_the_model_zoos_graph_gives_in_onnx_runtime_what_the_imported_net_gives(variant, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = write_zoo_graph(tmp_path / "net.onnx", caffe_blobs(WIDTH, CLASSES), variant)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    model = AlexNet(weights=path, width=WIDTH, classes=CLASSES)
    names = [layer.name for layer in model.layers]
    assert (names.index("norm1") < names.index("pool1")) == (variant == "caffe")
    given = model.predict(images(227), verbose=0)
    for image, answer in zip(images(227), given, strict=True):
        (expected,) = session.run(None, {"data_0": image.transpose(2, 0, 1)[None]})
        assert np.ptp(expected) > 0.01
        np.testing.assert_allclose(answer, expected[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [".weights.h5", ".keras", ".npz"])
def test_converted_weights_come_back_the_same_from_other_formats(kind, tmp_path):
    path = write_caffemodel(tmp_path / "net.caffemodel", "caffenet", caffe_blobs(WIDTH, CLASSES))
    options = {"width": WIDTH, "classes": CLASSES}
    model = AlexNet(weights=path, **options)
    saved = tmp_path / f"converted{kind}"
    if kind == ".npz":
        layers = [layer for layer in model.layers if layer.weights]
        np.savez(saved, **{f"{x.name}/{v.name}": v.numpy() for x in layers for v in x.weights})
    elif kind == ".keras":
        model.save(saved)
    else:
        save_weights(model, saved)
    asked = {"variant": "caffenet"} if kind == ".npz" else {}
    again = AlexNet(weights=saved, **options, **asked)
    np.testing.assert_array_equal(again(images(227)), model(images(227)))


@pytest.mark.real_data
def test_the_real_trunk_comes_through_the_importer_unchanged(torchvision_trunk):
    model = AlexNet(include_top=False, weights=torchvision_trunk)
    with np.load(torchvision_trunk) as archive:
        for key in archive.files:
            layer, variable = key.split("/")
            np.testing.assert_array_equal(getattr(model.get_layer(layer), variable), archive[key])
    assert model.loaded.loaded == ("conv1", "conv2", "conv3", "conv4", "conv5")
