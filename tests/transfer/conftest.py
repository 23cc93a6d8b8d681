from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.fixture
def claimer(repository):
    """Starts a process that claims keys in a file, until it is killed."""
    script = repository / "tests" / "support" / "claim_keys.py"
    started = []

    def start(path, keys):
        command = [sys.executable, str(script), str(path), *(key.hex() for key in keys)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "True\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
