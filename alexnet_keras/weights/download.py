"""Published weights fetched into Keras's cache: resumed where a download broke, checked before use.

`keras.utils.get_file` knows no SHA-1, writes to the final name before it has checked anything, and
starts over after every break; pooch starts over too, and would be one more dependency.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import queue
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from alexnet_keras.errors import UserError, is_full_disk
from alexnet_keras.weights.published import Published

#: seconds to wait for a host's answer, and for each further piece of a file
TIMEOUT = 10.0
#: how often in one call a broken connection is taken up again, as long as each brings something
ATTEMPTS = 5
CHUNK = 1 << 20
SCHEMES = ("https", "http", "file")


def fetch(row: Published, *, cache_dir: str | Path | None = None, verbose: bool = True) -> Path:
    """The path of a published file in the cache, downloaded where it is not there yet.

    The file's hash is checked on every call (0.2 s for 244 MB). Only a file that passed gets its
    name: until then it is called `<name>.part`, and a download that was killed, or whose connection
    broke, goes on from there, unless the file at the address has changed since. Two processes that
    want the same file download it once. Another file of that name is kept, as `<name>.other`.

    Args:
        row: a row of `PUBLISHED`.
        cache_dir: the folder to keep files in; `models` in Keras's home (`KERAS_HOME`, or
            `~/.keras`) by default.
        verbose: whether to show a progress bar, on the standard error.

    Raises:
        UserError: the file has no address, its host does not answer or serves something else, or
            the cache cannot be written to. Without a network this takes seconds.
    """
    target = _target(row, cache_dir)
    if row.address is None or row.digest is None:
        raise UserError(
            f"{row.file_name} cannot be downloaded, since no host is known to serve a file that "
            f"can be checked; get it yourself ({row.source}) and give its path as weights."
        )
    if urllib.parse.urlsplit(row.address).scheme not in SCHEMES:
        raise ValueError(f"{row.address} is not one of {', '.join(SCHEMES)}")
    try:
        if (path := cached(row, cache_dir=cache_dir)) is not None:
            return path
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        with _for_us_alone(part, verbose) as file:
            # Another process may have fetched it while this one waited.
            if cached(row, cache_dir=cache_dir) is None:
                if target.exists() and verbose:
                    _say(f"{target} is not the published file, so that is fetched.")
                _Download(row, file, target).run(verbose)
                _origin(target).unlink(missing_ok=True)
                if target.exists():
                    # Only checked files of ours get this name: what was there is somebody's.
                    target.replace(target.with_name(f"{target.name}.other"))
                part.replace(target)
    except OSError as error:
        raise _disk_error(error, row, target.parent) from error
    return target


def cached(row: Published, *, cache_dir: str | Path | None = None) -> Path | None:
    """The path of a published file if the cache holds it, whole and checked; uses no network."""
    path = _target(row, cache_dir)
    if row.digest is None or not path.is_file() or path.stat().st_size != row.size:
        return None
    with path.open("rb") as file:
        return path if _digest(file, row) == row.digest else None


class _Broken(Exception):
    """The network failed; the message says how. What was received stays."""


class _Download:
    """Fills an open file with what an address serves, in as many requests as that takes."""

    def __init__(self, row: Published, file: IO[bytes], target: Path) -> None:
        self.row = row
        self.file = file  # opened to append, so that what is written always goes to the end
        self.target = target

    def run(self, verbose: bool) -> None:
        with _bar(self.row, self._received, verbose) as show:
            resumed = self._received > 0
            self._complete(show)
            found = _digest(self.file, self.row)
            if resumed and found != self.row.digest:
                # What an earlier call left may be torn, or a part of something else: once anew.
                self.file.truncate(0)
                self._complete(show)
                found = _digest(self.file, self.row)
        if found != self.row.digest:
            self.file.truncate(0)
            raise self._other_file(f"its hash is {found} instead of {self.row.digest}")

    def _complete(self, show: Callable[[int], None]) -> None:
        for _ in range(ATTEMPTS):
            before = self._received
            try:
                self._receive(show)
                if self._received == self.row.size:
                    return
                reason = f"the connection ended after {self._received:,} of {self.row.size:,} bytes"
            except _Broken as broken:
                reason = str(broken)
            if self._received <= before:
                break
        raise UserError(
            f"{self.row.file_name} cannot be downloaded from {self.row.address} ({reason}); "
            "check the network and try again, or get the file elsewhere and put it at "
            f"{self.target} or give its path as weights."
        )

    def _receive(self, show: Callable[[int], None]) -> None:
        """One request, for what is still missing if the server can tell that it is the same file.

        Raises:
            _Broken: the host does not answer, or the connection breaks.
            UserError: the host serves another file.
        """
        received = self._received
        if received == self.row.size:
            return  # an earlier call was killed just before it could check
        request = urllib.request.Request(self.row.address, headers={"User-Agent": "alexnet-keras"})
        if received and (validator := self._validator()):
            request.add_header("Range", f"bytes={received}-")
            request.add_header("If-Range", validator)
        try:
            response = _answer(request)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and received:  # there is nothing behind what we have
                self.file.truncate(0)
                return self._receive(show)
            raise _Broken(f"the host answers {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:
            raise _Broken(_reason(error)) from error
        with response:
            received = self._start(response, received)
            for chunk in _chunks(response):
                received += len(chunk)
                if received > self.row.size:
                    self.file.truncate(0)
                    raise self._other_file(f"it is longer than {self.row.size:,} bytes")
                self.file.write(chunk)
                self.file.flush()  # a killed process leaves all that it received
                show(received)

    def _start(self, response: Any, received: int) -> int:
        """Prepares the file for the body of `response`; the position at which that begins."""
        start = 0
        if response.status == 206:
            start = received
            if not (response.headers["Content-Range"] or "").startswith(f"bytes {start}-"):
                self.file.truncate(0)
                raise _Broken("the host sends another part of the file than it was asked for")
        length = response.headers["Content-Length"] or ""
        if length.isdecimal() and start + int(length) != self.row.size:
            if start:
                self.file.truncate(0)
            raise self._other_file(
                f"it is {start + int(length):,} bytes long instead of {self.row.size:,}"
            )
        self.file.truncate(start)
        # A weak ETag does not promise the same bytes (RFC 9110, section 8.8.1).
        etag = response.headers["ETag"] or ""
        validator = response.headers["Last-Modified"] if etag[:2] in ("", "W/") else etag
        _origin(self.target).write_text(f"{self.row.address}\n{validator or ''}\n")
        return start

    def _validator(self) -> str:
        """What the server called the file of which a part is here; empty where it did not say."""
        with suppress(OSError, ValueError):
            address, validator, _ = _origin(self.target).read_text().split("\n")
            return validator if address == self.row.address else ""
        return ""

    @property
    def _received(self) -> int:
        return os.fstat(self.file.fileno()).st_size

    def _other_file(self, how: str) -> UserError:
        return UserError(
            f"What {self.row.address} serves is not the published {self.row.file_name}: {how}. "
            "Nothing of it was kept; try again later, or get the file elsewhere "
            f"({self.row.source}) and put it at {self.target} or give its path as weights."
        )


def _target(row: Published, cache_dir: str | Path | None) -> Path:
    if cache_dir is None:
        # As keras/src/backend/config.py has it, except that a home that cannot be written to is an
        # error here, and no folder in /tmp, where others could put files.
        cache_dir = Path(os.environ.get("KERAS_HOME") or "~/.keras", "models")
    return Path(cache_dir).expanduser() / row.file_name


def _origin(target: Path) -> Path:
    """The small file that says of what a part is a part: its address, and its name there."""
    return target.with_name(f"{target.name}.part.from")


@contextmanager
def _for_us_alone(part: Path, verbose: bool) -> Iterator[IO[bytes]]:
    """Opens the unfinished file, once no other process works on it."""
    import fcntl  # not on Windows, where all the rest can still be imported

    while True:
        with part.open("a+b") as file:
            # A file system without locks has to do: the hash is checked all the same.
            with suppress(OSError):
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if verbose:
                        _say(f"Waiting for another download of {part.stem}.")
                    fcntl.flock(file, fcntl.LOCK_EX)
            # Whoever held the lock may have finished, and renamed the file that is open here.
            if not _is_at(file, part):
                continue
            try:
                yield file
            finally:
                if _is_at(file, part) and os.fstat(file.fileno()).st_size == 0:
                    _origin(part.with_suffix("")).unlink(missing_ok=True)
                    part.unlink()
            return


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _answer(request: urllib.request.Request) -> Any:
    """What `urlopen` returns or raises, within `TIMEOUT`.

    Its own time limit is for each address of a host, of which there may be a dozen, and does not
    hold for looking up the name.
    """
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(urllib.request.urlopen(request, timeout=TIMEOUT))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=TIMEOUT)
    except queue.Empty:
        raise TimeoutError(f"no answer within {TIMEOUT:.0f} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _chunks(response: Any) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read1(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _Broken(_reason(error)) from error
        if not chunk:
            return
        yield chunk


def _digest(file: IO[bytes], row: Published) -> str:
    algorithm = row.digest.partition(":")[0]
    file.seek(0)
    return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


@contextmanager
def _bar(row: Published, received: int, verbose: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar with bytes, rate and time left; gives the function that moves it."""
    if not verbose:
        yield lambda received: None
        return
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    _say(f"Downloading {row.file_name} from {row.address}")
    console = Console(stderr=True)
    with Progress(TextColumn("{task.description}"), *columns, console=console) as progress:
        task = progress.add_task(row.file_name, total=row.size, completed=received)
        yield lambda received: progress.update(task, completed=received)


def _say(sentence: str) -> None:
    Console(stderr=True).print(sentence, soft_wrap=True, markup=False, highlight=False)


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib.error.URLError):
        error = error.reason if isinstance(error.reason, BaseException) else error
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def _disk_error(error: OSError, row: Published, folder: Path) -> UserError:
    if is_full_disk(error):
        return UserError(
            f"The disk is full: {row.file_name} ({row.size:,} bytes) does not fit into {folder}; "
            "make space, or set KERAS_HOME to a folder on another disk. What was received is kept."
        )
    return UserError(
        f"{row.file_name} cannot be kept in {folder} ({error.strerror or error}); set KERAS_HOME "
        "to a folder that can be written to, or give the path of a weights file."
    )
