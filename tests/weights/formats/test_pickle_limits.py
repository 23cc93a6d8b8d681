"""Pickles that ask for more time or memory than they bring bytes."""

from __future__ import annotations

import builtins
import os
import pickle
import struct
import subprocess
import tracemalloc

import pytest

from alexnet_keras.weights.formats.pickles import ForbiddenName, read_pickle
from alexnet_keras.weights.formats.unreadable import Unreadable


def read(content, names=None, persistent=None):
    return read_pickle(memoryview(content), names or {}, persistent)[0]


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


class Call:
    """Pickles as a call of a function, the attack that `pickle` warns of."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def attacks(command):
    calls = {
        os.system: (command,),
        builtins.eval: (f"__import__('os').system({command!r})",),
        builtins.exec: (f"import os; os.system({command!r})",),
        subprocess.check_output: (command.split(),),
        pickle.loads: (b"cos\nsystem\n.",),
    }
    for function, arguments in calls.items():
        for protocol in (0, 2, 4):
            # Its module has another name in Python 2, in which protocols up to 2 are written.
            yield (
                f".{function.__name__}'",
                pickle.dumps({"w": Call(function, *arguments)}, protocol),
            )
    line = command.encode()
    yield "'os.system'", b"cos\nsystem\n(S'" + line + b"'\ntR."
    yield "'os.system'", b"(S'" + line + b"'\nios\nsystem\n."  # INST
    yield "'subprocess.Popen'", b"csubprocess\nPopen\n(" + text(command) + b"t\x81."  # NEWOBJ


def test_a_name_is_looked_up_whole_and_never_by_its_parts():
    names = {"torch.FloatStorage": "f4"}
    for module, name in (("torch.FloatStorage", "__class__"), ("torch", "FloatStorage.mro")):
        with pytest.raises(ForbiddenName):
            read(text(module) + text(name) + b"\x93.", names)


HUGE = {
    "BINBYTES8 of 2**60": b"\x8e" + struct.pack("<Q", 2**60),
    "BYTEARRAY8 of 2**63": b"\x96" + struct.pack("<Q", 2**63),
    "BINUNICODE8 of 2**60": b"\x8d" + struct.pack("<Q", 2**60),
    "BINBYTES of 4 GB": b"B\xff\xff\xff\xff",
    "BINUNICODE of 4 GB": b"X\xff\xff\xff\xff",
    "BINSTRING of -1": b"T\xff\xff\xff\xff",
    "LONG4 of 2 GB": b"\x8b\xff\xff\xff\x7f",
    "LONG4 of -1": b"\x8b\xff\xff\xff\xff",
    "LONG1 of 255 bytes": b"\x8a\xff" + bytes(255),
    "INT of 5,000 digits": b"I" + b"9" * 5000 + b"\n",
    "PUT of 5,000 digits": b"Np" + b"9" * 5000 + b"\n",
    "a frame beyond the end": b"\x80\x04\x95" + struct.pack("<Q", 2**60),
    "an out-of-band buffer": b"\x97",
    "an extension": b"\x82\x01",
    "an unknown opcode": b"\xfe",
    "a persistent id": b"NQ",
    "a mark that is not there": b"t",
    "a call of nothing": b"NNR",
    "an item for a list": b"]K\x01K\x01s",
    "an append to a tuple": b")K\x01a",
    "a key without a value": b"}(K\x01u",
    "a memo that is not there": b"h\x07",
    "a negative memo": b"Np-1\n",
    "UTF-8 that is none": b"X\x01\x00\x00\x00\xff",
    "a string without an end": b"S'abc\n",
    "a string with an unknown escape": b"S'\\q'\n0",
    "no object": b"",
    "two objects": b"NN",
}


def test_integers_of_one_hash_are_neither_keys_nor_memo_indices():
    # 60,000 of them in a dictionary take minutes, for hash(k * (2**61 - 1)) is 0.
    keys = [k * (2**61 - 1) for k in range(1, 6)]
    assert {hash(key) for key in keys} == {0}
    numbers = [b"\x8a\x0b" + key.to_bytes(11, "little") for key in keys]
    with pytest.raises(Unreadable, match="dictionary key"):
        read(b"}(" + b"".join(number + b"N" for number in numbers) + b"u.")
    with pytest.raises(Unreadable):
        read(b"N" + b"".join(b"p%d\n" % key for key in keys) + b".")


def test_lists_nested_a_hundred_thousand_deep_are_read():
    depth = 100_000
    found = read(b"]" * depth + b"a" * (depth - 1) + b".")
    for _ in range(depth - 1):
        (found,) = found
    assert found == []


def test_arguments_that_are_given_again_and_again_are_refused():
    # 10,000 opcodes that would copy 20,000 values each.
    names = {"numpy.core.multiarray._reconstruct": lambda *_: None}
    begin = b"cnumpy.core.multiarray\n_reconstruct\nq\x00(" + b"N" * 20_000 + b"tq\x01"
    with pytest.raises(Unreadable):
        read(begin + b"h\x00h\x01R0" * 2_500 + b".", names)


def test_an_ordered_dictionary_is_not_copied_again_and_again():
    pairs = b"]q\x01(" + b"".join(text(str(key)) + b"N\x86" for key in range(2_000)) + b"e\x85q\x02"
    # The length of a file must not be what pays for the copies.
    padding = b"B" + struct.pack("<I", 10 << 20) + bytes(10 << 20) + b"0"
    begin = padding + b"ccollections\nOrderedDict\nq\x00" + pairs
    tracemalloc.start()
    try:
        with pytest.raises(Unreadable, match="more than is in it"):
            read(begin + b"h\x00h\x02R" * 2_000 + b".")
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_text_is_not_encoded_again_and_again():
    long = b"X" + struct.pack("<I", 100_000) + bytes(100_000) + text("latin1") + b"\x86q\x01"
    tracemalloc.start()
    try:
        with pytest.raises(Unreadable, match="more"):
            read(b"c_codecs\nencode\nq\x00" + long + b"h\x00h\x01R" * 10_000 + b".")
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()
