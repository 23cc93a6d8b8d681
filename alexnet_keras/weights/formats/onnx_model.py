"""ONNX models, without the `onnx` package: the graph tells which tensor is which, not the names.

Reads a chain of five convolutions and up to three dense layers, as in the model zoo's bvlcalexnet
and caffenet and in an export of torchvision's alexnet by `torch.onnx`. Field numbers below are
those of onnx/onnx.proto.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from alexnet_keras.weights import layouts
from alexnet_keras.weights.formats.arrays import array_of
from alexnet_keras.weights.formats.protobuf import Message
from alexnet_keras.weights.formats.unreadable import Unreadable, quoted

# TensorProto.DataType: the element, and the field for values that are not raw.
_FLOATS = {1: ("<f4", 4), 11: ("<f8", 10), 10: ("<f2", None), 16: ("<bf16", None)}
# What a chain may have between its layers and the reader need not look at.
_PASSING = {
    "Cast", "Dropout", "Flatten", "Identity", "LogSoftmax", "Relu", "Reshape", "Softmax", "Squeeze",
    "Unsqueeze",
}  # fmt: skip
# What looks at the chain without being a part of it: sizes for a Reshape.
_ASIDE = {"Shape", "Size"}
_QUANTIZED = {
    "ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QGemm",
    "QLinearConv", "QLinearMatMul", "QuantizeLinear",
}  # fmt: skip


@dataclass(frozen=True)
class _Node:
    operator: str
    inputs: list[str]
    outputs: list[str]
    attributes: Mapping[str, Message]

    def integers(self, name: str) -> list[int]:
        attribute = self.attributes.get(name)
        return [] if attribute is None else attribute.integers(8)

    def integer(self, name: str, default: int) -> int:
        attribute = self.attributes.get(name)
        return default if attribute is None else attribute.integer(3, default)

    def real(self, name: str, default: float) -> float:
        attribute = self.attributes.get(name)
        return default if attribute is None else attribute.real(2, default)


@dataclass
class _Net:
    """What is known of the net so far, while its nodes are read in the order of the file."""

    #: kernels are (out, in, height, width) and (out, in)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    convolutions: int = 0
    dense: int = 0
    groups: set[int] = field(default_factory=set)
    #: LRN and MaxPool in the order in which they follow each convolution
    orders: list[str] = field(default_factory=list)
    #: whether the constants of each LRN are those of the published nets
    published: bool = True
    #: constants by their own names; bfloat16 is a copy, and layers may share it
    unpacked: dict[str, np.ndarray] = field(default_factory=dict)
    #: the name of a dense layer that may get its bias from an Add
    without_bias: str | None = None


def read_onnx(data: memoryview) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The tensors, by this package's names and in its layout, and the variants that they fit.

    Raises:
        Unreadable: the file is damaged, quantized, without its tensors, or not of AlexNet.
    """
    graph = Message(data).message(7)
    if graph is None:
        raise Unreadable("it has no graph")
    nodes = [_node(message) for message in graph.messages(1)]
    if any(node.operator in _QUANTIZED for node in nodes):
        raise Unreadable("it is quantized", "take the float model, such as bvlcalexnet-12.onnx")
    constants = {tensor.text(8): tensor for tensor in graph.messages(5)}
    constants |= {
        node.outputs[0]: value
        for node in nodes
        if node.operator == "Constant"
        and node.outputs
        and "value" in node.attributes
        and (value := node.attributes["value"].message(5)) is not None
    }
    net = _follow(nodes, constants, {message.text(1) for message in graph.messages(11)})
    if net.convolutions != 5:
        raise _other_counts(net)
    return layouts.from_out_in(net.tensors), _variants(net)


def _node(message: Message) -> _Node:
    return _Node(
        operator=message.text(4),
        inputs=message.texts(1),
        outputs=message.texts(2),
        attributes={attribute.text(1): attribute for attribute in message.messages(5)},
    )


def _follow(nodes: list[_Node], constants: Mapping[str, Message], inputs: set[str]) -> _Net:
    """Walks the chain from the graph's input on; ONNX lists nodes in an order that can be run."""
    net = _Net()
    sources = _sources(nodes, constants)
    chain = inputs - constants.keys()
    for node in nodes:
        on_chain = [name for name in node.inputs if name in chain]
        if not on_chain or node.operator in _ASIDE:
            continue
        _take(node, on_chain[0], sources, constants, net)
        chain = set(node.outputs[:1])
    return net


def _sources(nodes: list[_Node], constants: Mapping[str, Message]) -> dict[str, tuple[str, bool]]:
    """By name of a value that is constant: the constant, and whether it is transposed."""
    sources = {name: (name, False) for name in constants}
    for node in nodes:
        if not node.inputs or not node.outputs or node.inputs[0] not in sources:
            continue
        name, transposed = sources[node.inputs[0]]
        if node.operator == "Identity":
            sources[node.outputs[0]] = (name, transposed)
        elif node.operator == "Transpose":
            # Only of dense kernels, which have no other order than the reverse.
            sources[node.outputs[0]] = (name, not transposed)
    return sources


