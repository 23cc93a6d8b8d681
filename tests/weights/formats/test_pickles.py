"""The interpreter of pickles: what `pickle` writes is what it reads, and nothing is ever run."""

from __future__ import annotations

import collections
import io
import pickle
import pickletools
import struct
import tracemalloc

import numpy as np
import pytest

from alexnet_keras.weights.formats import pickles
from alexnet_keras.weights.formats.pickles import ForbiddenName, LongText, read_pickle
from alexnet_keras.weights.formats.unreadable import Unreadable

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def read(data, names=None, persistent=None):
    return read_pickle(memoryview(data), names or {}, persistent)[0]


VALUES = [
    None,
    True,
    False,
    0,
    255,
    65_535,
    -1,
    2**31,
    -(2**63),
    2**100,
    1.5,
    -float("inf"),
    "text",
    "öß𝄞\n",
    b"bytes\n\0\xff",
    (),
    (1,),
    (1, 2),
    (1, 2, 3),
    (1, 2, 3, 4),
    [],
    [1, "a", [b"b"]],
    {},
    {"a": 1, b"b": (2, [3]), 4: {}},
    list(range(3000)),
    {f"key{i}": i for i in range(3000)},
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_a_value_is_what_pickle_wrote(value, protocol):
    given = read(pickle.dumps(value, protocol))
    assert given == value and type(given) is type(value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_object_that_is_there_twice_is_one_object(protocol):
    shared = ["once"]
    first, second = read(pickle.dumps([shared, shared], protocol))
    assert first is second
    loop = []
    loop.append(loop)
    given = read(pickle.dumps(loop, protocol))
    assert given[0] is given


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_ordered_dictionary_is_a_dictionary_without_its_attributes(protocol):
    value = collections.OrderedDict(b=1, a=[2])
    value._metadata = {"version": 1}  # as PyTorch has it on a state_dict
    given = read(pickle.dumps(value, protocol))
    assert (type(given), list(given.items())) == (dict, [("b", 1), ("a", [2])])


def test_python_2s_strings_are_bytes_and_its_ordered_dictionaries_lists_of_pairs():
    # pickle.dumps(OrderedDict([("a", "\xe4"), ("b", 2L)]), 2), in Python 2.7.
    data = b"\x80\x02ccollections\nOrderedDict\nq\x00]q\x01(]q\x02(U\x01aq\x03U\x01\xe4q\x04e"
    data += b"]q\x05(U\x01bq\x06\x8a\x01\x02ee\x85q\x07Rq\x08."
    assert read(data) == {b"a": b"\xe4", b"b": 2}
    assert read(b"(dp0\nS'a'\np1\nS'\\xe4\\n'\np2\nsS\"b\"\nL2L\ns.") == {b"a": b"\xe4\n", b"b": 2}


def test_long_bytes_are_views_and_long_text_stays_encoded():
    content = bytes(range(256)) * 40
    data = pickle.dumps(content)
    given = read(data)
    assert isinstance(given, memoryview) and given.obj is data and given == content
    # Python 3 in protocol 2: the bytes as text of latin-1, and a call that encodes it.
    given = read(pickle.dumps(content, 2))
    assert given == content
    assert LongText(memoryview("ä".encode() * 2**20)).latin1() == b"\xe4" * 2**20


def test_names_come_from_the_table_and_persistent_ids_from_the_caller():
    class Writer(pickle.Pickler):
        def persistent_id(self, value):
            return 7 if value == "elsewhere" else None

    file = io.BytesIO()
    Writer(file, 2).dump([np.dtype, "elsewhere"])
    given = read(file.getvalue(), {"numpy.dtype": "a type"}, lambda key: ("found", key))
    assert given == ["a type", ("found", 7)]
    with pytest.raises(Unreadable, match="damaged"):
        read(file.getvalue(), {"numpy.dtype": "a type"})


def test_the_length_of_the_pickle_is_told_and_what_follows_is_left():
    data = pickle.dumps({"a": 1})
    assert read_pickle(memoryview(data + b"more"), {}) == ({"a": 1}, len(data))


class Trap:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_a_pickle_calls_is_named_and_not_run(protocol, tmp_path):
    import os

    command = f"touch {tmp_path / 'ran'}"
    for function, argument, name in (
        (os.system, command, r"(posix|nt)\.system"),
        (eval, f"__import__('os').system({command!r})", "eval"),
        (print, command, "print"),
    ):
        for value in (Trap(function, argument), {"conv1": [Trap(function, argument)]}):
            with pytest.raises(ForbiddenName, match=name):
                read(pickle.dumps(value, protocol))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"(cos\nsystem\nS'true'\no.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        b"\x80\x02cos\nsystem\nU\x04true\x85\x81.",
        b"\x80\x02cbuiltins\ngetattr\n.",
        # A name whose parts the table holds, and one through an object of the table.
        b"\x80\x04\x8c\x09known.add\x8c\x08__self__\x93.",
        b"\x80\x04\x8c\x05known\x8c\x0cadd.__code__\x93.",
    ],
)
def test_no_opcode_leads_to_what_is_not_in_the_table(data):
    with pytest.raises(ForbiddenName):
        read(data, {"known.add": lambda: None})


