"""Weights files of every format, written by the tools that they come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from alexnet_keras.variants import VARIANTS, with_options
from mutants import read_mutants


def caffe_blobs(width, classes, seed=0):
    """Random weights of Caffe's nets as Caffe stores them: out, in / group, height, width."""
    row = with_options(VARIANTS["caffe"], width=width)
    rng = np.random.default_rng(seed)
    shapes = {name: shape[::-1] for name, shape in row.kernel_shapes().items()}
    shapes["fc6"] = (row.hidden_units[0], row.filters[4] * 36)
    shapes["fc7"] = row.hidden_units[::-1]
    shapes["fc8"] = (classes, row.hidden_units[1])
    return {
        name: (
            rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32),
            rng.normal(0, 0.1, shape[0]).astype(np.float32),
        )
        for name, shape in shapes.items()
    }


def as_channels_last(blobs):
    """The same by the names and layout of `numpy_alexnet`, written out element by element."""
    tensors = {}
    for name, (weights, bias) in blobs.items():
        if name == "fc6":
            # Rows of C, H, W counted off, then listed in the order H, W, C.
            channels = weights.shape[1] // 36
            index = np.arange(36 * channels).reshape(channels, 6, 6)
            order = [index[c, h, w] for h in range(6) for w in range(6) for c in range(channels)]
            tensors["fc6/kernel"] = weights[:, order].T
        else:
            tensors[f"{name}/kernel"] = np.transpose(
                weights, (2, 3, 1, 0) if weights.ndim == 4 else (1, 0)
            )
        tensors[f"{name}/bias"] = bias
    return tensors


def caffe_messages():
    """The part of caffe.proto that a weights file needs, by its numbers, through protobuf."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="caffe_test.proto", package="caffe_test")

    def message(name, *fields):
        added = file.message_type.add(name=name)
        for label, number, kind, repeated in fields:
            one = added.field.add(
                name=label,
                number=number,
                label=field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL,
            )
            if isinstance(kind, str):
                one.type, one.type_name = field.TYPE_MESSAGE, f".caffe_test.{kind}"
            else:
                one.type = kind
                if repeated and kind in (field.TYPE_FLOAT, field.TYPE_INT64):
                    one.options.packed = True

    message("BlobShape", ("dim", 1, field.TYPE_INT64, True))
    message("BlobProto", ("data", 5, field.TYPE_FLOAT, True), ("shape", 7, "BlobShape", False))
    message(
        "LayerParameter",
        ("name", 1, field.TYPE_STRING, False),
        ("type", 2, field.TYPE_STRING, False),
        ("bottom", 3, field.TYPE_STRING, True),
        ("top", 4, field.TYPE_STRING, True),
        ("blobs", 7, "BlobProto", True),
    )
    message(
        "NetParameter",
        ("name", 1, field.TYPE_STRING, False),
        ("layer", 100, "LayerParameter", True),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe_test.NetParameter"))


#: name and type of each layer between the ones with weights, in the order of the prototxt
CAFFE_BLOCKS = {
    "caffe": [("norm", "LRN"), ("pool", "Pooling")],
    "caffenet": [("pool", "Pooling"), ("norm", "LRN")],
}


def write_caffemodel(path, variant, blobs):
    net = caffe_messages()(name="AlexNet" if variant == "caffe" else "CaffeNet")
    last = "data"

    def layer(name, kind, top=None, weights=()):
        nonlocal last
        added = net.layer.add(name=name, type=kind, bottom=[last], top=[top or name])
        for array in weights:
            blob = added.blobs.add()
            blob.data.extend(array.ravel().tolist())
            blob.shape.dim.extend(array.shape)
        last = top or name

    for number in range(1, 6):
        layer(f"conv{number}", "Convolution", weights=blobs[f"conv{number}"])
        layer(f"relu{number}", "ReLU", top=f"conv{number}")
        if number in (1, 2):
            for name, kind in CAFFE_BLOCKS[variant]:
                layer(f"{name}{number}", kind)
    layer("pool5", "Pooling")
    for name in ("fc6", "fc7", "fc8"):
        layer(name, "InnerProduct", weights=blobs[name])
    path.write_bytes(net.SerializeToString())
    return path


def write_npy(path, blobs):
    """As caffe-tensorflow does: height, width, in, out; rows of fc6 in the order H, W, C."""
    tensors = as_channels_last(blobs)
    np.save(path, {name: [tensors[f"{name}/kernel"], tensors[f"{name}/bias"]] for name in blobs})
    return path


def write_zoo_graph(path, blobs, variant="caffe", side=227):
    """The model zoo's graph (a structure sample in the `onnx` package), filled with weights."""
    import onnx
    from onnx import helper, numpy_helper

    sample = Path(onnx.__file__).parent / "backend/test/data/light/light_bvlc_alexnet.onnx"
    model = onnx.load(sample)
    graph = model.graph
    # Its weights are ConstantOfShape nodes; the zoo's files have initializers.
    nodes = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    if variant == "caffenet":
        for lrn in [i for i, node in enumerate(nodes) if node.op_type == "LRN"]:
            pool = lrn + 1
            before, between, after = (
                nodes[lrn].input[0],
                nodes[lrn].output[0],
                nodes[pool].output[0],
            )
            nodes[lrn], nodes[pool] = nodes[pool], nodes[lrn]
            nodes[lrn].input[0], nodes[lrn].output[0] = before, between
            nodes[pool].input[0], nodes[pool].output[0] = between, after
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.initializer[:]
    for name, (weights, bias) in blobs.items():
        graph.initializer.append(numpy_helper.from_array(weights, f"{name}_w_0"))
        graph.initializer.append(numpy_helper.from_array(bias, f"{name}_b_0"))
    flat = np.array([1, blobs["fc6"][0].shape[1]], np.int64)
    graph.initializer.append(numpy_helper.from_array(flat, "OC2_DUMMY_1"))
    del graph.input[:]
    image = helper.make_tensor_value_info("data_0", onnx.TensorProto.FLOAT, [1, 3, side, side])
    # Before version 4 of the format initializers are inputs as well.
    given = [
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in graph.initializer
    ]
    graph.input.extend([image, *given])
    del graph.value_info[:]
    output = graph.output[0].name
    del graph.output[:]
    graph.output.append(
        helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, [1, len(blobs["fc8"][1])])
    )
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def write_torch(path, *, legacy=False):
    import torch

    from torch_alexnet import TorchAlexNet

    torch.manual_seed(0)
    net = TorchAlexNet(classes=3, channels=(4, 6, 8, 6, 4), hidden=8)
    torch.save(net.state_dict(), path, _use_new_zipfile_serialization=not legacy)


