"""Zip archives: every claim of an archive is checked before a byte of it is used.

`zipfile` trusts more than a stranger's file deserves: it takes the names of members from one place
and their data from another, lets members overlap, and reads a directory of any length into objects.
Weights need little of the format, so here is a reader for that little (PKWARE's APPNOTE, 4.3).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from alexnet_keras.weights.formats.unreadable import Unreadable, quoted

# The largest AlexNet there is, in float64, is under 500 MB; four times that is room enough.
MOST_UNPACKED = 2 << 30
# Float weights pack to nine tenths. Zeros pack a thousandfold, which small files may do.
MOST_RATIO, FREE_UNPACKED = 100, 64 << 20
MOST_MEMBERS = 10_000
STEP = 256 << 10

_END, _END64, _LOCATOR64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_ENTRY, _LOCAL = b"PK\x01\x02", b"PK\x03\x04"
_STORED, _DEFLATED = 0, 8
_LIES = "a member's two headers contradict each other"


@dataclass(frozen=True)
class Member:
    """A file of an archive. `packed` is the slice of the archive that begins at `start`."""

    name: str
    size: int
    crc: int
    deflated: bool
    start: int
    packed: memoryview


class Archive:
    """The members of a zip archive by name.

    Raises:
        Unreadable: the archive is damaged, contradicts itself, or would unpack to more than
            `MOST_UNPACKED` bytes or `MOST_RATIO` times its size.
    """

    def __init__(self, data: memoryview) -> None:
        self._members = _members(data)
        self._contents: dict[str, memoryview] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def names(self) -> tuple[str, ...]:
        return tuple(self._members)

    def stored(self, name: str) -> bool:
        """Whether the member lies in the archive as it is, so that reading it copies nothing."""
        return not self._members[name].deflated

    def start(self, name: str) -> int:
        """Where in the archive the member's bytes begin."""
        return self._members[name].start

    def read(self, name: str) -> memoryview:
        """A member's bytes, their checksum verified: a slice of the archive if they are stored."""
        if name not in self._members:
            raise Unreadable(f"its member {quoted(name)} is missing")
        if name not in self._contents:
            member = self._members[name]
            content = _inflated(member) if member.deflated else member.packed
            if zlib.crc32(content) != member.crc:
                raise Unreadable(f"the checksum of its member {quoted(name)} is wrong")
            self._contents[name] = content
        return self._contents[name]


def _members(data: memoryview) -> dict[str, Member]:
    count, start, end = _directory(data)
    members: dict[str, Member] = {}
    spans = []
    at = start
    for _ in range(count):
        member, span, at = _member(data, at, start, end)
        if member.name in members:
            raise Unreadable(f"it has two members {quoted(member.name)}")
        members[member.name] = member
        spans.append(span)
    spans.sort()
    if any(after[0] < before[1] for before, after in zip(spans, spans[1:], strict=False)):
        raise Unreadable("its members overlap")
    total = sum(member.size for member in members.values())
    allowed = min(MOST_UNPACKED, max(FREE_UNPACKED, MOST_RATIO * len(data)))
    if total > allowed:
        raise Unreadable(
            f"its {len(data):,} bytes claim to unpack to {total:,}, more than the {allowed:,} that "
            "are let pass"
        )
    return members


def _directory(data: memoryview) -> tuple[int, int, int]:
    """How many entries the central directory has, and where it starts and ends."""
    tail = max(0, len(data) - 22 - 0xFFFF)
    at = bytes(data[tail:]).rfind(_END)
    if at < 0:
        raise Unreadable("it is no whole zip archive (the end is missing)")
    at += tail
    disk, _, _, count, length, start, _ = _unpack("<4xHHHHIIH", data, at)
    end = at
    # PyTorch writes the 64-bit end always, others where a number asks for it.
    locator = at - 20
    if locator >= 0 and data[locator : locator + 4] == _LOCATOR64:
        _, end, _ = _unpack("<4xIQI", data, locator)
        if data[end : end + 4] != _END64:
            raise Unreadable("it is no whole zip archive (the 64-bit end is elsewhere)")
        disk, _, _, count, length, start = _unpack("<16xIIQQQQ", data, end)
    if disk or start + length != end:
        raise Unreadable("its directory is not where it is said to be")
    if count > MOST_MEMBERS:
        raise Unreadable(f"it has {count:,} members; weights have a few dozen")
    return count, start, end


def _member(data: memoryview, at: int, start: int, end: int) -> tuple[Member, tuple[int, int], int]:
    """The member whose entry is at `at`, the span of its bytes, and where the next entry is."""
    fields = _unpack("<4xHHHHHHIIIHHHHHII", data, at)
    _, _, flags, method, _, _, crc, packed, size, name_n, extra_n, note_n, _, _, _, local = fields
    after = at + 46 + name_n + extra_n + note_n
    if data[at : at + 4] != _ENTRY or after > end:
        raise Unreadable("its directory is damaged")
    raw_name = bytes(data[at + 46 : at + 46 + name_n])
    extra = data[at + 46 + name_n : at + 46 + name_n + extra_n]
    size, packed, local = _wide(extra, size, packed, local)
    name = raw_name.decode("utf-8", errors="replace")
    if flags & 1 or method not in (_STORED, _DEFLATED):
        raise Unreadable(f"its member {quoted(name)} is encrypted or packed in an unknown way")

    _, local_flags, local_method, *_, local_name_n, local_extra_n = _unpack(
        "<4xHHHHHIIIHH", data, local
    )
    first = local + 30 + local_name_n + local_extra_n
    if (
        data[local : local + 4] != _LOCAL
        or data[local + 30 : local + 30 + local_name_n] != raw_name
        or (local_flags ^ flags) & 1
        or local_method != method
        or first + packed > start
    ):
        raise Unreadable(_LIES)
    if method == _STORED and packed != size:
        raise Unreadable(f"its member {quoted(name)} is said to be of two sizes")
    member = Member(name, size, crc, method == _DEFLATED, first, data[first : first + packed])
    return member, (local, first + packed), after


def _wide(extra: memoryview, *fields: int) -> list[int]:
    """`fields`, those that are full replaced by their 64-bit values in the extra field 1."""
    at, values = 0, list(fields)
    while at + 4 <= len(extra):
        kind, length = _unpack("<HH", extra, at)
        if kind == 1:
            wide = at + 4
            for i, value in enumerate(values):
                if value == 0xFFFFFFFF:
                    (values[i],) = _unpack("<Q", extra, wide)
                    wide += 8
            break
        at += 4 + length
    return values


def _inflated(member: Member) -> memoryview:
    """The member unpacked, in steps, so that never more is unpacked than the size it declares."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    content = bytearray()
    try:
        for at in range(0, len(member.packed), STEP):
            pending: bytes | memoryview = member.packed[at : at + STEP]
            while True:
                chunk = unpacker.decompress(pending, STEP)
                content += chunk
                if len(content) > member.size:
                    raise Unreadable(f"its member {quoted(member.name)} is larger than it says")
                pending = unpacker.unconsumed_tail
                if not pending and len(chunk) < STEP:
                    break
    except zlib.error as error:
        raise Unreadable(f"its member {quoted(member.name)} cannot be unpacked") from error
    if not unpacker.eof or len(content) != member.size:
        raise Unreadable(f"its member {quoted(member.name)} is not whole")
    return memoryview(content)


def _unpack(layout: str, data: memoryview, at: int) -> tuple[int, ...]:
    try:
        return struct.unpack_from(layout, data, at)
    except (struct.error, OverflowError) as error:
        raise Unreadable("it is no whole zip archive") from error
