from __future__ import annotations

import math
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

from alexnet_keras import UserError
from alexnet_keras.transfer.feature_cache import FeatureCache, stored_size

SHAPE = (3, 2)


def outputs(count, start=0):
    return np.arange(start, start + count * 6, dtype=np.float16).reshape(count, *SHAPE)


def keys(count, start=0):
    return [number.to_bytes(16, "little") for number in range(start, start + count)]


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(tmp_path / "features")


def test_what_was_stored_is_read_in_any_order(cache):
    with cache.open("a", SHAPE, "a trunk") as stored:
        assert stored.rows(keys(3)).tolist() == [-1, -1, -1]
        stored.add(keys(3), outputs(3))
        rows = stored.rows(keys(5))
        assert rows[3:].tolist() == [-1, -1]
        np.testing.assert_array_equal(stored.read(rows[[2, 0, 2]]), outputs(3)[[2, 0, 2]])
    with cache.open("a", SHAPE, "another name") as stored:  # as another run would find it
        np.testing.assert_array_equal(stored.read(stored.rows(keys(3))), outputs(3))
    with cache.open("b", SHAPE, "another trunk") as stored:
        assert stored.rows(keys(3)).tolist() == [-1, -1, -1]
    assert {(e.fingerprint, e.description, e.outputs) for e in cache.sets()} == {
        ("a", "a trunk", 3),
        ("b", "another trunk", 0),
    }


def test_a_key_keeps_its_first_output(cache):
    with cache.open("a", SHAPE, "") as stored:
        stored.add(keys(1), outputs(1))
        stored.add(keys(2), outputs(2, start=50))
        found = stored.read(stored.rows(keys(2)))
        np.testing.assert_array_equal(found, [outputs(1)[0], outputs(2, start=50)[1]])


def test_outputs_of_another_shape_are_refused(cache):
    words = r"2 outputs of \(3, 2\) expected, not \(2, 2, 3\)"
    with cache.open("a", SHAPE, "") as stored, pytest.raises(ValueError, match=words):
        stored.add(keys(2), outputs(2).reshape(2, 2, 3))
    with pytest.raises(ValueError, match=r"holds outputs of shape \(3, 2\), not \(2, 3\)"):
        cache.open("a", (2, 3), "")


