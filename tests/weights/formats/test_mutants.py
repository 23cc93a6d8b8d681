"""A small sample of the drill `make drill` in every run of the tests."""

from __future__ import annotations

import pytest

from weight_files import FROM_TORCH, SMALL_FILES, read_damaged


@pytest.mark.parametrize("name", SMALL_FILES)
def test_a_damaged_file_is_read_or_refused_in_a_sentence(name, tmp_path):
    if name in FROM_TORCH:
        pytest.importorskip("torch")
    # HDF5 costs a process each.
    seeds = range(10_000, 10_008 if "h5" in name or "keras" in name else 10_060)
    outcomes = read_damaged(name, tmp_path, seeds)
    assert not outcomes.faults
    assert outcomes.counts["refused"] > 0
