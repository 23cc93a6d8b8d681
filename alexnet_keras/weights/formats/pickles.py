"""Pickles read as data: an interpreter of the opcodes that weights files need. It runs nothing.

A subclass of `pickle.Unpickler` can bar names, but not what else a stranger's pickle can do: have
the C code allocate gigabytes for a memo index or a length, or hash tuples nested a million deep.
Here a name is looked up in a table of ours, a length is compared with the bytes that are there, and
all that is built is bounded by the length of the pickle and by `MOST_OPCODES`.

The opcodes are documented in the standard library's `pickletools`.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from alexnet_keras.weights.formats.unreadable import Unreadable, quoted

# A checkpoint of AlexNet with its optimizer has about a thousand; training histories add more.
MOST_OPCODES = 500_000
MOST_ARGUMENTS = 16
# Pairs for ordered dictionaries, which a few opcodes can repeat from the memo.
MOST_PAIRS = 500_000
LONG = 256  # bytes from which a string stays a view of the file
LONGEST_LINE = 64 << 10  # of text; NumPy's raw bytes in protocol 0 have no such limit


class ForbiddenName(Unreadable):
    """The pickle names something that is not in the table, such as `os.system`."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"its pickle asks for {quoted(name)}, and nothing but tensors is let pass",
            "do not use this file; get weights from a source that you trust",
        )
        self.name = name


