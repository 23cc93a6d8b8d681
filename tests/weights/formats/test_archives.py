"""Zip archives, whole ones as `zipfile` writes them and ones whose claims are lies."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
import zlib

import pytest

from alexnet_keras.weights.formats import archives
from alexnet_keras.weights.formats.archives import Archive
from alexnet_keras.weights.formats.unreadable import Unreadable

TEXT = b"weights, and weights, and weights; " * 20


def zipped(members, packing=zipfile.ZIP_STORED, comment=b"", **options):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packing) as archive:
        archive.comment = comment
        for name, content in members.items():
            with archive.open(name, "w", **options) as member:
                member.write(content)
    return bytearray(file.getvalue())


def read(data):
    archive = Archive(memoryview(bytes(data)))
    return {name: bytes(archive.read(name)) for name in archive.names()}


def entry(data, name):
    """Where the directory's entry of a member is."""
    return data.rfind(b"PK\x01\x02", 0, data.rfind(name))


MEMBERS = {"a": TEXT, "folder/b": bytes(range(256)), "empty": b""}


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("options", [{}, {"force_zip64": True}])
@pytest.mark.parametrize("comment", [b"", b"as long as it likes " * 100])
def test_members_are_what_zipfile_wrote(packing, options, comment):
    assert read(zipped(MEMBERS, packing, comment, **options)) == MEMBERS


def test_sizes_of_64_bits_are_read(monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    data = zipped(MEMBERS, force_zip64=True)
    assert b"PK\x06\x06" in data
    assert read(data) == MEMBERS


def test_members_that_are_not_packed_are_slices_of_the_file():
    data = bytes(zipped(MEMBERS))
    archive = Archive(memoryview(data))
    assert archive.read("a").obj is data
    assert data[archive.start("a") :].startswith(TEXT)
    assert archive.stored("a") and "a" in archive and "c" not in archive


def test_a_member_is_unpacked_once():
    archive = Archive(memoryview(bytes(zipped(MEMBERS, zipfile.ZIP_DEFLATED))))
    assert archive.read("a") is archive.read("a")
    assert not archive.stored("a")


def test_what_is_larger_than_a_step_is_unpacked_whole():
    content = zlib.compress(b"x" * 300_000, 0) * 3 + bytes(2_000_000) + TEXT
    assert read(zipped({"a": content}, zipfile.ZIP_DEFLATED)) == {"a": content}


def altered(offset, layout, value, packing=zipfile.ZIP_STORED, name=b"a"):
    """An archive with one number of a directory's entry changed."""
    data = zipped(MEMBERS, packing)
    struct.pack_into(layout, data, entry(data, name) + offset, value)
    return data


def overlapping():
    data = zipped({"a": TEXT, "b": TEXT})
    # The entry of b points to a's bytes, and a's own header is renamed for it in neither place.
    first, second = entry(data, b"a"), entry(data, b"b")
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    data[second + 46 : second + 47] = b"a"
    return data


def nested_quine():
    """Two entries whose spans overlap: the second begins inside the first's stored bytes."""
    inner = zipped({"b": TEXT})
    data = zipped({"a": bytes(inner), "b": TEXT})
    at = entry(data, b"b")
    struct.pack_into("<I", data, at + 42, data.find(inner))
    return data


LIES = {
    "no end": (b"PK\x03\x04" + bytes(50), "the end is missing"),
    "another size": (altered(24, "<I", 10), "of two sizes"),
    "a size of gigabytes": (altered(24, "<I", 2**32 - 2), "of two sizes|unpack"),
    "packed size beyond the file": (altered(20, "<I", 2**31), "contradict"),
    "a header elsewhere": (altered(42, "<I", 3), "contradict"),
    "a header beyond the file": (altered(42, "<I", 2**31), "no whole zip"),
    "another method": (altered(10, "<H", 8), "contradict"),
    "an unknown method": (altered(10, "<H", 12), "unknown way"),
    "encrypted": (altered(8, "<H", 1), "encrypted"),
    "a wrong checksum": (altered(16, "<I", 1), "checksum"),
    "less than is there": (altered(24, "<I", 10, zipfile.ZIP_DEFLATED), "larger than it says"),
    "more than is there": (altered(24, "<I", 10_000, zipfile.ZIP_DEFLATED), "not whole"),
    "a name that is too long": (altered(28, "<H", 60_000), "directory is damaged"),
    "another name": (altered(46, "<B", ord("c")), "contradict"),
    "one member twice": (overlapping(), "two members"),
    "a member in a member": (nested_quine(), "overlap"),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_archive_that_contradicts_itself_is_refused(lie):
    data, words = LIES[lie]
    with pytest.raises(Unreadable, match=words):
        read(data)


def test_an_archive_that_is_cut_anywhere_is_refused():
    data = zipped(MEMBERS, zipfile.ZIP_DEFLATED)
    for end in range(2, len(data) - 1):
        with pytest.raises(Unreadable):
            read(data[:end])


def test_a_bomb_is_refused_before_it_is_unpacked():
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()
    data = zipped({"a": b"x" * len(bomb)})
    start = data.find(b"xxxx")
    data[start : start + len(bomb)] = bomb
    for at, method, size in ((0, 8, 22), (entry(data, b"a"), 10, 24)):
        struct.pack_into("<H", data, at + method, 8)
        struct.pack_into("<I", data, at + size, 256 << 20)
    tracemalloc.start()
    with pytest.raises(Unreadable, match="unpack to 268,435,456"):
        read(data)
    # One that owns up to little is stopped as soon as it has given that.
    struct.pack_into("<I", data, entry(data, b"a") + 24, 1 << 20)
    with pytest.raises(Unreadable, match="larger than it says"):
        read(data)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_a_directory_of_millions_is_not_read():
    record = b"PK\x01\x02" + bytes(42)
    count = archives.MOST_MEMBERS + 1
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count, count, 46 * count, 0, 0)
    with pytest.raises(Unreadable, match="10,001 members"):
        Archive(memoryview(record * count + end))
