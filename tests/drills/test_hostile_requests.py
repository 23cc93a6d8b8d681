"""A hundred thousand damaged requests: none crashes, hangs or fills the memory of a server.

make drill-requests
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from alexnet_keras.serving import export
from served_model import NAMES, small_classifier

#: ALEXNET_KERAS_REQUESTS asks for another number.
MANY = int(os.environ.get("ALEXNET_KERAS_REQUESTS", 100_002))
FEW = 600
#: without an answer for so many seconds a request counts as hanging
PATIENCE = 120
#: what a server may hold more after all requests than after the first third of them, in bytes
GROWTH = 200 * 2**20

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    return export(small_classifier(), tmp_path_factory.mktemp("exported") / "flowers", NAMES)


def send(version, count):
    """The lines that the process says, while it lives and none takes too long."""
    process = subprocess.Popen(
        [sys.executable, SUPPORT / "hostile_requests.py", version, "0", str(count)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: queue.Queue = queue.Queue()
    said: list[str] = []

    def read():
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    errors = threading.Thread(target=lambda: said.extend(process.stderr), daemon=True)
    errors.start()
    try:
        while (line := lines.get(timeout=PATIENCE)) is not None:
            yield json.loads(line)
        process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()
        errors.join()
    assert process.returncode == 0, "".join(said)[-2000:]


def check(version, count):
    began = time.monotonic()
    memory, last = {}, None
    for last in send(version, count):
        memory[last[0]] = last[2]
    sent, outcomes, _ = last
    assert sent == count == sum(outcomes.values())
    # Mutants that are all refused, or none, would test nothing.
    assert min(outcomes["answered"], outcomes["refused"]) > count / 20
    held = max(held for number, held in memory.items() if number <= count / 3)
    most = max(held for number, held in memory.items() if number > count * 2 / 3)
    print(
        f"\n{sent} damaged requests, {outcomes}, in {time.monotonic() - began:.0f} s; "
        f"memory {held / 2**20:.0f} MiB in the first third, {most / 2**20:.0f} in the last."
    )
    assert most < held + GROWTH


def test_damaged_requests_do_no_harm(version):
    check(version, FEW)


@pytest.mark.drill
def test_very_many_damaged_requests_do_no_harm(version):
    check(version, MANY)
