"""A search of several processes on one machine, by keras-tuner's own protocol."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import tensorflow as tf
from keras_tuner.src.engine import conditions

from alexnet_keras.errors import UserError

# keras-tuner 1.4.8 prints a value of each condition that it sends.
conditions.print = lambda *_: None

#: what keras-tuner goes by: this process's name, and where the chief listens
VARIABLES = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")
#: what tells a worker who started it
PARENT = "ALEXNET_KERAS_CHIEF"
#: of mallopt(3): M_MMAP_THRESHOLD, at its largest; M_TRIM_THRESHOLD; M_TOP_PAD
_MALLOC = {-3: 32 * 2**20, -1: 2**31 - 1, -2: 64 * 2**20}
#: seconds that workers have to end in, once the search has, and again once they are told to
PATIENCE = 10.0


def role() -> str:
    """`"alone"`, or in a search of several processes `"chief"` or `"worker"`.

    Raises:
        UserError: only some of keras-tuner's variables are set.
    """
    given = [name for name in VARIABLES if os.environ.get(name)]
    if "KERASTUNER_ORACLE_IP" not in given:
        return "alone"
    if missing := [name for name in VARIABLES if name not in given]:
        raise UserError(
            f"KERASTUNER_ORACLE_IP is set and {missing[0]} is not; set all of "
            f"{', '.join(VARIABLES)}, or none."
        )
    # As keras-tuner has it.
    return "chief" if "chief" in os.environ["KERASTUNER_TUNER_ID"] else "worker"


def share_devices() -> None:
    """Lets several processes of a search use one GPU; to be called before TensorFlow sees any."""
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")


def keep_freed_memory() -> None:
    """Has glibc keep what tensors gave back, for the tensors of the next step.

    It would return large pieces to the kernel and ask for them again, zeroed, page by page: a
    quarter of a head's training time. Where there is no glibc nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        for parameter, value in _MALLOC.items():
            ctypes.CDLL(None).mallopt(parameter, value)


@contextlib.contextmanager
def claimed(path: Path, *, patience: float = 0.0) -> Iterator[bool]:
    """Inside, no other process has this lock, which is free again if this one is gone.

    Args:
        path: of a file that is there for this alone; it is made.
        patience: seconds in which another may give it up.

    Yields:
        Whether it was to be had.
    """
    until = time.monotonic() + patience
    with path.open("ab") as file:
        while not (free := _lock(file)) and time.monotonic() < until:
            time.sleep(0.1)
        yield free


def _lock(file: BinaryIO) -> bool:
    """Whether nobody else had it locked."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def workers(
    count: int, folder: Path, command: Sequence[str] | None = None
) -> Iterator[Callable[[], bool]]:
    """Inside, this process is the chief of `count` workers, which it has started; none for 0.

    Several GPUs are dealt out among them, and shared where there are fewer; so are the cores, for
    what TensorFlow computes with several threads.

    Args:
        folder: for what workers print, `worker1.log` and so on.
        command: that starts one; `None` for this process's own.

    Yields:
        A function that tells whether any of them still runs; of none, that others may.
    """
    if count == 0 or role() != "alone":
        yield lambda: True
        return
    gpus = len(tf.config.list_physical_devices("GPU"))
    command = command or [sys.executable, *sys.argv]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    places = {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": str(port)}
    started: list[subprocess.Popen[bytes]] = []
    before = dict(os.environ)
    try:
        for number in range(1, count + 1):
            with (folder / f"worker{number}.log").open("ab") as log:
                environment = {
                    **before,
                    **places,
                    "KERASTUNER_TUNER_ID": f"worker{number}",
                    PARENT: str(os.getpid()),
                }
                # More threads than cores would wait for each other.
                threads = max((os.cpu_count() or 1) // count, 1)
                environment.setdefault("TF_NUM_INTRAOP_THREADS", str(threads))
                if gpus and "CUDA_VISIBLE_DEVICES" not in before:
                    environment["CUDA_VISIBLE_DEVICES"] = str((number - 1) % gpus)
                started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        os.environ.update(places, KERASTUNER_TUNER_ID="chief")
        yield lambda: any(worker.poll() is None for worker in started)
    except BaseException:
        for worker in started:
            worker.terminate()  # who has ended does not mind
        raise
    finally:
        for name in VARIABLES:
            os.environ.pop(name, None)
        # One that waits for a chief who never came does not see that it is to end.
        for end in (subprocess.Popen.terminate, subprocess.Popen.kill):
            until = time.monotonic() + PATIENCE
            for worker in started:
                try:
                    worker.wait(max(until - time.monotonic(), 0.0))
                except (subprocess.TimeoutExpired, KeyboardInterrupt):
                    end(worker)
        for worker in started:
            worker.wait()
