"""Several processes on this machine that train as several machines would."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("work_together.py")


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: its exit code, negative for a signal.
        said: its standard output and error.
        at: when it was seen to have ended, by `time.monotonic`.
    """

    code: int
    said: str
    at: float


def tf_config(addresses: Sequence[str], rank: int) -> dict[str, str]:
    """Plain workers, as Ray Train sets them."""
    task = {"type": "worker", "index": rank}
    return {"TF_CONFIG": json.dumps({"cluster": {"worker": [*addresses]}, "task": task})}


def kubeflow(addresses: Sequence[str], rank: int) -> dict[str, str]:
    """A chief and workers, as a TFJob with both has them."""
    chief, *workers = addresses
    task = {"type": "worker", "index": rank - 1} if rank else {"type": "chief", "index": 0}
    config = {"cluster": {"chief": [chief], "worker": workers}, "task": task}
    return {"TF_CONFIG": json.dumps({**config, "environment": "cloud"})}


def slurm(addresses: Sequence[str], rank: int) -> dict[str, str]:
    """A job step on one node; the ports follow from the job's number."""
    return {
        "SLURM_JOB_ID": str((int(addresses[0].rpartition(":")[2]) - 12_000) // 16),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_TASKS_PER_NODE": str(len(addresses)),
        "SLURM_PROCID": str(rank),
        "SLURMD_NODENAME": "localhost",
    }


def slurm_addresses(count: int) -> list[str]:
    """Those of a job whose ports are free."""
    for job in range(os.getpid() % 1000, 1000):
        ports = range(12_000 + 16 * job, 12_000 + 16 * job + count)
        with ExitStack() as stack, suppress(OSError):
            for port in ports:
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return [f"localhost:{port}" for port in ports]
    raise OSError("no free ports")


def free_addresses(count: int) -> list[str]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


class Workers:
    """Processes of `work_together.py` that have been started.

    Args:
        output: for what each of them leaves.
        run: the folder that the chief writes to.
        addresses: of all of them; none for one process without a cluster.
        launcher: what sets the environment of a worker, such as `tf_config`.
        options: for all of them.
        of_rank: more options for some of them.
        absent: ranks that are not started.
    """

    def __init__(
        self,
        output: Path,
        run: Path,
        addresses: Sequence[str] = (),
        launcher: Callable[[Sequence[str], int], dict[str, str]] = tf_config,
        options: Mapping[str, Any] | None = None,
        of_rank: Mapping[int, Mapping[str, Any]] | None = None,
        absent: Sequence[int] = (),
    ) -> None:
        output.mkdir()
        self.output = output
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        for rank in set(range(max(len(addresses), 1))).difference(absent):
            asked = {"output": str(output), "run": str(run), "rank": rank}
            asked["several"] = bool(addresses)
            asked |= {"wait_seconds": 200, **(options or {}), **(of_rank or {}).get(rank, {})}
            environment = {**os.environ, **(launcher(addresses, rank) if addresses else {})}
            command = [sys.executable, str(SCRIPT), json.dumps(asked)]
            with self._log(rank).open("wb") as log:
                self._processes[rank] = subprocess.Popen(
                    command, stdout=log, stderr=log, env=environment
                )

    def wait(self, seconds: float = 600.0) -> dict[int, Ended]:
        """How each ended, by rank. What still runs after `seconds` is killed."""
        deadline, ended = time.monotonic() + seconds, {}
        while len(ended) < len(self._processes):
            for rank, process in self._processes.items():
                if time.monotonic() > deadline:
                    process.kill()
                    process.wait()
                if rank not in ended and process.poll() is not None:
                    said = self._log(rank).read_text(errors="replace")
                    ended[rank] = Ended(process.returncode, said, time.monotonic())
            time.sleep(0.05)
        return ended

    def _log(self, rank: int) -> Path:
        return self.output / f"log-{rank}.txt"
