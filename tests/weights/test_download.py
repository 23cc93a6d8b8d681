from __future__ import annotations

import contextlib
import hashlib
import http.server
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from alexnet_keras import UserError
from alexnet_keras.weights import download
from alexnet_keras.weights.download import cached, fetch
from alexnet_keras.weights.published import PUBLISHED

CONTENT = np.random.default_rng(0).bytes(300_000)
OTHER = np.random.default_rng(1).bytes(300_000)


class Host(http.server.ThreadingHTTPServer):
    """A host of one file, which does what a test asks of it and remembers what it was asked."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.content = CONTENT
        self.tag = '"one"'  # None: sends no ETag
        self.modified = "Tue, 24 Nov 2020 12:00:00 GMT"
        self.ranges = True  # whether it heeds the header Range
        self.says_length = True
        self.shift = 0  # how many bytes a part of the file begins too late
        self.status = None  # an error to answer everything with
        self.cut_after = []  # bytes of the body after which the first, second, ... answer ends
        self.hold_after = None  # bytes of the body after which it waits for `go_on`
        self.go_on = threading.Event()
        self.holds = threading.Event()
        self.asked = []  # the headers Range of the requests
        self.began = []  # the positions at which the bodies of the answers began

    def handle_error(self, request, client_address):
        """A reader that leaves early is a part of the tests."""


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802
        host = self.server
        host.asked.append(self.headers["Range"])
        if host.status:
            return self.send_error(host.status)
        start = 0
        known = self.headers["If-Range"] or "W/"
        the_same = known in (host.tag, host.modified) and not known.startswith("W/")  # RFC 9110
        if host.ranges and self.headers["Range"] and the_same:
            start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1])
            if start >= len(host.content):
                return self.send_error(416)
        start += host.shift
        host.began.append(start)
        self.send_response(206 if start else 200)
        if start:
            size = len(host.content)
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if host.says_length:
            self.send_header("Content-Length", str(len(host.content) - start))
        if host.tag:
            self.send_header("ETag", host.tag)
        if host.modified:
            self.send_header("Last-Modified", host.modified)
        self.end_headers()
        body = host.content[start:]
        if host.cut_after:
            body = body[: host.cut_after.pop(0)]
        if host.hold_after is not None:
            self.wfile.write(body[: host.hold_after])
            self.wfile.flush()
            host.holds.set()
            assert host.go_on.wait(60)
            body = body[host.hold_after :]
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def host(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    host = Host()
    thread = threading.Thread(target=host.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield host
    host.go_on.set()
    host.shutdown()
    thread.join()
    host.server_close()


@pytest.fixture
def row(host):
    return replace(
        PUBLISHED["onnx-alexnet"],
        file_name="weights.bin",
        address=f"http://127.0.0.1:{host.server_port}/weights.bin",
        size=len(CONTENT),
        digest=f"sha256:{hashlib.sha256(CONTENT).hexdigest()}",
    )


@pytest.fixture
def get(row, tmp_path):
    """Fetches the row, or one that differs in some fields, into `tmp_path`."""

    def get(**fields):
        return fetch(replace(row, **fields), cache_dir=tmp_path, verbose=False)

    return get


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


def break_off(host, get, received=100_000):
    """Leaves a folder in which a download has stopped after `received` bytes."""
    host.cut_after, ranges, host.ranges = [received, received], host.ranges, False
    with pytest.raises(UserError, match=f"connection ended after {received:,} of 300,000 bytes"):
        get()
    host.asked.clear()
    host.began.clear()
    host.ranges = ranges


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_a_file_is_downloaded_whole_and_then_taken_from_the_cache(algorithm, host, get, tmp_path):
    digest = f"{algorithm}:{hashlib.new(algorithm, CONTENT).hexdigest()}"
    path = get(digest=digest)
    assert path == tmp_path / "weights.bin"
    assert path.read_bytes() == CONTENT
    assert get(digest=digest) == path
    assert len(host.asked) == 1
    assert left_in(tmp_path) == ["weights.bin"]


def test_the_cache_is_asked_without_the_network(get, row, tmp_path):
    assert cached(row, cache_dir=tmp_path) is None
    path = get()
    unreachable = replace(row, address="http://127.0.0.1:9/weights.bin")
    assert cached(unreachable, cache_dir=tmp_path) == path
    assert fetch(unreachable, cache_dir=tmp_path) == path
    path.write_bytes(OTHER)
    assert cached(row, cache_dir=tmp_path) is None
    assert path.read_bytes() == OTHER  # asking removes nothing


def test_a_broken_connection_is_taken_up_where_it_broke(host, get):
    host.cut_after = [100_000, 50_000]
    assert get().read_bytes() == CONTENT
    assert host.asked == [None, "bytes=100000-", "bytes=150000-"]


def test_a_connection_that_always_breaks_is_given_up_and_resumed_by_the_next_call(host, get):
    host.cut_after = [10_000] * download.ATTEMPTS
    with pytest.raises(UserError, match="connection ended after 50,000 of 300,000 bytes"):
        get()
    assert get().read_bytes() == CONTENT
    assert host.asked[-1] == "bytes=50000-"


@pytest.mark.parametrize(
    ("tag", "modified"),
    [('"one"', None), (None, "Tue, 24 Nov 2020 12:00:00 GMT"), ('W/"one"', "Tue, 24 Nov 2020")],
    ids=["by its tag", "by its date", "by its date, as the tag is a weak one"],
)
def test_a_download_of_an_earlier_call_is_resumed_if_the_file_is_known_to_be_the_same(
    tag, modified, host, get, tmp_path
):
    host.tag, host.modified = tag, modified
    break_off(host, get)
    assert left_in(tmp_path) == ["weights.bin.part", "weights.bin.part.from"]
    assert get().read_bytes() == CONTENT
    assert host.began == [100_000]
    assert left_in(tmp_path) == ["weights.bin"]


def test_a_file_that_its_host_cannot_name_starts_anew(host, get):
    host.tag = host.modified = None
    break_off(host, get)
    assert get().read_bytes() == CONTENT
    assert host.began == [0]


def test_a_file_that_has_changed_since_starts_anew(host, get):
    host.content = OTHER
    break_off(host, get)
    host.content, host.tag, host.modified = CONTENT, '"two"', "Wed, 25 Nov 2020 12:00:00 GMT"
    assert get().read_bytes() == CONTENT
    assert (host.asked, host.began) == (["bytes=100000-"], [0])


def test_a_part_from_another_address_starts_anew(host, get, row):
    host.content = OTHER
    break_off(host, get)
    host.content = CONTENT
    assert get(address=f"{row.address}?again").read_bytes() == CONTENT
    assert host.asked == [None]


def test_a_torn_part_under_the_same_tag_costs_a_second_download_and_no_more(host, get, tmp_path):
    break_off(host, get)
    part = tmp_path / "weights.bin.part"
    part.write_bytes(bytes(100_000))
    assert get().read_bytes() == CONTENT
    assert host.asked == ["bytes=100000-", None]


def test_a_server_that_ignores_ranges_sends_all_again(host, get):
    break_off(host, get)
    host.ranges = False
    assert get().read_bytes() == CONTENT
    assert (host.asked, host.began) == (["bytes=100000-"], [0])


def test_a_server_that_sends_the_wrong_part_is_not_believed(host, get):
    break_off(host, get)
    host.shift = 1000
    with pytest.raises(UserError, match="sends another part of the file"):
        get()
    host.shift = 0
    assert get().read_bytes() == CONTENT
    assert host.asked == ["bytes=100000-", None]


def test_a_page_in_place_of_the_file_costs_nothing_of_what_is_there(host, get):
    break_off(host, get)
    host.content, host.ranges = b"<html>Please log in to this network</html>", False
    with pytest.raises(UserError, match="42 bytes long instead of 300,000"):
        get()
    host.content, host.ranges = CONTENT, True
    assert get().read_bytes() == CONTENT
    assert host.began == [0, 100_000]


def test_a_whole_part_that_was_never_checked_needs_no_request(host, get, tmp_path):
    break_off(host, get)
    (tmp_path / "weights.bin.part").write_bytes(CONTENT)
    assert get().read_bytes() == CONTENT
    assert host.asked == []


def test_a_part_behind_which_the_server_has_nothing_starts_anew(host, get, tmp_path):
    break_off(host, get)
    host.content = CONTENT[:100_000]
    with pytest.raises(UserError, match="100,000 bytes long instead of 300,000"):
        get()
    assert host.asked == ["bytes=100000-", None]
    assert left_in(tmp_path) == []
    host.content = CONTENT
    assert get().read_bytes() == CONTENT


@pytest.mark.parametrize("says_length", [True, False])
@pytest.mark.parametrize("size", [299_999, 300_001])
def test_a_body_of_another_length_is_refused(size, says_length, host, get, tmp_path):
    host.content, host.says_length = (CONTENT + b"!")[:size], says_length
    words = {
        (299_999, False): r"cannot be downloaded .*ended after 299,999 of 300,000 bytes",
        (300_001, False): "is not the published weights.bin: it is longer than 300,000 bytes",
    }.get((size, says_length), f"is not the published .* {size:,} bytes long instead of 300,000")
    with pytest.raises(UserError, match=words):
        get()
    assert not (tmp_path / "weights.bin").exists()
    host.content = CONTENT
    assert get().read_bytes() == CONTENT


@contextlib.contextmanager
def files_of_at_most(size):
    """As on a full disk, longer files cannot be written in here."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_never_more_is_written_than_the_published_file_has(host, get):
    host.content, host.says_length = CONTENT * 20, False
    with files_of_at_most(len(CONTENT)), pytest.raises(UserError, match="is longer than"):
        get()


