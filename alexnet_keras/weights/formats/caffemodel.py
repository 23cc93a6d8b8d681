"""Caffe's `.caffemodel`: a NetParameter with the layers' blobs (src/caffe/proto/caffe.proto).

The files of 2014 in BVLC's zoo have V1LayerParameter (`layers`, field 2) and blobs of num,
channels, height, width; later ones have LayerParameter (`layer`, field 100) and blobs with a shape.
Field numbers below are those of caffe.proto.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from alexnet_keras.weights import layouts
from alexnet_keras.weights.formats.arrays import array_of, described
from alexnet_keras.weights.formats.protobuf import Message
from alexnet_keras.weights.formats.unreadable import Unreadable, quoted

_CONVOLUTION, _INNER_PRODUCT, _LRN, _POOLING = "Convolution", "InnerProduct", "LRN", "Pooling"
# V1LayerParameter.LayerType
_TYPES_V1 = {4: _CONVOLUTION, 14: _INNER_PRODUCT, 15: _LRN, 17: _POOLING}
_BOTH = ("caffe", "caffenet")


@dataclass(frozen=True)
class _Layer:
    name: str
    type: str
    inputs: list[str]
    outputs: list[str]
    blobs: list[Message]
    lrn: Message | None
    pooling: Message | None
    inner_product: Message | None


def read_caffemodel(data: memoryview) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The tensors, by this package's names and in its layout, and the variants that they fit.

    AlexNet normalizes before it pools, CaffeNet after; a file without such layers fits both. The
    input channels of conv1 stay in the order of the file, which is blue, green, red in BVLC's.

    Raises:
        Unreadable: the file is damaged, or not of AlexNet.
    """
    net = Message(data)
    layers = [_layer_v1(message) for message in net.messages(2)]
    layers += [_layer(message) for message in net.messages(100)]
    weighted = [layer for layer in layers if layer.blobs]
    for layer in weighted:
        if layer.type not in (_CONVOLUTION, _INNER_PRODUCT):
            raise Unreadable(
                f"its layer {quoted(layer.name)} has weights of the type {quoted(layer.type)}, "
                "which AlexNet has not",
                "give weights of AlexNet",
            )
    convolutions = [layer for layer in weighted if layer.type == _CONVOLUTION]
    dense = [layer for layer in weighted if layer.type == _INNER_PRODUCT]
    if len(convolutions) != 5 or len(dense) > 3:
        raise Unreadable(
            f"it has {len(convolutions)} convolutions and {len(dense)} inner products; AlexNet has "
            "5 and 3",
            "give weights of AlexNet",
        )
    tensors = {}
    for number, layer in enumerate(convolutions + dense, start=1):
        name = f"conv{number}" if number <= 5 else f"fc{number}"
        for variable, blob in zip(("kernel", "bias"), layer.blobs, strict=False):
            dimensions = 1 if variable == "bias" else 4 if number <= 5 else 2
            array = _blob(blob, dimensions, f"{name}/{variable} (its layer {quoted(layer.name)})")
            # InnerProductParameter: transpose 6, with which the blob is (in, out).
            if dimensions == 2 and layer.inner_product and layer.inner_product.integer(6):
                array = array.T
            tensors[f"{name}/{variable}"] = array
    return layouts.from_out_in(tensors), _variants(layers)


def _layer_v1(message: Message) -> _Layer:
    number = message.integer(5)
    return _Layer(
        name=message.text(4),
        type=_TYPES_V1.get(number, f"number {number}"),
        inputs=message.texts(2),
        outputs=message.texts(3),
        blobs=message.messages(6),
        lrn=message.message(18),
        pooling=message.message(19),
        inner_product=message.message(17),
    )


def _layer(message: Message) -> _Layer:
    return _Layer(
        name=message.text(1),
        type=message.text(2),
        inputs=message.texts(3),
        outputs=message.texts(4),
        blobs=message.messages(7),
        lrn=message.message(118),
        pooling=message.message(121),
        inner_product=message.message(117),
    )


def _blob(blob: Message, dimensions: int, name: str) -> np.ndarray:
    """A BlobProto as an array of so many dimensions; old blobs have ones in front."""
    if (declared := blob.message(7)) is not None:
        shape = declared.integers(1)
    else:
        shape = [blob.integer(field) for field in (1, 2, 3, 4)]
    extra = len(shape) - dimensions
    if extra < 0 or any(side != 1 for side in shape[:extra]):
        raise Unreadable(f"{name} has the shape {described(shape)}, not of {dimensions} dimensions")
    shape = shape[extra:]
    dtype, field = ("<f4", 5) if 5 in blob else ("<f8", 8)
    data = blob.floats(field, dtype)
    if not len(data) and math.prod(shape):
        raise Unreadable(f"{name} has a shape but no data", "give the .caffemodel itself")
    return array_of(data, dtype, shape, name)


def _variants(layers: list[_Layer]) -> tuple[str, ...]:
    orders = _orders(layers)
    if not any(orders):
        return _BOTH
    if not all(_published(layer.lrn) for layer in layers if layer.type == _LRN):
        return ()
    # PoolingParameter: pool 1, whose 0 is MAX.
    if any(layer.pooling.integer(1) for layer in layers if layer.pooling):
        return ()
    # conv3 and conv4 have neither, conv5 has a pool.
    normalized = {order for order in orders if _LRN in order}
    if normalized == {_LRN + _POOLING}:
        return ("caffe",)
    if normalized == {_POOLING + _LRN}:
        return ("caffenet",)
    return ()


def _orders(layers: list[_Layer]) -> list[str]:
    """For each convolution the LRN and pooling layers between it and the next layer of weights."""
    orders: list[str] = []
    behind: dict[str, int] = {}  # by the name of a layer's output, the convolution that it follows
    for layer in layers:
        follows = next((behind[name] for name in layer.inputs if name in behind), None)
        if layer.type == _CONVOLUTION:
            follows = len(orders)
            orders.append("")
        elif layer.type == _INNER_PRODUCT:
            follows = None
        elif layer.type in (_LRN, _POOLING) and follows is not None:
            orders[follows] += layer.type
        for name in layer.outputs:
            behind.pop(name, None)
            if follows is not None:
                behind[name] = follows
    return orders


def _published(lrn: Message | None) -> bool:
    """Whether an LRNParameter is that of both published nets, or does not say."""
    return lrn is None or (
        lrn.integer(1, 5) == 5
        and math.isclose(lrn.real(2, 1.0), 1e-4, rel_tol=1e-6)
        and math.isclose(lrn.real(3, 0.75), 0.75)
        and lrn.integer(4) == 0  # ACROSS_CHANNELS
        and lrn.real(5, 1.0) == 1.0
    )
