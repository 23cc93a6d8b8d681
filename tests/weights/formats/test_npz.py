"""NumPy archives as NumPy writes them."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from alexnet_keras import UserError
from alexnet_keras.weights.formats import read_weights


def arrays(dtype="f4"):
    rng = np.random.default_rng(0)
    return {
        "conv1/kernel": rng.normal(size=(3, 3, 3, 4)).astype(dtype),
        "conv1/bias": rng.normal(size=4).astype(dtype),
        "norm3/gamma": rng.normal(size=4).astype(dtype),
        "fc7/kernel": np.asfortranarray(rng.normal(size=(5, 4)).astype(dtype)),
    }


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", ">f8"])
def test_arrays_are_what_numpy_wrote(save, dtype, tmp_path):
    save(tmp_path / "weights.npz", **arrays(dtype))
    stored = read_weights(tmp_path / "weights.npz")
    assert set(stored.tensors) == set(arrays())
    for name, array in arrays(dtype).items():
        np.testing.assert_array_equal(stored.tensors[name], array)
        assert stored.tensors[name].dtype == np.dtype(dtype).newbyteorder("=")
    assert (stored.format, stored.variants, stored.preprocessing) == ("NumPy archive", (), None)


def test_the_suffix_does_not_matter(tmp_path):
    np.savez(tmp_path / "weights.npz", **arrays())
    path = (tmp_path / "weights.npz").rename(tmp_path / "weights.pth")
    assert read_weights(path).format == "NumPy archive"


def test_arrays_that_are_not_packed_are_views_of_the_file(tmp_path):
    np.savez(tmp_path / "weights.npz", **arrays())
    kernel = read_weights(tmp_path / "weights.npz").tensors["conv1/kernel"]
    assert not kernel.flags.owndata and not kernel.flags.writeable


class Trap:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        import os

        return os.system, (self.command,)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.array(["x"] * 4), "conv1/bias holds '<U1', not floats"),
        (np.arange(4), "conv1/bias holds '<i8', not floats"),
        (np.array([1 + 1j] * 4), "not floats"),
        (np.zeros(4, [("a", "f4")]), "not floats"),
        (np.full(4, np.nan, "f4"), "conv1/bias holds values that are not finite"),
        (np.array([0, 0, 0, -np.inf], "f2"), "conv1/bias holds values that are not finite"),
        (np.zeros((0, 4), "f4"), r"conv1/bias has the shape \(0, 4\)"),
        (np.array([{}] * 4), "conv1/bias is pickled"),
    ],
)
def test_what_is_no_finite_float_is_named(value, words, tmp_path):
    np.savez(tmp_path / "weights.npz", **arrays() | {"conv1/bias": value})
    with pytest.raises(
        UserError, match=f"weights.npz cannot be read as a NumPy archive: .*{words}"
    ):
        read_weights(tmp_path / "weights.npz")


def test_a_pickle_inside_does_not_run(tmp_path):
    trap = np.array([Trap(f"touch {tmp_path / 'ran'}")] * 4)
    np.savez(tmp_path / "weights.npz", **arrays() | {"conv1/bias": trap})
    with pytest.raises(UserError, match="pickled"):
        read_weights(tmp_path / "weights.npz")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }", "1099511627776"),
        (b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"9," * 3000 + b"), }", "9, "),
        (b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"9" * 4500 + b",), }", ""),
        (b"__import__('os').system('true')", "a header that NumPy does not write"),
        (b"(" * 9000, "a header that NumPy does not write"),
        (b" " * 20_000, "cut off in its header"),
        (b"{'descr': '<f4', 'fortran_order': False, 'shape': (-4,), }", "does not write"),
    ],
)
def test_a_header_is_not_believed(header, words, tmp_path):
    with zipfile.ZipFile(tmp_path / "weights.npz", "w") as archive:
        size = len(header).to_bytes(2, "little")
        archive.writestr("conv1/bias.npy", b"\x93NUMPY\x01\0" + size + header + bytes(16))
    with pytest.raises(UserError, match=f"conv1/bias.*{words}"):
        read_weights(tmp_path / "weights.npz")


def test_members_that_are_no_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "weights.npz", **arrays())
    with zipfile.ZipFile(tmp_path / "weights.npz", "a") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(UserError, match=r"its member 'readme\.txt' is no array"):
        read_weights(tmp_path / "weights.npz")
