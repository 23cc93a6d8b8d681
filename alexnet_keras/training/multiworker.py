"""Several machines: TensorFlow's MultiWorkerMirroredStrategy, and what has to be right around it.

Each machine runs the same command. What the machines are comes from the environment that a launcher
sets: `TF_CONFIG` (Kubeflow's TFJob, Ray Train) or the variables of a SLURM job step. The first
worker is the chief, the only one that writes files; all others need no file but the photographs.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
import tensorflow as tf

from alexnet_keras.errors import UserError
from alexnet_keras.training.checkpoints import Checkpoint

#: exit code of a process whose fellow workers are lost or never came: to start all again may help.
#: Kubeflow's `restartPolicy: ExitCode` does so; it reserves 138 for what users call retryable.
WORKER_MISSING = 138
#: minor versions for which the tests with several processes were run
TESTED = {"tensorflow": "2.21", "keras": "3.15"}
#: seconds after which a process whose fellows are lost ends, even if what it has open does not
LAST_SECONDS = 30.0
#: bytes that go round at once
CHUNK = 16 << 20
#: what errors say that come from other machines
_FROM_OTHERS = re.compile(r"Collective ops|CoordinationService|remote target /job:|unhealthy")
#: a task in such an error, but not where it names the device of the operation that failed
_TASK = re.compile(r"/job:(\w+)/replica:0/task:(\d+)(?![\d/])")


class WorkerLost(UserError):
    """Another worker was killed, crashed or cannot be reached; nothing can be done without it."""

    exit_code = WORKER_MISSING


@dataclass(frozen=True)
class Cluster:
    """The workers of a run, and which of them this process is.

    Attributes:
        jobs: `host:port` of each task, by job: `worker`, and `chief` where there is one.
        job, index: this process's task.
    """

    jobs: Mapping[str, tuple[str, ...]]
    job: str
    index: int

    @property
    def addresses(self) -> tuple[str, ...]:
        """`host:port` of all workers, the chief first."""
        return (*self.jobs.get("chief", ()), *self.jobs.get("worker", ()))

    @property
    def rank(self) -> int:
        """The number of this process among all, 0 for the chief."""
        return self.number(self.job, self.index)

    def number(self, job: str, index: int) -> int:
        """The number of a task among all workers."""
        return index + (len(self.jobs.get("chief", ())) if job == "worker" else 0)

    @classmethod
    def of(cls, strategy: tf.distribute.MultiWorkerMirroredStrategy) -> Cluster:
        """The cluster that a strategy was made for."""
        resolver = strategy.cluster_resolver
        jobs = {job: tuple(at) for job, at in resolver.cluster_spec().as_dict().items()}
        return cls(jobs, resolver.task_type, resolver.task_id)


def worker_strategy(
    batch_size: int, *, wait_seconds: float = 300.0, say: Callable[[str], None] = print
) -> tf.distribute.MultiWorkerMirroredStrategy:
    """The strategy in which this process is one of several workers; returns when all are there.

    To be called before anything else asks TensorFlow to compute or to list logical devices: that
    sets it up for one machine, and `RuntimeError` is raised here. Workers talk by NCCL between
    GPUs and by gRPC between CPUs. All need equally many GPUs.

    If the others do not come, the process is ended from here, with a sentence on standard error and
    exit code `WORKER_MISSING`. (SIGTERM is of no use meanwhile; Ctrl-C is.)

    Args:
        batch_size: examples a step, over all devices of all workers.
        wait_seconds: how long to wait for the others.
        say: takes a sentence on what is waited for.

    Raises:
        UserError: the environment names no workers or is malformed, the batch cannot be shared out
            evenly, or this version of TensorFlow, Keras or the system is untested.
    """
    _check_versions()
    cluster = cluster_of(os.environ)
    count, gpus = len(cluster.addresses), len(tf.config.list_physical_devices("GPU"))
    replicas = count * max(gpus, 1)
    if batch_size % replicas:
        raise UserError(
            f"A batch of {batch_size} cannot be shared out evenly among {count} workers with "
            f"{max(gpus, 1)} devices each; give a --batch-size that {replicas} divides."
        )
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({job: list(at) for job, at in cluster.jobs.items()}),
        task_type=cluster.job,
        task_id=cluster.index,
        num_accelerators={"GPU": gpus} if gpus else {},
        rpc_layer="grpc",
    )
    name = f"worker {cluster.rank} of {', '.join(cluster.addresses)}"
    if count > 1:
        say(f"This is {name}; it waits for the others, at most {wait_seconds:.0f} s.")
    failure = (
        f"Error: {name[0].upper()}{name[1:]} has waited {wait_seconds:.0f} s for the others; see "
        "that all were started, with the same list, and can reach each other at these ports, and "
        "start all of them again, with a longer --worker-timeout if need be."
    )
    with _ended_after(wait_seconds, failure), _plain_interrupts():
        return tf.distribute.MultiWorkerMirroredStrategy(
            resolver, tf.distribute.experimental.CommunicationOptions()
        )


def cluster_of(environment: Mapping[str, str]) -> Cluster:
    """The workers that `TF_CONFIG`, or else the variables of a SLURM job step, name.

    Raises:
        UserError: there is neither, or it is not what it should be.
    """
    if environment.get("TF_CONFIG"):
        return _cluster_of_tf_config(environment["TF_CONFIG"])
    if "SLURM_STEP_NODELIST" in environment:
        return _cluster_of_slurm(environment)
    hint = " (this is a SLURM job, but no step of it)" if "SLURM_JOB_ID" in environment else ""
    raise UserError(
        f"--strategy multiworker finds no workers in the environment{hint}; start it with srun, "
        "in a Kubeflow TFJob or with Ray Train's TensorflowTrainer, or set TF_CONFIG on each "
        'machine to {"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", '
        '"index": 0}}, with the index of the machine.'
    )


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes and speaks for all: true where it is the only one."""
    several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    return not several or Cluster.of(strategy).rank == 0