def test_a_full_disk_is_one_sentence_and_what_was_received_is_kept(host, get, tmp_path):
    with files_of_at_most(200_000), pytest.raises(UserError, match="disk is full: .*300,000") as e:
        get()
    assert str(tmp_path) in str(e.value) and "KERAS_HOME" in str(e.value)
    host.asked.clear()
    assert get().read_bytes() == CONTENT
    assert host.asked == ["bytes=200000-"]


@pytest.mark.parametrize("resumed", [False, True])
def test_a_file_of_another_hash_is_thrown_away(resumed, host, get, tmp_path):
    host.content = OTHER
    if resumed:
        break_off(host, get)
    found = hashlib.sha256(OTHER).hexdigest()
    with pytest.raises(UserError, match=f"not the published weights.bin: .* sha256:{found}"):
        get()
    assert left_in(tmp_path) == []


def test_another_file_of_that_name_is_kept_beside_the_published_one(host, get, tmp_path):
    (tmp_path / "weights.bin").write_bytes(OTHER)
    assert get().read_bytes() == CONTENT
    assert (tmp_path / "weights.bin.other").read_bytes() == OTHER
    (tmp_path / "weights.bin").write_bytes(CONTENT[:-1])
    assert get().read_bytes() == CONTENT
    assert len(host.asked) == 2


