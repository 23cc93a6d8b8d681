"""The wire format of protocol buffers: what Google's encoder writes is read, lies are refused."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, wrappers_pb2

import wire
from alexnet_keras.weights.formats.protobuf import MOST_FIELDS, Message
from alexnet_keras.weights.formats.unreadable import Unreadable


def message(data):
    return Message(memoryview(data))


@pytest.mark.parametrize("value", [1, 127, 128, -1, 2**31, 2**63 - 1, -(2**63)])
def test_integers_are_what_googles_encoder_wrote(value):
    encoded = wrappers_pb2.Int64Value(value=value).SerializeToString()
    assert message(encoded).integer(1) == value
    assert message(encoded).integers(1) == [value]


def test_a_nested_message_is_what_googles_encoder_wrote():
    file = descriptor_pb2.FileDescriptorProto(name="é.proto", dependency=["a", "b"])
    for number, name in enumerate(("first", "second"), start=1):
        file.message_type.add(name=name).field.add(name=f"{name}_field", number=-number)
    read = message(file.SerializeToString())
    assert (read.text(1), read.texts(3), read.text(9)) == ("é.proto", ["a", "b"], "")
    types = read.messages(4)
    assert [one.text(1) for one in types] == ["first", "second"]
    assert [one.message(2).integer(3) for one in types] == [-1, -2]
    assert types[0].message(7) is None
    assert 4 in read and 5 not in read


def test_a_float_is_what_googles_encoder_wrote():
    encoded = wrappers_pb2.FloatValue(value=0.75).SerializeToString()
    assert message(encoded).real(1, 0.0) == 0.75
    assert message(encoded).real(2, 0.5) == 0.5


@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
@pytest.mark.parametrize("pieces", ["packed", "single", "mixed"])
def test_an_array_is_the_same_however_it_is_cut_into_fields(dtype, pieces):
    values = np.random.default_rng(0).normal(size=40).astype(dtype)

    def packed(part):
        return wire.content(5, part.tobytes())

    def single(part):
        kind = 5 if dtype == "<f4" else 1
        return b"".join(wire.tag(5, kind) + value.tobytes() for value in part)

    encoded = {
        "packed": packed(values),
        "single": single(values),
        "mixed": single(values[:1]) + packed(values[1:7]) + wire.integer(1, 3) + single(values[7:]),
    }[pieces]
    read = message(wire.content(2, "before") + encoded + wire.integer(9, 1))
    np.testing.assert_array_equal(np.frombuffer(read.floats(5, dtype), dtype), values)
    assert (read.text(2), read.integer(9)) == ("before", 1)


def test_a_packed_array_is_a_slice_of_the_file():
    values = np.arange(1000, dtype="<f4")
    data = wire.content(5, values.tobytes())
    read = np.frombuffer(message(data).floats(5), "<f4")
    assert np.shares_memory(read, np.frombuffer(data, np.uint8))


def test_an_array_written_number_by_number_counts_as_one_field():
    values = np.arange(2 * MOST_FIELDS, dtype="<f4")
    table = np.empty(len(values), [("tag", "u1"), ("value", "<f4")])
    table["tag"], table["value"] = wire.tag(5, 5)[0], values
    read = message(table.tobytes())
    np.testing.assert_array_equal(np.frombuffer(read.floats(5), "<f4"), values)


@pytest.mark.parametrize(
    "data",
    [
        wire.tag(1, 2) + wire.varint(2**31) + b"abc",
        wire.tag(1, 2) + wire.varint(2**63) + b"abc",
        wire.tag(1, 2) + wire.varint(-1) + b"abc",
        wire.tag(1, 2),
        wire.tag(1, 0),
        wire.tag(1, 0) + b"\x80",
        wire.tag(1, 0) + b"\xff" * 11,
        b"\xff" * 11,
        wire.tag(1, 5) + b"abc",
        wire.tag(1, 1) + b"abcdefg",
        *(wire.tag(1, kind) + b"abc" for kind in (3, 4, 6, 7)),
    ],
)
def test_what_is_no_whole_field_is_refused_and_nothing_is_allocated(data):
    tracemalloc.start()
    try:
        with pytest.raises(Unreadable):
            message(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_every_cut_through_a_message_is_noticed():
    inner = wire.integer(1, 300) + wire.content(2, "text") + wire.real(3, 1.0)
    data = wire.content(7, inner)
    assert message(data).message(7).integer(1) == 300
    for end in range(1, len(data)):
        with pytest.raises(Unreadable):
            message(data[:end])
    for end in range(1, len(inner)):
        # The outer length is right; the inner field is not whole, or the next one is missing.
        cut = message(wire.content(7, inner[:end]))
        try:
            found = cut.message(7)
        except Unreadable:
            continue
        assert end in (3, 9) and 3 not in found


def test_nesting_costs_nothing_however_deep():
    data = b""
    for _ in range(5000):
        data = wire.content(1, data)
    assert len(message(data).messages(1)) == 1


@pytest.mark.parametrize(
    "unit",
    [wire.integer(1, 1), wire.content(1), wire.real(1, 0) + wire.real(2, 0)],
    ids=["numbers", "empty messages", "floats in turn"],
)
def test_more_fields_than_a_net_can_have_are_refused(unit):
    with pytest.raises(Unreadable, match="fields"):
        message(unit * (MOST_FIELDS + 1))


def test_the_fields_of_all_messages_of_a_file_are_counted_together():
    half = wire.integer(1, 1) * (MOST_FIELDS // 2)
    read = message(wire.content(3, half) + wire.content(3, half))
    with pytest.raises(Unreadable, match="fields"):
        read.messages(3)


def test_the_numbers_of_a_packed_list_count_as_fields():
    read = message(wire.integers(1, [1] * (MOST_FIELDS + 1)))
    with pytest.raises(Unreadable, match="fields"):
        read.integers(1)