@pytest.mark.parametrize("shape", [(7,), (2560,), (6, 6, 256), (24_768,), (13, 13, 256)])
def test_the_size_on_disk_is_known_beforehand(cache, shape):
    count = min(2**23 // stored_size(shape), 20_000)
    with cache.open("a", shape, "") as stored:
        stored.add(keys(count), np.zeros((count, *shape)))
    (entry,) = cache.sets()
    assert 0.85 < entry.size / (count * stored_size(shape)) < 1.15
    assert shape == (7,) or entry.size < 1.15 * 2 * count * math.prod(shape)


def test_the_least_recently_used_sets_make_room_unless_they_are_open(cache):
    for number, name in enumerate("abc"):
        with cache.open(name, SHAPE, "") as stored:
            stored.add(keys(1000), np.zeros((1000, *SHAPE)))
        os.utime(cache.folder / f"{name}.sqlite", (number, number))
    sizes = {entry.fingerprint: entry.size for entry in cache.sets()}
    tight = FeatureCache(cache.folder, most_bytes=sum(sizes.values()) + 10)
    assert tight.room(10) == 10
    assert [entry.fingerprint for entry in tight.sets()] == ["c", "b", "a"]
    with tight.open("a", SHAPE, ""):  # used again, and in use
        assert tight.room(20) == 10 + sizes["b"]
        assert {entry.fingerprint for entry in tight.sets()} == {"a", "c"}
        assert tight.room(10**9, keep=["c"]) == 10 + sizes["b"]
        assert tight.room(10**9) == 10 + sizes["b"] + sizes["c"]
        assert tight.clear() == (0, 1)
    assert tight.clear() == (sizes["a"], 0)
    assert list(cache.folder.iterdir()) == []


def test_an_empty_cache_has_room_before_its_folder_is_there(cache):
    assert cache.sets() == [] and cache.clear() == (0, 0)
    assert cache.room(1000) >= 1000
    assert not cache.folder.exists()


def test_a_damaged_set_is_begun_anew(cache):
    with cache.open("a", SHAPE, "a trunk") as stored:
        stored.add(keys(3), outputs(3))
    path = cache.folder / "a.sqlite"
    path.write_bytes(b"no database at all" * 1000)
    assert [(e.description, e.outputs) for e in cache.sets()] == [("cannot be read", -1)]
    with cache.open("a", SHAPE, "a trunk") as stored:
        assert stored.rows(keys(1)).tolist() == [-1]


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be kept in .*file.*another folder"):
        FeatureCache(tmp_path / "file" / "features").open("a", SHAPE, "")


def test_a_full_disk_is_an_os_error_and_what_was_stored_stays(cache):
    with cache.open("a", SHAPE, "") as stored:
        stored.add(keys(3), outputs(3))
        pages = stored._database.execute("PRAGMA page_count").fetchone()[0]
        stored._database.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own full disk
        with pytest.raises(OSError, match="cannot be stored .*full"):
            stored.add(keys(5000, start=3), np.zeros((5000, *SHAPE)))
        assert (stored.rows(keys(10)) >= 0).tolist() == [True] * 3 + [False] * 7


WRITER = textwrap.dedent(
    """
    import sys
    import numpy as np
    from alexnet_keras.transfer.feature_cache import FeatureCache

    first = int(sys.argv[2])
    with FeatureCache(sys.argv[1]).open("a", (3, 2), "") as stored:
        print("open", flush=True)
        for number in range(first, first + int(sys.argv[3])):
            key = number.to_bytes(16, "little")
            stored.add([key], np.full((1, 3, 2), number % 1000))
    """
)


def writer(cache, first, count):
    command = [sys.executable, "-c", WRITER, str(cache.folder), str(first), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def check(stored, count):
    rows = stored.rows(keys(count))
    found = np.flatnonzero(rows >= 0)
    values = stored.read(rows[found])
    np.testing.assert_array_equal(
        values, np.broadcast_to(found[:, None, None] % 1000, values.shape)
    )
    return len(found)


def test_two_processes_share_a_set(cache):
    both = [writer(cache, 0, 600), writer(cache, 300, 600)]  # half of their keys are the same
    assert [process.wait(120) for process in both] == [0, 0]
    with cache.open("a", SHAPE, "") as stored:
        assert check(stored, 2000) == 900


def test_several_begin_a_set_at_the_same_moment(tmp_path):
    def begin(folder, together):
        together.wait()
        for _ in range(3):  # who closes a set last meets who opens it
            FeatureCache(folder).open("a", SHAPE, "").close()

    with ThreadPoolExecutor(4) as pool:
        for turn in range(100):
            together = Barrier(4)
            begun = [pool.submit(begin, tmp_path / str(turn), together) for _ in range(4)]
            for outcome in begun:
                outcome.result(120)


def test_a_killed_writer_leaves_whole_outputs_and_no_lock(cache):
    process = writer(cache, 0, 10**6)
    process.stdout.readline()
    while not cache.sets() or cache.sets()[0].outputs < 20:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    with cache.open("a", SHAPE, "") as stored:
        count = check(stored, 10**5)
        assert count >= 20
        stored.add(keys(1, start=10**6), outputs(1))
    with sqlite3.connect(cache.folder / "a.sqlite") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    assert cache.clear()[1] == 0


class TestMemory:
    def test_what_was_read_is_not_read_again(self, tmp_path, monkeypatch):
        cache = FeatureCache(tmp_path, memory_bytes=10**6)
        with cache.open("a", SHAPE, "a trunk") as stored:
            stored.add(keys(4), outputs(4))
            rows = stored.rows(keys(4))
            np.testing.assert_array_equal(stored.read(rows), outputs(4))
        with cache.open("a", SHAPE, "a trunk") as stored:
            stored._database.execute("DELETE FROM outputs")  # behind its back
            np.testing.assert_array_equal(stored.read(rows[::-1]), outputs(4)[::-1])

    def test_a_set_in_the_place_of_another_is_read_anew(self, tmp_path):
        cache = FeatureCache(tmp_path, memory_bytes=10**6)
        with cache.open("a", SHAPE, "a trunk") as stored:
            stored.add(keys(2), outputs(2))
            rows = stored.rows(keys(2))
            stored.read(rows)
        cache.clear()
        with cache.open("a", SHAPE, "a trunk") as stored:
            stored.add(keys(2), outputs(2, start=100))
            assert stored.rows(keys(2)).tolist() == rows.tolist()
            np.testing.assert_array_equal(stored.read(rows), outputs(2, start=100))

    def test_it_holds_no_more_than_it_may(self, tmp_path):
        cache = FeatureCache(tmp_path, memory_bytes=5 * outputs(1).nbytes)
        with cache.open("a", SHAPE, "a trunk") as stored:
            stored.add(keys(20), outputs(20))
            rows = stored.rows(keys(20))
            for _ in range(3):
                np.testing.assert_array_equal(stored.read(rows), outputs(20))
                assert cache._memory._bytes <= 5 * outputs(1).nbytes
        small = FeatureCache(tmp_path, memory_bytes=3)
        with small.open("a", SHAPE, "a trunk") as stored:
            np.testing.assert_array_equal(stored.read(rows), outputs(20))
            assert small._memory._bytes == 0
