"""Ten thousand damaged weights files: each is read or refused in a sentence, none does harm.

make drill
"""

from __future__ import annotations

import os
import time

import pytest

from weight_files import FROM_TORCH, SMALL_FILES, read_damaged

#: mutants of each kind; 10,800 together. ALEXNET_KERAS_MUTANTS asks for another number.
EACH = int(os.environ.get("ALEXNET_KERAS_MUTANTS", 1200))


@pytest.mark.drill
@pytest.mark.parametrize("name", SMALL_FILES)
def test_a_damaged_file_is_read_or_refused(name, tmp_path):
    if name in FROM_TORCH:
        pytest.importorskip("torch")
    began = time.monotonic()
    outcomes = read_damaged(name, tmp_path, range(EACH))
    print(f"\n{name}: {dict(outcomes.counts)} in {time.monotonic() - began:.0f} s")
    assert not outcomes.faults
    # Mutants that are all refused at the door, or none, would test nothing.
    assert outcomes.counts["refused"] > EACH / 20
