"""Damaged copies of a file, and what a reader makes of them in processes that may die of it."""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections import Counter
from dataclasses import dataclass, field

#: of one file's reading: seconds, and megabytes of memory on top of what the process has
SECONDS, MEGABYTES = 40, 600


def mutant(content: bytes, seed: int) -> bytes:
    """`content` with one to sixteen faults: bits, numbers, copied or lost pieces, a lost end."""
    rng = random.Random(seed)
    data = bytearray(content)

    def position() -> int:
        # Half of the faults strike where formats keep their structure: near the ends, and near
        # text, of which tensors have little.
        if rng.random() < 0.5:
            return rng.randrange(len(data))
        edge = rng.randrange(min(len(data), 4096))
        return edge if rng.random() < 0.5 else len(data) - 1 - edge

    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        if not data:
            break
        at = position()
        kind = rng.randrange(7)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, ord("("), ord("R"), ord(".")))
        elif kind == 2:
            size = rng.choice((1, 2, 4, 8))
            value = rng.choice((0, 1, len(data), 2 ** (8 * size - 1), 2 ** (8 * size) - 1))
            number = (value % 2 ** (8 * size)).to_bytes(size, rng.choice(("little", "big")))
            data[at : at + size] = number
        elif kind == 3:
            source, size = rng.randrange(len(data)), rng.choice((1, 4, 16, 256))
            data[at : at + size] = data[source : source + size]
        elif kind == 4:
            size = rng.choice((1, 4, 64, 1024))
            data[at:at] = data[at : at + size]
        elif kind == 5:
            del data[at : at + rng.choice((1, 4, 64, 1024))]
        elif rng.random() < 0.3:
            del data[at:]
    return bytes(data)


@dataclass
class Outcomes:
    """How often each thing happened; `faults` are the seeds that must not be there."""

    counts: Counter = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def read_mutants(content, seeds, folder, name, read, refused) -> Outcomes:
    """Reads a mutant for each seed in a forked process of its own.

    Args:
        read: takes the path of a mutant.
        refused: the exception that is the right answer to a damaged file.
    """
    outcomes = Outcomes()
    path = folder / f"{os.getpid()}-{name}"
    for seed in seeds:
        path.write_bytes(mutant(content, seed))
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            os._exit(_read_in_child(path, read, refused))
        _, status, used = os.wait4(child, 0)
        if os.WIFSIGNALED(status):
            outcome = f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
        else:
            outcome = _OUTCOMES.get(os.WEXITSTATUS(status), "ended strangely")
        if outcome not in ("read", "refused"):
            outcomes.faults.append(f"{name} seed {seed}: {outcome}")
        outcomes.counts[outcome] += 1
        if time.monotonic() - began > SECONDS / 2:
            outcomes.counts["slow"] += 1
    path.unlink(missing_ok=True)
    return outcomes


_OUTCOMES = {0: "read", 1: "refused", 2: "another exception", 3: "too much memory"}


def _read_in_child(path, read, refused) -> int:
    signal.alarm(SECONDS)
    pages = int(open("/proc/self/statm").read().split()[0])  # noqa: SIM115
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEGABYTES * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        read(path)
    except refused as error:
        # One sentence or two, in words.
        return 1 if "\n" not in str(error) and len(str(error)) < 1500 else 2
    except MemoryError:
        return 3
    except BaseException:
        import traceback

        traceback.print_exc()
        return 2
    return 0
