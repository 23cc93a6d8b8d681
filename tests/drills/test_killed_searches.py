"""Searches of a few trials, killed again and again at random moments and gone on with.

make drill-killed-searches
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alexnet_keras.tuning import read_outcomes

#: how many kills of each search; ALEXNET_KERAS_KILLS asks for another number
KILLS = int(os.environ.get("ALEXNET_KERAS_KILLS", 12))
#: of each search: enough for all kills to come before it ends
TRIALS = KILLS + 5
#: seconds after something new is there within which a kill comes: some three trials
WITHIN = 6.0


def start(repository: Path, folder: Path, search: str, workers: int) -> subprocess.Popen[bytes]:
    """In a process group of its own, its workers among them."""
    folder.mkdir(exist_ok=True)
    script = repository / "tests" / "support" / "search_together.py"
    given = {"trials": TRIALS, "search": search, "workers": workers, "seconds": 7200}
    # With two workers a kill may find a trial that the last one found too.
    options = json.dumps({**given, "attempts": 2 if workers == 0 else 10})
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(script), str(folder), options],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def scores(folder: Path) -> dict[str, tuple[object, ...]]:
    """What is known of each trial that has ended."""
    return {
        one.trial: (json.dumps(one.settings, sort_keys=True), one.status, one.accuracy, one.loss)
        for one in read_outcomes(folder / "search" / "trials")
    }


def finals(folder: Path) -> dict[str, object]:
    paths = (folder / "search" / "finals").glob("trial_*.json")
    return {path.name: json.loads(path.read_text()) for path in paths}


def kill_at_random(process: subprocess.Popen[bytes], folder: Path, draw: random.Random) -> bool:
    """Kills it some time after it has come further, so that no trial is killed too often.

    Returns:
        False if it ended before.
    """

    def known() -> int:
        return len(scores(folder)) + len(finals(folder))

    before, since = known(), None
    wait = draw.uniform(0, WITHIN)
    while process.poll() is None:
        if since is None and known() > before:
            since = time.monotonic()
        if since is not None and time.monotonic() - since >= wait:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.02)
    return False


@pytest.mark.drill
@pytest.mark.parametrize(
    ("search", "workers"), [("random", 0), ("bayesian", 0), ("random", 2), ("hyperband", 0)]
)
def test_a_search_killed_again_and_again_comes_to_the_same(tmp_path, repository, search, workers):
    began, kills = time.monotonic(), 0
    draw = random.Random(f"{search} {workers}")
    killed = tmp_path / "killed"
    before: dict[str, tuple[object, ...]] = {}
    while True:
        process = start(repository, killed, search, workers)
        if kills == KILLS:
            assert process.wait() == 0, (killed / "log.txt").read_text()[-2000:]
            break
        if not kill_at_random(process, killed, draw):
            assert process.returncode == 0, (killed / "log.txt").read_text()[-2000:]
            break
        kills += 1
        now = scores(killed)
        assert before.items() <= now.items(), "an outcome was lost, or has changed"
        before = now
    found = scores(killed)
    assert before.items() <= found.items()
    assert sorted(int(trial) for trial in found) == list(range(TRIALS))
    assert {status for _, status, _, _ in found.values()} == {"completed"}
    text = (killed / "log.txt").read_text()
    assert "Traceback" not in text, text[-2000:]
    told = f"{search} search with {workers} workers: {kills} kills"
    if workers == 0:
        whole = tmp_path / "whole"
        assert start(repository, whole, search, workers).wait() == 0
        assert found == scores(whole)
        assert finals(killed) == finals(whole)
        told += ", and every trial and final came out as in one that nobody killed"
    print(f"\n{told} ({time.monotonic() - began:.0f} s)", flush=True)
    assert kills > KILLS / 2