def _take(
    node: _Node,
    data: str,
    sources: Mapping[str, tuple[str, bool]],
    constants: Mapping[str, Message],
    net: _Net,
) -> None:
    """Adds to `net` what a node of the chain says."""

    def constant(name: str, dimensions: int, what: str) -> np.ndarray:
        if name not in sources:
            raise Unreadable(
                f"the values of {what} are not in the file", "give a model with its weights"
            )
        source, transposed = sources[name]
        if source not in net.unpacked:
            net.unpacked[source] = _tensor(constants[source], what)
        array = net.unpacked[source]
        if dimensions == 1 and array.shape[-1:] == (array.size,):
            array = array.reshape(-1)
        if array.ndim != dimensions or (transposed and dimensions != 2):
            raise Unreadable(
                f"{what} has the shape {array.shape}, not of {dimensions} dimensions, or is "
                "transposed"
            )
        return array.T if transposed else array

    without_bias, net.without_bias = net.without_bias, None
    if node.operator == "Conv":
        if node.inputs[0] != data or len(node.inputs) < 2 or net.dense:
            raise Unreadable("its convolutions are no chain", "give weights of AlexNet")
        net.convolutions += 1
        if net.convolutions > 5:
            raise _other_counts(net)
        net.orders.append("")
        net.groups.add(node.integer("group", 1))
        name = f"conv{net.convolutions}"
        net.tensors[f"{name}/kernel"] = constant(node.inputs[1], 4, f"{name}/kernel")
        if len(node.inputs) > 2:
            net.tensors[f"{name}/bias"] = constant(node.inputs[2], 1, f"{name}/bias")
    elif node.operator in ("Gemm", "MatMul"):
        _plain_product(node, data)
        net.dense += 1
        if net.dense > 3:
            raise _other_counts(net)
        name = f"fc{5 + net.dense}"
        kernel = constant(node.inputs[1], 2, f"{name}/kernel")
        net.tensors[f"{name}/kernel"] = kernel if node.integer("transB", 0) else kernel.T
        if len(node.inputs) > 2:
            net.tensors[f"{name}/bias"] = constant(node.inputs[2], 1, f"{name}/bias")
        else:
            net.without_bias = name
    elif node.operator == "Add" and without_bias:
        (bias,) = [name for name in node.inputs if name != data][:1] or [""]
        name = f"{without_bias}/bias"
        net.tensors[name] = constant(bias, 1, name)
    elif node.operator in ("LRN", "MaxPool") and net.orders:
        net.orders[-1] += node.operator
        net.published &= node.operator != "LRN" or _published(node)
    elif node.operator not in _PASSING and not _averages_nothing(node):
        raise Unreadable(
            f"it has an operation {quoted(node.operator)}, which no AlexNet that is known here has",
            "give bvlcalexnet, caffenet, or torchvision's alexnet exported by torch.onnx",
        )


def _other_counts(net: _Net) -> Unreadable:
    return Unreadable(
        f"it has {net.convolutions} convolutions and {net.dense} dense layers or more; AlexNet has "
        "5 and 3",
        "give weights of AlexNet",
    )


def _plain_product(node: _Node, data: str) -> None:
    scaled = node.real("alpha", 1.0) != 1.0 or node.real("beta", 1.0) != 1.0
    if len(node.inputs) < 2 or node.inputs[0] != data or scaled or node.integer("transA", 0):
        raise Unreadable(
            "it has a dense layer that scales or transposes its input", "give weights of AlexNet"
        )


def _published(lrn: _Node) -> bool:
    """Whether an LRN has the constants of both of Caffe's nets."""
    return (
        lrn.integer("size", 0) == 5
        and math.isclose(lrn.real("alpha", 1e-4), 1e-4, rel_tol=1e-6)
        and math.isclose(lrn.real("beta", 0.75), 0.75)
        and lrn.real("bias", 1.0) == 1.0
    )


def _averages_nothing(node: _Node) -> bool:
    """Whether it is what torchvision's adaptive pooling to 6x6 is for a pool5 of 6x6."""
    return node.operator == "AveragePool" and set(node.integers("kernel_shape")) == {1}


def _tensor(tensor: Message, name: str) -> np.ndarray:
    """A TensorProto as a view."""
    if 13 in tensor or tensor.integer(14):
        raise Unreadable(
            f"it keeps {name} in another file", "save the model with all its tensors in one file"
        )
    kind = tensor.integer(2)
    if kind not in _FLOATS:
        raise Unreadable(f"{name} holds elements of ONNX's type {kind}, not floats")
    dtype, values = _FLOATS[kind]
    if raw := tensor.all_bytes(9):
        data = raw[-1]
    elif values is not None and values in tensor:
        data = tensor.floats(values, dtype)
    else:
        raise Unreadable(f"{name} has no raw data")
    return array_of(data, dtype, tensor.integers(1), name)


def _variants(net: _Net) -> tuple[str, ...]:
    groups = {"LRNMaxPool": {1, 2}, "MaxPoolLRN": {1, 2}, "MaxPool": {1}}
    names = {"LRNMaxPool": "caffe", "MaxPoolLRN": "caffenet", "MaxPool": "torchvision"}
    order = net.orders[0]
    alike = net.orders == [order, order, "", "", "MaxPool"]
    if order not in names or not alike or net.groups != groups[order] or not net.published:
        return ()
    return (names[order],)
