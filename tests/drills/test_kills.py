"""A hundred real runs, each killed at a random moment and started again with the same command.

make drill-kills
"""

from __future__ import annotations

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from runs_to_kill import (
    differences,
    final_state,
    kill_at_random,
    kill_while_writing,
    photographs,
    start,
    wait_for_weights,
)

#: how many kills; ALEXNET_KERAS_KILLS asks for another number
KILLS = int(os.environ.get("ALEXNET_KERAS_KILLS", 100))
#: runs at a time
AT_ONCE = 2


@pytest.mark.drill
def test_a_run_killed_at_any_moment_ends_with_the_same_weights(tmp_path, repository):
    """Every third kill comes while a checkpoint is being written.

    One in ten of the runs started again goes on to its report and SavedModel, the others to their
    final weights.
    """
    photos = photographs(tmp_path / "photos")
    began = time.monotonic()
    assert start(repository, photos, tmp_path / "whole").wait() == 0
    lasted = time.monotonic() - began
    expected = final_state(tmp_path / "whole")

    def one(number: int) -> tuple[str, list[str]]:
        output, draw = tmp_path / f"killed-{number}", random.Random(number)
        run = start(repository, photos, output)
        if number % 3 == 0:
            killed = kill_while_writing(run, output, draw)
        else:
            # Beyond the undisturbed run's time, since two at a time are slower.
            killed = kill_at_random(run, 1.3 * lasted, draw)
        if not killed:
            return "too late", []
        part = any((output / "checkpoints").glob(".step-*.part"))
        kind = "writing" if part else "any moment"
        already = os.path.getsize(f"{output}.log")
        again = start(repository, photos, output)
        code = again.wait() if number % 10 == 0 else wait_for_weights(again, output, already)
        if code:
            return kind, [f"exit code {code}"]
        return kind, differences(expected, final_state(output))

    # More than asked, for those that had already ended.
    outcomes: list[tuple[str, list[str]]] = []
    number = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        while len(outcomes) < KILLS:
            missing = KILLS - len(outcomes)
            found = pool.map(one, range(number, number + missing))
            number += missing
            for kind, unequal in found:
                if kind != "too late":
                    outcomes.append((kind, unequal))
                    print(f"kill {len(outcomes)} ({kind}): {unequal or 'the same'}", flush=True)
    same = sum(not unequal for _, unequal in outcomes)
    writing = sum(kind == "writing" for kind, _ in outcomes)
    print(
        f"\n{same} of {KILLS} runs, {writing} of them killed while a checkpoint was being written, "
        f"ended bit for bit like the undisturbed one, in {time.monotonic() - began:.0f} s"
    )
    assert same == KILLS
    assert writing > KILLS / 10