def test_another_file_of_that_name_stays_where_it_is_if_the_host_is_gone(
    host, row, tmp_path, capsys
):
    host.status = 503
    (tmp_path / "weights.bin").write_bytes(OTHER)
    with pytest.raises(UserError, match="503"):
        fetch(row, cache_dir=tmp_path)
    assert "is not the published file" in capsys.readouterr().err
    assert left_in(tmp_path) == ["weights.bin"]
    assert (tmp_path / "weights.bin").read_bytes() == OTHER


def test_a_users_own_file_behind_a_link_in_the_cache_stays(get, tmp_path):
    mine = tmp_path / "mine.bin"
    mine.write_bytes(OTHER)
    (tmp_path / "weights.bin").symlink_to(mine)
    assert get().read_bytes() == CONTENT
    assert mine.read_bytes() == OTHER


def test_a_missing_file_is_one_sentence_with_what_can_be_done(host, get, row, tmp_path):
    host.status = 404
    with pytest.raises(UserError) as caught:
        get()
    for word in (row.file_name, row.address, "404 Not Found", str(tmp_path / row.file_name)):
        assert word in str(caught.value)
    assert "give its path as weights" in str(caught.value)
    assert left_in(tmp_path) == []


def test_a_machine_without_a_network_is_told_within_seconds(get, row, monkeypatch):
    def no_names(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_names)
    with pytest.raises(UserError, match=r"\(Name or service not known\); check the network"):
        get()


def test_a_host_that_refuses_is_named_with_its_reason(get):
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(UserError, match="Connection refused"):
            get(address=f"http://127.0.0.1:{taken.getsockname()[1]}/weights.bin")


def test_silence_is_waited_for_only_so_long(host, get, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.3)  # of silence without end
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, pytest.raises(UserError, match="timed out|no answer within"):
        get(address=f"http://127.0.0.1:{silent.getsockname()[1]}/weights.bin")
    host.hold_after = 1000
    with pytest.raises(UserError, match="timed out"):
        get()


def test_looking_up_a_name_is_waited_for_only_so_long(get, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: released.wait())
    with pytest.raises(UserError, match="no answer within"):
        get()
    released.set()


def test_a_cache_that_cannot_be_written_to_is_one_sentence(row, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"weights.bin cannot be kept in .*file/models \(Not a dir"):
        fetch(row, cache_dir=tmp_path / "file" / "models", verbose=False)


def test_weights_without_an_address_take_a_path_only(tmp_path):
    row = PUBLISHED["guerzhoy"]
    with pytest.raises(UserError, match=r"bvlc_alexnet.npy cannot be downloaded.* give its path"):
        fetch(row, cache_dir=tmp_path)
    assert cached(row, cache_dir=tmp_path) is None