def test_what_is_not_in_the_table_cannot_be_called():
    for value in (b"S'a'\n", b"]", b"}", b"I1\n", b"cknown\nmarker\n"):
        with pytest.raises(Unreadable, match="damaged"):
            read(value + b"(tR.", {"known.marker": "a string"})


def nested(levels):
    return b"(" * levels + b"t" * levels


HOSTILE = {
    "a tuple as a key": (b"})" + b"Ns.", "tuple as a dictionary key"),
    "a tuple nested deep as a key": (b"}" + nested(200_000) + b"Ns.", "tuple as a dictionary key"),
    "a list as a key": (b"}]Ns.", "list as a dictionary key"),
    "a float as a key": (b"}G" + bytes(8) + b"Ns.", "float as a dictionary key"),
    "bytes beyond the end": (b"\x8e" + (2**60).to_bytes(8, "little") + b"x.", "ends too soon"),
    "text beyond the end": (b"\x8d" + (2**63).to_bytes(8, "little") + b"x.", "ends too soon"),
    "a negative length": (b"T\xff\xff\xff\xff.", "ends too soon"),
    "an integer of a kilobyte": (b"\x8b\0\4\0\0" + b"\1" * 1024 + b".", "integer of 1,024 bytes"),
    "a line of digits": (b"I" + b"9" * 100_000 + b"\n.", "line"),
    "a line without end": (b"I" + b"9" * 10, "line"),
    "an unknown opcode": (b"\xff.", "opcode"),
    "a set": (pickle.dumps({1}, 4), "opcode"),
    "no end": (b"N", "ends too soon"),
    "nothing": (b"", "ends too soon"),
    "two objects": (b"NN.", "more or less than one"),
    "an open mark": (b"N(N.", "more or less than one"),
    "a memo that is empty": (b"h\x05.", "damaged"),
    "an append to nothing": (b"Na.", "damaged"),
    "an item of a list": (b"]NNs.", "damaged"),
    "half an item": (b"}(Nu.", "damaged"),
    "a state for a list": (b"]}b.", "damaged"),
    "too many opcodes": (b"N0" * 300_000, "opcodes"),
    "another encoding": (b"\x80\x02c_codecs\nencode\nX\1\0\0\0aX\5\0\0\0rot13\x86R.", "damaged"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_no_weights_need_is_refused(what):
    data, words = HOSTILE[what]
    with pytest.raises(Unreadable, match=words):
        read(data)


def test_an_index_of_two_thousand_million_costs_nothing():
    tracemalloc.start()
    assert (
        read(b"Nr" + struct.pack("<I", 2**32 - 1) + b"0j" + struct.pack("<I", 2**32 - 1) + b".")
        is None
    )
    assert read(b"Np999999999999999999\n0g999999999999999999\n.") is None
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "amplified",
    [
        # One text, encoded again and again.
        b"X\x00\x10\x00\x00" + b"x" * 4096 + b"q\1X\6\0\0\0latin1\x86q\2c_codecs\nencode\nq\3",
        # One list of pairs, again and again a dictionary.
        b"]("
        + b"KA]K\1a\x86" * 0
        + b"".join(b"K%c)\x86" % i for i in range(1, 200))
        + b"e\x85q\2ccollections\nOrderedDict\nq\3",
    ],
)
def test_little_cannot_be_made_much(amplified):
    tracemalloc.start()
    with pytest.raises(Unreadable, match="asks for more than is in it"):
        read(b"\x80\x02(" + amplified + b"h\3h\2R" * 90_000 + b"t.")
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()


def test_nesting_without_end_is_read_and_freed():
    assert isinstance(read(nested(50_000) + b"."), tuple)
    for opened, closed in ((b"]", b"a"), (b"}U\1a", b"s")):
        read(opened * 30_000 + b"N" + closed * 30_000 + b".")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pickle_that_is_cut_anywhere_is_refused(protocol):
    data = pickle.dumps({"a": [1, 2.5, "x", b"y" * 300], "b": (None, -7)}, protocol)
    for end in range(len(data)):
        with pytest.raises(Unreadable):
            read(data[:end])


def test_every_opcode_that_is_known_is_one_of_pickles():
    names = {opcode.code.encode("latin-1"): opcode.name for opcode in pickletools.opcodes}
    known = {names[code] for code in pickles._ACTIONS}
    assert known.isdisjoint({"EXT1", "EXT2", "EXT4", "OBJ", "NEWOBJ_EX", "NEXT_BUFFER"})
