"""What the tests of several formats share."""

from __future__ import annotations

import os
import resource
import signal

import pytest

from alexnet_keras import UserError
from alexnet_keras.weights import read_weights

MEGABYTES, SECONDS = 300, 30


@pytest.fixture
def reads_of(monkeypatch):
    """Counts how often an attribute is read of the instances of a class: a list that grows."""

    def counted(kind: type, name: str) -> list[str]:
        reads = []
        get = kind.__getattribute__

        def counting(self, asked):
            if asked == name:
                reads.append(asked)
            return get(self, asked)

        monkeypatch.setattr(kind, "__getattribute__", counting)
        return reads

    return counted


@pytest.fixture
def refusal():
    """The sentence with which a file is refused, by a process of its own with little to spend.

    The process may take 300 MB more addresses than this one has, and 30 seconds; should it want
    more, read the file or end in another way, the test fails.
    """

    def of(path) -> str:
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reads)
            os._exit(_read(path, writes))
        os.close(writes)
        with os.fdopen(reads, "rb") as pipe:
            said = pipe.read().decode()
        _, status = os.waitpid(child, 0)
        assert status == 0, f"{said or 'nothing said'}; wait status {status}"
        assert "\n" not in said and len(said) < 1000
        return said

    return of


def _read(path, pipe) -> int:
    signal.alarm(SECONDS)
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + MEGABYTES * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    code = 1
    try:
        read_weights(path)
        said = "the file was read"
    except UserError as error:
        code, said = 0, str(error)
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    os.write(pipe, said.encode()[:4000])
    return code
