from __future__ import annotations

import numpy as np
import pytest

from alexnet_keras.transfer import FeatureCache
from feature_cache import main


def run(folder, *options):
    with pytest.raises(SystemExit) as ended:
        main([f"--folder={folder}", *options])
    assert ended.value.code == 0


def test_it_lists_and_clears_what_no_run_has_open(tmp_path, capsys):
    cache = FeatureCache(tmp_path)
    with cache.open("a" * 64, (3,), "average of trunk at 32 px") as features:
        features.add([b"1", b"2"], np.zeros((2, 3)))
        run(tmp_path)
        listed = capsys.readouterr().out.splitlines()
        assert len(listed) == 2
        assert listed[0].endswith("  average of trunk at 32 px") and " 2 " in listed[0]
        assert listed[1].endswith(f"in {tmp_path}")
        run(tmp_path, "--clear")
        assert capsys.readouterr().out == "0.0 MB freed; 1 in use stay.\n"
        assert features.rows([b"1"])[0] > 0
    run(tmp_path, "--clear")
    assert "stay" not in capsys.readouterr().out
    assert cache.sets() == []


def test_an_empty_cache_and_a_folder_that_is_not_there_yet(tmp_path, capsys):
    run(tmp_path / "later")
    assert capsys.readouterr().out.startswith("      0.0 MB of ")
    run(tmp_path / "later", "--clear")
    assert not (tmp_path / "later").exists()