def test_a_file_of_this_machine_can_stand_in_for_a_host(get, tmp_path):
    mirror = tmp_path / "mirror" / "weights.bin"
    mirror.parent.mkdir()
    mirror.write_bytes(CONTENT)
    assert get(address=mirror.as_uri()).read_bytes() == CONTENT
    with pytest.raises(ValueError, match="ftp://"):
        get(address="ftp://127.0.0.1/weights.bin", file_name="other.bin")


def test_the_bar_shows_name_and_bytes_on_the_standard_error(row, tmp_path, capsys):
    fetch(row, cache_dir=tmp_path, verbose=True)
    shown = capsys.readouterr()
    assert f"Downloading weights.bin from {row.address}" in shown.err
    assert "300.0/300.0 kB" in shown.err
    assert shown.out == ""
    fetch(row, cache_dir=tmp_path, verbose=True)
    assert capsys.readouterr().err == ""


def test_the_folder_is_the_one_in_which_keras_keeps_models(row, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    assert fetch(row, verbose=False) == tmp_path / "home" / "models" / "weights.bin"
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cached(row) is None
    assert fetch(row, verbose=False) == tmp_path / ".keras" / "models" / "weights.bin"


# A process of its own that fetches the row; it prints the path.
CHILD = """
import sys
from alexnet_keras.weights.download import fetch
from alexnet_keras.weights.published import Published
row = Published("caffe", "weights.bin", "", {address!r}, {size}, {digest!r}, "", "caffe", 227, 1.0,
                1.0, "")
print(fetch(row, cache_dir={folder!r}))
"""


@pytest.fixture
def child(row, tmp_path):
    """Starts a process that fetches the row into `tmp_path`."""
    started = []

    def start():
        code = CHILD.format(
            address=row.address, size=row.size, digest=row.digest, folder=str(tmp_path)
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_two_processes_at_once_download_a_file_once(host, row, child, tmp_path):
    host.hold_after = 100_000
    other = child()
    assert host.holds.wait(60)
    ours = []
    thread = threading.Thread(target=lambda: ours.append(fetch(row, cache_dir=tmp_path)))
    thread.start()
    thread.join(0.3)
    assert thread.is_alive() and not ours  # it waits for the other one
    host.go_on.set()
    thread.join(60)
    assert ours == [tmp_path / "weights.bin"]
    assert ours[0].read_bytes() == CONTENT
    printed, errors = other.communicate(timeout=60)
    assert (printed.strip(), other.returncode) == (str(ours[0]), 0), errors
    assert host.asked == [None]
    assert left_in(tmp_path) == ["weights.bin"]


def test_whoever_waits_goes_on_when_the_download_waited_for_is_thrown_away(host, row, tmp_path):
    host.hold_after, host.content = 100_000, OTHER
    outcomes = {}  # by name: whoever waited may be done before the other one has told of its end

    def get(who):
        try:
            outcomes[who] = fetch(row, cache_dir=tmp_path, verbose=False)
        except UserError:
            outcomes[who] = "refused"

    first, second = (threading.Thread(target=get, args=(who,)) for who in ("first", "second"))
    first.start()
    assert host.holds.wait(60)
    second.start()
    second.join(0.3)
    host.content = CONTENT  # what the second request will get
    host.go_on.set()
    first.join(60)
    second.join(60)
    assert outcomes == {"first": "refused", "second": tmp_path / "weights.bin"}
    assert outcomes["second"].read_bytes() == CONTENT
    assert left_in(tmp_path) == ["weights.bin"]


def test_many_at_once_agree(host, row, tmp_path):
    host.cut_after = [60_000, 60_000]
    paths = []
    threads = [
        threading.Thread(target=lambda: paths.append(fetch(row, cache_dir=tmp_path, verbose=False)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert paths == [tmp_path / "weights.bin"] * 8
    assert paths[0].read_bytes() == CONTENT
    assert len(host.asked) == 3
    assert left_in(tmp_path) == ["weights.bin"]


def test_a_killed_download_leaves_no_file_and_is_resumed(host, get, child, tmp_path):
    host.hold_after = 100_000
    killed = child()
    assert host.holds.wait(60)
    part = tmp_path / "weights.bin.part"
    while part.stat().st_size < 100_000:
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait(60)
    host.hold_after = None
    host.go_on.set()
    assert not (tmp_path / "weights.bin").exists()
    assert get().read_bytes() == CONTENT
    assert host.asked == [None, "bytes=100000-"]
