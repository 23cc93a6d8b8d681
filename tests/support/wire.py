"""Protocol buffers written byte by byte, the ones that no writer would write included.

Source: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; negative numbers as 64 bits of two's complement."""
    value &= (1 << 64) - 1
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def tag(number: int, wire: int) -> bytes:
    return varint(number << 3 | wire)


def integer(number: int, value: int) -> bytes:
    return tag(number, 0) + varint(value)


def real(number: int, value: float) -> bytes:
    return tag(number, 5) + struct.pack("<f", value)


def content(number: int, *parts: bytes | str) -> bytes:
    """A string, bytes, a message or a packed array."""
    data = b"".join(part.encode() if isinstance(part, str) else part for part in parts)
    return tag(number, 2) + varint(len(data)) + data


def integers(number: int, values: Iterable[int]) -> bytes:
    """A packed array of varints."""
    return content(number, *map(varint, values))