def write_npz(path, *, packed=False):
    (np.savez_compressed if packed else np.savez)(path, **as_channels_last(caffe_blobs(0.02, 3)))


def write_keras(path):
    from alexnet_keras import AlexNet
    from alexnet_keras.weights import save_weights

    model = AlexNet(variant="torchvision", width=0.02, classes=3, input_shape=(64, 64, 3))
    if path.suffix == ".keras":
        model.save(path)
    else:
        save_weights(model, path)


#: a small file of each kind: a name for it, and what writes it to a path
SMALL_FILES = {
    "torch.pth": write_torch,
    "legacy.pth": lambda path: write_torch(path, legacy=True),
    "arrays.npy": lambda path: write_npy(path, caffe_blobs(0.02, 3)),
    "net.caffemodel": lambda path: write_caffemodel(path, "caffe", caffe_blobs(0.02, 3)),
    "net.onnx": lambda path: write_zoo_graph(path, caffe_blobs(0.02, 3)),
    "arrays.npz": write_npz,
    "packed.npz": lambda path: write_npz(path, packed=True),
    "net.weights.h5": write_keras,
    "net.keras": write_keras,
}
#: the kinds that PyTorch has to write
FROM_TORCH = ("torch.pth", "legacy.pth")


def read_damaged(name, folder, seeds):
    """What becomes of a damaged file of a kind, for each seed; the sound one is read first."""
    from alexnet_keras import UserError
    from alexnet_keras.weights import read_weights

    path = Path(folder, name)
    SMALL_FILES[name](path)
    read_weights(path)
    return read_mutants(path.read_bytes(), seeds, folder, name, read_weights, UserError)