@dataclass(frozen=True)
class LongText:
    """A long string, still in UTF-8: bytes that Python 3 wrote in protocol 2 come as latin-1."""

    utf8: memoryview

    def latin1(self) -> bytearray:
        """The bytes that the text stands for, one a character."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        content = bytearray()
        for at in range(0, len(self.utf8), 1 << 20):
            content += decoder.decode(self.utf8[at : at + (1 << 20)]).encode("latin-1")
        decoder.decode(b"", final=True)
        return content


@dataclass(frozen=True)
class _Function:
    call: Callable[..., Any]


def read_pickle(
    data: memoryview,
    names: Mapping[str, Any],
    persistent: Callable[[Any], Any] | None = None,
) -> tuple[Any, int]:
    """The object that a pickle describes, and how many bytes of `data` it takes.

    Long byte strings are views of `data`; strings of Python 2 are bytes. A value with a method
    `set_state` takes the state that a BUILD opcode gives it; that of a dictionary is left out.

    Args:
        data: the pickle, and whatever follows it.
        names: what the globals that a pickle may use stand for, by `module.name`. What is callable
            is called with the pickle's arguments, which may be anything that a pickle can hold.
        persistent: turns a persistent id into a value.

    Raises:
        ForbiddenName: the pickle uses another name.
        Unreadable: the pickle is damaged, or uses what no weights need.
    """
    reader = _Interpreter(data, names, persistent)
    return reader.run(), reader.at


class _Interpreter:
    def __init__(
        self,
        data: memoryview,
        names: Mapping[str, Any],
        persistent: Callable[[Any], Any] | None,
    ) -> None:
        self.data = data
        self.at = 0
        self.names = names
        self.persistent = persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each mark
        self.memo: dict[int, Any] = {}
        self.pairs = 0  # of MOST_PAIRS
        self.encoded = 0  # bytes, of the pickle's length

    def run(self) -> Any:
        for _ in range(MOST_OPCODES):
            at = self.at
            opcode = bytes(self.take(1))
            if opcode == b".":
                if len(self.stack) != 1 or self.below:
                    raise Unreadable("its pickle leaves more or less than one object")
                return self.stack[0]
            if opcode not in _ACTIONS:
                raise Unreadable(f"its pickle has the opcode {opcode!r}, which no weights need")
            try:
                _ACTIONS[opcode](self)
            # Whatever a damaged pickle does to the actions and to the table's functions: too few
            # values, values of other types, text that is none.
            except _DAMAGE as error:
                raise Unreadable(f"its pickle is damaged at byte {at:,}") from error
        raise Unreadable(f"its pickle has over {MOST_OPCODES:,} opcodes; weights have few")

    # Reading

    def take(self, count: int) -> memoryview:
        if count < 0 or count > len(self.data) - self.at:
            raise Unreadable("its pickle ends too soon")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self, longest: int = LONGEST_LINE) -> bytes:
        size = 256
        while True:
            found = bytes(self.data[self.at : self.at + size]).find(b"\n")
            if found >= 0:
                return bytes(self.take(found + 1)[:-1])
            if self.at + size >= len(self.data) or size > longest:
                raise Unreadable("its pickle ends in the middle of a line")
            size *= 4

    # Values

    def push_bytes(self, layout: str) -> None:
        content = self.take(self.number(layout))
        self.stack.append(content if len(content) > LONG else bytes(content))

    def push_text(self, layout: str) -> None:
        content = self.take(self.number(layout))
        self.stack.append(LongText(content) if len(content) > LONG else str(content, "utf-8"))

    def push_long(self, layout: str) -> None:
        content = self.take(self.number(layout))
        if len(content) > 16:
            raise Unreadable(f"its pickle has an integer of {len(content):,} bytes")
        self.stack.append(int.from_bytes(content, "little", signed=True))

    def push_int_line(self) -> None:
        line = self.line(64)
        booleans = {b"00": False, b"01": True}
        self.stack.append(booleans[line] if line in booleans else int(line.rstrip(b"L")))

    def push_string_line(self) -> None:
        line = self.line(len(self.data)).strip()
        if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
            raise ValueError("a string without quotes")
        self.stack.append(codecs.escape_decode(line[1:-1])[0])

    # Marks, lists, dictionaries

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        above = self.stack
        self.stack = self.below.pop()
        return above

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def push_tuple(self, length: int) -> None:
        if len(self.stack) < length:
            raise IndexError("a tuple of more than there is")
        self.stack[-length:] = [tuple(self.stack[-length:])]

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise TypeError("an append to what is no list")
        target.extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise TypeError("an item for what is no dictionary")
        target.update(dictionary(values))

    def push_new(self, value: Any) -> None:
        self.stack.append(value)

    def remember(self, index: int) -> None:
        if not 0 <= index < 1 << 60:  # beyond, hashes can be made equal; see `dictionary`
            raise ValueError("no index of a memo")
        self.memo[index] = self.stack[-1]

    # Names, calls, persistent ids

    def push_name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a name that is no text")
        whole = f"{module}.{name}"
        own = {"_codecs.encode": self.encode, "collections.OrderedDict": self.ordered_dict}
        if whole not in own and whole not in self.names:
            raise ForbiddenName(whole)
        value = own[whole] if whole in own else self.names[whole]
        self.stack.append(_Function(value) if callable(value) else value)

    def push_name_lines(self) -> None:
        self.push_name(str(self.line(), "utf-8"), str(self.line(), "utf-8"))

    def push_stack_name(self) -> None:
        name = self.stack.pop()
        self.push_name(self.stack.pop(), name)

    def push_call(self, function: Any, arguments: Any) -> None:
        if not isinstance(function, _Function) or not isinstance(arguments, tuple):
            raise TypeError("a call of what is no function")
        # One tuple of half a million may be the arguments of half a million calls.
        if len(arguments) > MOST_ARGUMENTS:
            raise TypeError("a call with more arguments than a function has")
        self.stack.append(function.call(*arguments))

    def reduce(self) -> None:
        arguments = self.stack.pop()
        self.push_call(self.stack.pop(), arguments)

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        # torch writes `_metadata` onto the OrderedDict of a state_dict.
        if not isinstance(target, dict):
            target.set_state(state)

    def encode(self, text: Any, encoding: Any) -> bytes | bytearray:
        """`_codecs.encode`, with which protocol 2 writes the bytes of Python 3."""
        if encoding not in ("latin1", "latin-1"):
            raise ValueError("an encoding that pickle does not use")
        self.encoded += len(text.utf8 if isinstance(text, LongText) else text)
        if self.encoded > len(self.data):
            raise Unreadable("its pickle asks for more than is in it")
        return text.latin1() if isinstance(text, LongText) else text.encode("latin-1")

    def ordered_dict(self, pairs: Any = ()) -> dict[Any, Any]:
        """`collections.OrderedDict`, to which Python 2 gives its items as a list of pairs."""
        self.count_pairs(len(pairs))
        return dictionary([part for key, value in pairs for part in (key, value)])

    def count_pairs(self, count: int) -> None:
        self.pairs += count
        if self.pairs > MOST_PAIRS:
            raise Unreadable("its pickle asks for more than is in it or weights need")

    def push_persistent(self, key: Any) -> None:
        if self.persistent is None:
            raise TypeError("a persistent id where there are none")
        self.stack.append(self.persistent(key))


def dictionary(values: list[Any]) -> dict[Any, Any]:
    """Keys and values by turns as a dictionary.

    Raises:
        Unreadable: a key is neither a string nor bytes nor an integer of less than 60 bits.
    """
    if len(values) % 2:
        raise ValueError("a key without a value")
    for key in values[::2]:
        # Hashing a tuple nested a million deep, or shared a million times, would never end.
        if not isinstance(key, str | bytes | int):
            raise Unreadable(f"its pickle has a {type(key).__name__} as a dictionary key")
        # Integers that are equal modulo 2**61 - 1 have one hash: a dictionary of them takes hours.
        if isinstance(key, int) and key.bit_length() >= 60:
            raise Unreadable("its pickle has an integer of 60 bits or more as a dictionary key")
    return dict(zip(values[::2], values[1::2], strict=True))


# `codecs.escape_decode` warns of unknown escapes, which a program may have made an exception.
_DAMAGE = (IndexError, KeyError, TypeError, ValueError, AttributeError, DeprecationWarning)
_Action = Callable[[_Interpreter], Any]

_ACTIONS: dict[bytes, _Action] = {
    # Framing, which only helps to read from a stream.
    b"\x80": lambda r: r.take(1),
    b"\x95": lambda r: r.take(8),
    # Constants and numbers
    b"N": lambda r: r.push_new(None),
    b"\x88": lambda r: r.push_new(True),
    b"\x89": lambda r: r.push_new(False),
    b"I": lambda r: r.push_int_line(),
    b"L": lambda r: r.push_int_line(),
    b"J": lambda r: r.push_new(r.number("<i")),
    b"K": lambda r: r.push_new(r.number("<B")),
    b"M": lambda r: r.push_new(r.number("<H")),
    b"\x8a": lambda r: r.push_long("<B"),
    b"\x8b": lambda r: r.push_long("<i"),
    b"F": lambda r: r.push_new(float(r.line(64))),
    b"G": lambda r: r.push_new(r.number(">d")),
    # Bytes and text
    b"S": lambda r: r.push_string_line(),
    b"T": lambda r: r.push_bytes("<i"),
    b"U": lambda r: r.push_bytes("<B"),
    b"B": lambda r: r.push_bytes("<I"),
    b"C": lambda r: r.push_bytes("<B"),
    b"\x8e": lambda r: r.push_bytes("<Q"),
    b"\x96": lambda r: r.push_bytes("<Q"),
    b"V": lambda r: r.push_new(str(r.line(), "raw-unicode-escape")),
    b"X": lambda r: r.push_text("<I"),
    b"\x8c": lambda r: r.push_text("<B"),
    b"\x8d": lambda r: r.push_text("<Q"),
    # Containers
    b"(": lambda r: r.mark(),
    b"0": lambda r: r.pop(),
    b"1": lambda r: r.pop_mark(),
    b"2": lambda r: r.push_new(r.stack[-1]),
    b")": lambda r: r.push_new(()),
    b"]": lambda r: r.push_new([]),
    b"}": lambda r: r.push_new({}),
    b"t": lambda r: r.push_new(tuple(r.pop_mark())),
    b"l": lambda r: r.push_new(r.pop_mark()),
    b"d": lambda r: r.push_new(dictionary(r.pop_mark())),
    b"\x85": lambda r: r.push_tuple(1),
    b"\x86": lambda r: r.push_tuple(2),
    b"\x87": lambda r: r.push_tuple(3),
    b"a": lambda r: r.append([r.stack.pop()]),
    b"e": lambda r: r.append(r.pop_mark()),
    b"s": lambda r: r.set_items([r.stack.pop(-2), r.stack.pop()]),
    b"u": lambda r: r.set_items(r.pop_mark()),
    # The memo, a dictionary: an index of two thousand million costs as much as an index of 0.
    b"p": lambda r: r.remember(int(r.line(64))),
    b"q": lambda r: r.remember(r.number("<B")),
    b"r": lambda r: r.remember(r.number("<I")),
    b"\x94": lambda r: r.remember(len(r.memo)),
    b"g": lambda r: r.push_new(r.memo[int(r.line(64))]),
    b"h": lambda r: r.push_new(r.memo[r.number("<B")]),
    b"j": lambda r: r.push_new(r.memo[r.number("<I")]),
    # Names, calls, persistent ids
    b"c": lambda r: r.push_name_lines(),
    b"\x93": lambda r: r.push_stack_name(),
    b"R": lambda r: r.reduce(),
    b"\x81": lambda r: r.reduce(),  # NEWOBJ, a class and its arguments: the same to a table
    b"b": lambda r: r.build(),
    b"P": lambda r: r.push_persistent(str(r.line(), "ascii")),
    b"Q": lambda r: r.push_persistent(r.stack.pop()),
    b"i": lambda r: r.push_name_lines(),  # INST, a name and a call, so that the name is told
}
