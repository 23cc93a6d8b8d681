"""The front door: which kind of file it is, and how one is told what is wrong with it."""

from __future__ import annotations

import os

import numpy as np
import pytest

from alexnet_keras import UserError
from alexnet_keras.weights import read_weights


@pytest.mark.parametrize("name", ["missing.pth", ".", "fifo"])
def test_what_is_no_file_is_told_from_what_cannot_be_read(name, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UserError, match="There is no weights file .*give the path of a PyTorch"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b"not a weights file, whatever it is called",
        b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        bytes(1000),
        b"\xff" * 1000,
        b"PK",
        b"PK\x05\x06" + bytes(18),
        b"\x80\x04}.",
        b"\x1f\x8b" + bytes(100),
        b"\x89HDF\r\n\x1a\n",
        b"\x93NUMPY",
        b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.",
    ],
)
@pytest.mark.parametrize("name", ["weights.pth", "net.onnx", "net.caffemodel", "x.npz", "weights"])
def test_other_files_are_refused_in_a_sentence_that_names_them(content, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as refused:
        read_weights(tmp_path / name)
    said = str(refused.value)
    assert said.startswith(f"The weights file {tmp_path / name} cannot be read as a")
    assert said.endswith(".") and "\n" not in said and len(said) < 800
    assert (tmp_path / name).read_bytes() == content


def test_what_could_be_read_is_said_of_unknown_files(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"hello")
    with pytest.raises(UserError) as refused:
        read_weights(tmp_path / "weights.bin")
    for kind in (".pth", ".caffemodel", ".onnx", ".npz", ".npy", ".weights.h5", ".keras"):
        assert kind in str(refused.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_told_as_that(tmp_path):
    (tmp_path / "weights.npz").touch(mode=0)
    with pytest.raises(UserError, match="Permission denied"):
        read_weights(tmp_path / "weights.npz")


def test_a_path_may_be_text_and_comes_back_as_a_path(tmp_path):
    np.savez(tmp_path / "weights.npz", **{"conv1/bias": np.ones(4, "f4")})
    assert read_weights(str(tmp_path / "weights.npz")).path == tmp_path / "weights.npz"


@pytest.mark.real_data
def test_the_real_trunk_is_read_as_numpy_reads_it(torchvision_trunk):
    stored = read_weights(torchvision_trunk)
    with np.load(torchvision_trunk) as archive:
        assert set(stored.tensors) == set(archive.files)
        for name in archive.files:
            np.testing.assert_array_equal(stored.tensors[name], archive[name])
