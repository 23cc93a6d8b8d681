from __future__ import annotations

import hashlib
import re

import keras
import pytest
from click.testing import CliRunner

import make_starter
from alexnet_keras.training.net import build_net
from alexnet_keras.weights import read_weights


def invoke(*arguments):
    return CliRunner().invoke(make_starter.main, list(map(str, arguments)))


@pytest.fixture
def trained(tmp_path):
    keras.utils.set_random_seed(0)
    model = build_net(3, variant="modern", width=0.1)
    model.save(tmp_path / "model.keras")
    return tmp_path / "model.keras"


def test_the_trunk_of_a_saved_net_is_stored_and_its_hash_told(trained, tmp_path):
    result = invoke(trained, "--output", tmp_path / "starter.npz")
    assert result.exit_code == 0, result.stderr
    content = (tmp_path / "starter.npz").read_bytes()
    assert re.search("SHA-256 ([0-9a-f]{64})", result.stdout)[1] == (
        hashlib.sha256(content).hexdigest()
    )
    assert "names another hash" in result.stdout
    stored = read_weights(tmp_path / "starter.npz").tensors
    assert stored["conv5/kernel"].shape[:2] == (3, 3)
    assert not [name for name in stored if name.startswith("fc8")]


def test_without_a_model_it_says_what_to_give(tmp_path):
    result = invoke(tmp_path / "model.keras")
    assert result.exit_code == 2
    assert "There is no file" in result.stderr and "model.keras of a finished run" in result.stderr
