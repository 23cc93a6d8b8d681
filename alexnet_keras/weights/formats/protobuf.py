"""Protocol buffers' wire format, as far as Caffe and ONNX use it, without generated classes.

A message is read one level at a time into its fields; nested messages, text and packed numbers are
views of the file. See https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import struct

import numpy as np

from alexnet_keras.weights.formats.arrays import item_size
from alexnet_keras.weights.formats.unreadable import Unreadable

# A model of AlexNet has some hundreds, numbers that are not packed counted once in a row.
MOST_FIELDS = 200_000
# Names of layers and values have some dozens.
LONGEST_TEXT = 10_000
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_TOO_SHORT = "its protocol buffer ends too soon"


class Budget:
    """Fields that may still be read of a file: each costs time, whatever it says."""

    def __init__(self) -> None:
        self.left = MOST_FIELDS

    def spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Unreadable(f"it has over {MOST_FIELDS:,} fields; weights have few")


class Message:
    """A message's fields by number.

    Raises:
        Unreadable: the bytes are no message.
    """

    def __init__(self, data: memoryview, budget: Budget | None = None) -> None:
        self.budget = budget or Budget()
        # By number: the wire type, and an integer or the bytes.
        self.fields: dict[int, list[tuple[int, int | memoryview]]] = {}
        at = 0
        while at < len(data):
            self.budget.spend()
            start = at
            tag, at = _varint(data, at)
            number, wire = tag >> 3, tag & 7
            value: int | memoryview
            if wire == _VARINT:
                value, at = _varint(data, at)
            elif wire in (_FIXED32, _FIXED64):
                size = 4 if wire == _FIXED32 else 8
                value, at = _run(data, start, at, size)
            elif wire == _BYTES:
                length, at = _varint(data, at)
                value = _slice(data, at, length)
                at += length
            else:
                raise Unreadable(f"its protocol buffer has a field of the unknown kind {wire}")
            self.fields.setdefault(number, []).append((wire, value))

    def __contains__(self, number: int) -> bool:
        return number in self.fields

    def all_bytes(self, number: int) -> list[memoryview]:
        return [v for kind, v in self.fields.get(number, ()) if kind == _BYTES]

    def messages(self, number: int) -> list[Message]:
        return [Message(data, self.budget) for data in self.all_bytes(number)]

    def message(self, number: int) -> Message | None:
        # Of a field that is there twice the last counts.
        found = self.all_bytes(number)
        return Message(found[-1], self.budget) if found else None

    def texts(self, number: int) -> list[str]:
        found = self.all_bytes(number)
        if any(len(data) > LONGEST_TEXT for data in found):
            raise Unreadable(f"it has a name of more than {LONGEST_TEXT:,} bytes")
        return [str(data, "utf-8", "replace") for data in found]

    def text(self, number: int) -> str:
        return (self.texts(number) or [""])[-1]

    def integers(self, number: int) -> list[int]:
        """Signed 64-bit integers, packed or not."""
        values = []
        for kind, value in self.fields.get(number, ()):
            if kind == _VARINT:
                values.append(_signed(value))
            elif kind == _BYTES:
                at = 0
                while at < len(value):
                    self.budget.spend()
                    one, at = _varint(value, at)
                    values.append(_signed(one))
        return values

    def integer(self, number: int, default: int = 0) -> int:
        return (self.integers(number) or [default])[-1]

    def real(self, number: int, default: float) -> float:
        found = [v for kind, v in self.fields.get(number, ()) if kind == _FIXED32]
        return struct.unpack("<f", found[-1][-4:])[0] if found else default

    def floats(self, number: int, dtype: str = "<f4") -> memoryview:
        """The bytes of floats, packed or not; a view where they lie in one piece."""
        fixed = _FIXED32 if item_size(dtype) == 4 else _FIXED64
        parts = [v for kind, v in self.fields.get(number, ()) if kind in (fixed, _BYTES)]
        return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))


def kind_of(data: memoryview) -> str | None:
    """`"onnx"` or `"caffe"` by the fields of the outermost message, `None` for neither.

    Raises:
        Unreadable: it is no message.
    """
    message = Message(data)
    # ModelProto: ir_version 1 and graph 7 (onnx/onnx.proto). NetParameter: name 1, text; layers 2
    # or layer 100 (src/caffe/proto/caffe.proto).
    if message.all_bytes(7) and message.integer(1):
        return "onnx"
    return "caffe" if message.all_bytes(100) or message.all_bytes(2) else None


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for i, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at + i + 1
    raise Unreadable("its protocol buffer has a number of more than ten bytes, or is cut off")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _slice(data: memoryview, at: int, length: int) -> memoryview:
    if length > len(data) - at:
        raise Unreadable(_TOO_SHORT)
    return data[at : at + length]


def _run(data: memoryview, start: int, at: int, size: int) -> tuple[memoryview, int]:
    """The values of a row of fixed-size fields with one tag, joined, and where the row ends.

    Floats that are not packed are millions of fields: NumPy reads them as a table whose first
    columns are the tag. The table doubles as long as it is all of one tag, so that a row costs
    what it is long.
    """
    tag = np.frombuffer(data[start:at], np.uint8)
    width = len(tag) + size
    _slice(data, at, size)
    count = 1
    while True:
        wanted = min(2 * count, (len(data) - start) // width)
        table = np.frombuffer(data[start : start + wanted * width], np.uint8).reshape(-1, width)
        same = (table[count:, : len(tag)] == tag).all(axis=1)
        more = len(same) if same.all() else int(same.argmin())
        count += more
        if count < wanted or more == 0:
            break
    if count == 1:
        return data[at : at + size], at + size
    joined = np.ascontiguousarray(table[:count, len(tag) :])
    return memoryview(joined.reshape(-1)), start + count * width