def from_chief(strategy: tf.distribute.Strategy, found: Checkpoint | None) -> Checkpoint | None:
    """What the chief has found, on all workers, bit for bit; all have to call this.

    It goes over the network, so that the folder of checkpoints need not be shared.

    Args:
        found: what this worker has found; only the chief's counts.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return found
    chief, add = is_chief(strategy), _adder(strategy)

    def spread(data: np.ndarray) -> None:
        """Writes the chief's bytes, uint8, over those of the same number given by the others."""
        for start in range(0, data.size, CHUNK):
            piece = data[start : start + CHUNK]
            words = np.zeros(-(-piece.size // 4), np.int32)
            if chief:
                words.view(np.uint8)[: piece.size] = piece
            # A sum with zeros, as whole numbers: exact whatever the bytes stand for.
            received = add(words)
            if not chief:
                piece[:] = received.view(np.uint8)[: piece.size]

    head = b""
    if chief and found is not None:
        shapes = {name: (str(a.dtype), a.shape) for name, a in found.arrays.items()}
        head = json.dumps([found.step, found.state, shapes]).encode()
    (length,) = add(np.array([len(head)], np.int32))
    if not length:
        return None
    content = np.frombuffer(head.ljust(length, b"\0"), np.uint8).copy()
    spread(content)
    if chief:
        for array in found.arrays.values():
            spread(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        return found
    step, state, shapes = json.loads(content.tobytes())
    arrays = {name: np.empty(shape, dtype) for name, (dtype, shape) in shapes.items()}
    for array in arrays.values():
        spread(array.reshape(-1).view(np.uint8))
    return Checkpoint(step, arrays, state)


def check_same(strategy: tf.distribute.Strategy, identity: Mapping[str, Any]) -> None:
    """Whether all workers were given the same; all have to call this.

    Args:
        identity: what must be equal everywhere, as JSON has it: options, fingerprints of data.

    Raises:
        UserError: a worker was given something else than the chief; the same on all workers.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return
    cluster, add = Cluster.of(strategy), _adder(strategy)

    def differing(texts: list[str]) -> dict[int, list[int]]:
        """By worker, the places of the texts that are not the chief's."""
        digests = [hashlib.sha256(text.encode()).digest() for text in texts]
        table = np.zeros((len(cluster.addresses), len(texts), 8), np.int32)
        table[cluster.rank] = np.frombuffer(b"".join(digests), np.int32).reshape(-1, 8)
        table = add(table.reshape(-1)).reshape(table.shape)
        unequal = (table != table[0]).any(axis=2)
        return {rank: [*np.flatnonzero(row)] for rank, row in enumerate(unequal) if row.any()}

    names = list(identity)
    if found := differing([json.dumps(names)]):
        what = "options of other names, as another version of alexnet-keras has them"
    elif found := differing([json.dumps(identity[name]) for name in names]):
        what = "other " + " and ".join(names[i] for i in found[min(found)])
    else:
        return
    rank = min(found)
    raise UserError(
        f"Worker {rank} ({cluster.addresses[rank]}) has {what} than worker 0; give the same "
        "photographs and options to all workers."
    )


@contextlib.contextmanager
def lost_workers(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Turns what TensorFlow raises when another worker is gone into one sentence.

    TensorFlow sees within a second that a process has died, and within about ten that a machine
    answers no more; the next step fails then. After such an error this process can only end, and
    it does so within `LAST_SECONDS`, with `WORKER_MISSING`, if it does not earlier.

    Raises:
        WorkerLost: another worker is gone.
    """
    try:
        yield
    except tf.errors.OpError as error:
        several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        if not several or not _FROM_OTHERS.search(error.message):
            raise
        # Other workers should hear of the first that was lost before they miss this one too.
        time.sleep(1)
        _Timer(LAST_SECONDS, "_exit", WORKER_MISSING)
        raise WorkerLost(_who_is_lost(Cluster.of(strategy), error.message)) from error


def _who_is_lost(cluster: Cluster, message: str) -> str:
    """A sentence about an error that came from other machines."""
    numbers = (cluster.number(job, int(index)) for job, index in _TASK.findall(message))
    # The first one named: errors that were passed on name those that did so after it.
    lost = next((number for number in numbers if number != cluster.rank), None)
    who = "Another worker" if lost is None else f"Worker {lost} ({cluster.addresses[lost]})"
    return (
        f"{who} is lost: it was stopped, has crashed or cannot be reached, and without it worker "
        f"{cluster.rank} ends too; see what it said last, and start all workers again, which go on "
        "from the last checkpoint."
    )


def _check_versions() -> None:
    for package, tested in TESTED.items():
        version = metadata.version(package)
        if version.split(".")[:2] != tested.split("."):
            raise UserError(
                f"--strategy multiworker is tested with TensorFlow {TESTED['tensorflow']} and "
                f"Keras {TESTED['keras']} only, and {package} {version} is installed; install "
                f"{package} {tested}, or train on one machine."
            )
    if sys.platform != "linux":
        raise UserError(
            f"--strategy multiworker is tested on Linux only, and this is {sys.platform}; train on "
            "one machine."
        )


def _cluster_of_tf_config(text: str) -> Cluster:
    def wrong(what: str) -> UserError:
        return UserError(
            f"TF_CONFIG {what}; it has to be like "
            '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": 0}}; '
            f"received {text[:300]}"
        )

    try:
        config = json.loads(text)
    except ValueError as error:
        raise wrong(f"is no JSON ({error})") from error
    jobs, task = (config.get(key) if isinstance(config, dict) else None for key in _PARTS)
    if not isinstance(jobs, dict) or not jobs or not isinstance(task, dict):
        raise wrong("does not name a cluster and a task of it")
    if foreign := sorted({*jobs, str(task.get("type"))} - {"chief", "worker"}):
        raise wrong(
            f"has tasks of the type {', '.join(foreign)}, and here all train alike: only workers "
            "and one chief can take part"
        )
    for job, addresses in jobs.items():
        good = isinstance(addresses, list) and all(
            isinstance(address, str) and re.fullmatch(r"\S+:\d+", address) for address in addresses
        )
        if not good or not addresses:
            raise wrong(f"has no list of HOST:PORT for the type {job}")
    cluster = Cluster(
        {job: tuple(addresses) for job, addresses in jobs.items()},
        task["type"],
        # Launchers write it as a number or as text.
        int(task["index"]) if str(task.get("index")).isdecimal() else -1,
    )
    if not 0 <= cluster.index < len(cluster.jobs.get(cluster.job, ())):
        raise wrong(f"names the task {task['type']} {task.get('index')}, which its cluster lacks")
    if len(cluster.jobs.get("chief", ())) > 1:
        raise wrong("has several chiefs")
    if len(set(cluster.addresses)) < len(cluster.addresses):
        raise wrong("gives two workers the same address")
    return cluster


_PARTS = ("cluster", "task")


def _cluster_of_slurm(environment: Mapping[str, str]) -> Cluster:
    """One worker a task of the job step.

    TensorFlow's own readers of SLURM's lists are used, but not its `SlurmClusterResolver`: that
    sorts n10 before n9, which SLURM's ranks do not, needs GPUs, and sets `CUDA_VISIBLE_DEVICES`,
    which SLURM has done.
    """
    from tensorflow.python.distribute.cluster_resolver.slurm_cluster_resolver import (
        expand_hostlist,
        expand_tasks_per_node,
    )

    try:
        hosts = expand_hostlist(environment["SLURM_STEP_NODELIST"])
        counts = expand_tasks_per_node(environment["SLURM_STEP_TASKS_PER_NODE"])
        rank = int(environment["SLURM_PROCID"])
        job = int(environment["SLURM_JOB_ID"])
        placed = [(host, i) for host, n in zip(hosts, counts, strict=True) for i in range(n)]
        own_host = placed[rank][0]
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(
            f"The variables of the SLURM job step cannot be read ({type(error).__name__}: "
            f"{error}); start the command with srun, or set TF_CONFIG."
        ) from error
    if own_host != environment.get("SLURMD_NODENAME", own_host):
        raise UserError(
            f"SLURM runs task {rank} on {environment['SLURMD_NODENAME']}, where the nodes filled "
            f"one after the other would have it on {own_host}; give srun --distribution=block."
        )
    # Below the ports that Linux gives to outgoing connections; jobs that share a node differ.
    first_port = 12_000 + job % 1000 * 16
    return Cluster({"worker": tuple(f"{h}:{first_port + i}" for h, i in placed)}, "worker", rank)


@functools.cache
def _adder(
    strategy: tf.distribute.MultiWorkerMirroredStrategy,
) -> Callable[[np.ndarray], np.ndarray]:
    """A function that adds up int32 arrays (n,) of all workers, which all have to call it."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)], autograph=False)
    def add(values: tf.Tensor) -> tf.Tensor:
        return strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None)

    return lambda values: add(tf.constant(values)).numpy()


@contextlib.contextmanager
def _ended_after(seconds: float, sentence: str) -> Iterator[None]:
    """Ends the process with `WORKER_MISSING` if what is done here takes longer.

    TensorFlow waits with Python's lock held, so neither threads nor signal handlers in Python run,
    and in a container this is often process 1, which no other process there can kill. Timers of
    the C library need none of these.
    """
    # It is taken as a format, and has to stay where it is.
    text = ctypes.create_string_buffer(sentence.replace("%", "%%").encode())
    timers = [
        _Timer(seconds, "warnx", ctypes.addressof(text)),
        _Timer(seconds + 0.2, "_exit", WORKER_MISSING),
    ]
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


@contextlib.contextmanager
def _plain_interrupts() -> Iterator[None]:
    """Ctrl-C ends the process at once; afterwards signals do what they did before.

    TensorFlow takes SIGTERM over when it meets the other workers, and ignores it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # others cannot change what signals do
        return
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


class _Timer:
    """A C function of one argument that the C library calls in a thread of its own (Linux).

    Args:
        seconds: from now.
        function: its name in the C library.
        value: its argument.
    """

    def __init__(self, seconds: float, function: str, value: int) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)
        self._timer = ctypes.c_void_p()
        address = ctypes.cast(self._library[function], ctypes.c_void_p)
        event = _Event(value=value, notify=_SIGEV_THREAD, function=address)
        whole, part = divmod(seconds, 1)
        due = _Due(value=_Span(int(whole), int(part * 1e9)))
        clock, where = time.CLOCK_MONOTONIC, ctypes.byref(self._timer)
        if self._library.timer_create(clock, ctypes.byref(event), where) or (
            self._library.timer_settime(self._timer, 0, ctypes.byref(due), None)
        ):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def cancel(self) -> None:
        self._library.timer_delete(self._timer)


_SIGEV_THREAD = 2


class _Event(ctypes.Structure):
    """`struct sigevent`, of 64 bytes."""

    _fields_ = [
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("function", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("rest", ctypes.c_char * 32),
    ]


class _Span(ctypes.Structure):
    """`struct timespec`."""

    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


class _Due(ctypes.Structure):
    """`struct itimerspec`."""

    _fields_ = [("interval", _Span), ("value", _Span)]
