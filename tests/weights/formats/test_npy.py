"""`bvlc_alexnet.npy` and its like: dictionaries pickled by NumPy, of today and of Python 2."""

from __future__ import annotations

import os
import pickle
import struct

import numpy as np
import pytest

from alexnet_keras import UserError
from alexnet_keras.weights import read_weights

CHANNELS, SIDE = 4, 2
SHAPES = {
    "conv1": (5, 5, 3, 4),
    "conv2": (3, 3, 2, 6),
    "conv3": (1, 2, 6, 6),
    "conv4": (2, 1, 3, 4),
    "conv5": (3, 3, 2, CHANNELS),
    "fc6": (CHANNELS * SIDE * SIDE, 5),
    "fc7": (5, 5),
    "fc8": (5, 3),
}


def layers(dtype="f4"):
    rng = np.random.default_rng(0)
    return {
        name: [rng.normal(size=shape).astype(dtype), rng.normal(size=shape[-1]).astype(dtype)]
        for name, shape in SHAPES.items()
    }


def assert_same(stored, expected):
    assert set(stored.tensors) == {f"{x}/{v}" for x in expected for v in ("kernel", "bias")}
    for name, (kernel, bias) in expected.items():
        np.testing.assert_array_equal(stored.tensors[f"{name}/kernel"], kernel)
        np.testing.assert_array_equal(stored.tensors[f"{name}/bias"], bias)
    assert (stored.format, stored.variants) == ("NumPy file", ("caffe", "caffenet"))


def npy(content, protocol=2):
    """A `.npy` around an object, pickled in any protocol; NumPy itself chooses one."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    head = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    content = content if isinstance(content, bytes) else pickle.dumps(np.array(content), protocol)
    return head + content


@pytest.fixture
def read(tmp_path):
    def of(data):
        (tmp_path / "weights.npy").write_bytes(data)
        return read_weights(tmp_path / "weights.npy")

    return of


def test_the_arrays_are_what_numpy_saved(tmp_path):
    np.save(tmp_path / "weights.npy", layers(), allow_pickle=True)
    assert_same(read_weights(tmp_path / "weights.npy"), layers())


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
def test_the_arrays_may_be_pickled_in_any_protocol(dtype, protocol, read):
    assert_same(read(npy(layers(dtype), protocol)), layers(dtype))


def test_the_arrays_may_be_large_and_in_any_order(read):
    # caffe-tensorflow pickles transposed views: a dense kernel is then in Fortran's order.
    content = layers()
    content["fc7"] = [np.random.default_rng(1).normal(size=(99, 98)).astype("f4").T, np.ones(99)]
    for protocol in (2, 4, 5):
        assert_same(read(npy(content, protocol)), content)


def test_later_versions_name_weights_and_biases(read):
    content = {name: {"weights": w, "biases": b} for name, (w, b) in layers().items()}
    assert_same(read(npy(content)), layers())


def short(value):
    return b"U" + bytes([len(value)]) + value


def test_what_python_2_wrote_is_read(read):
    # The opcodes of numpy.save in Python 2.7, NumPy 1.9: every string is bytes.
    kind = (
        b"cnumpy\ndtype\n"
        + short(b"f4")
        + b"K\0K\1\x87R(K\3"
        + short(b"<")
        + b"NNNJ\xff\xff\xff\xff"
    )
    kind += b"J\xff\xff\xff\xffK\0tb"
    objects = kind.replace(b"f4", b"O8").replace(b"<", b"|").replace(b"K\0tb", b"K?tb")

    def array(shape, kind, data):
        start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + short(b"b")
        sides = b"(" + b"".join(b"K" + bytes([side]) for side in shape) + b"t"
        return start + b"\x87R(K\1" + sides + kind + b"\x89" + data + b"tb"

    def floats(values):
        values = np.asarray(values, "<f4")
        data = values.tobytes()
        return array(values.shape, kind, b"T" + struct.pack("<i", len(data)) + data)

    items = b"".join(
        short(name.encode()) + b"](" + floats(w) + floats(b) + b"e"
        for name, (w, b) in layers().items()
    )
    whole = array((), objects, b"]}(" + items + b"ua")
    assert_same(read(npy(b"\x80\x02" + whole + b".")), layers())


def test_the_rows_of_fc6_stay_in_the_order_of_channels_last(read):
    # What caffe-tensorflow does to Caffe's (out, in), its DataReshaper being told in its own words.
    caffes = np.random.default_rng(1).normal(size=(5, CHANNELS * SIDE * SIDE))
    spatial = caffes.reshape(5, CHANNELS, SIDE, SIDE).transpose(2, 3, 1, 0)
    content = layers() | {"fc6": [spatial.reshape(-1, 5), np.zeros(5)]}
    image = np.random.default_rng(2).normal(size=(CHANNELS, SIDE, SIDE))
    given = image.transpose(1, 2, 0).ravel() @ read(npy(content)).tensors["fc6/kernel"]
    np.testing.assert_allclose(given, caffes @ image.ravel(), rtol=1e-12)


def test_the_largest_arrays_are_views_of_the_file(tmp_path):
    content = layers() | {"fc7": [np.ones((64, 64), "f4"), np.ones(64, "f4")]}
    np.save(tmp_path / "weights.npy", content, allow_pickle=True)
    kernel = read_weights(tmp_path / "weights.npy").tensors["fc7/kernel"]
    assert not kernel.flags.owndata and not kernel.flags.writeable


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2, {"conv1": 1}], "no dictionary of layers"),
        ({"vgg": [1, 2]}, "a layer 'vgg'"),
        (layers() | {"conv1": [layers()["conv1"][0]]}, r"conv1 is neither \[kernel, bias\]"),
        (layers() | {"conv1": {"w": 1}}, r"conv1 is neither \[kernel, bias\]"),
        (layers() | {"conv1": [1.0, 2.0]}, "conv1/kernel is no array"),
        (layers("i4"), "conv1/kernel holds '<i4', not floats"),
        (layers() | {"fc8": [np.array([None]), np.ones(3)]}, "fc8/kernel holds '<O"),
        (layers() | {"fc8": [np.full((5, 3), np.nan), np.ones(3)]}, "fc8/kernel .*not finite"),
        (layers() | {"fc8": [np.ones((5, 3)), np.full(3, -np.inf)]}, "fc8/bias .*not finite"),
    ],
)
def test_what_is_no_dictionary_of_float_layers_is_refused(content, words, read):
    with pytest.raises(UserError, match=f"weights.npy cannot be read as a NumPy file: .*{words}"):
        read(npy(content))


def test_a_single_array_is_refused(tmp_path):
    np.save(tmp_path / "weights.npy", np.ones((3, 3)))
    with pytest.raises(UserError, match="one array, not a dictionary"):
        read_weights(tmp_path / "weights.npy")


class Trap:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_what_a_dictionary_would_run_is_named_and_not_run(protocol, tmp_path, refusal):
    command = f"touch {tmp_path / 'ran'}"
    for trap, name in (
        (Trap(os.system, command), ".system"),
        (Trap(eval, f"__import__('os').system({command!r})"), "eval"),
        (Trap(np.load, "x"), "numpy"),
    ):
        for content in (layers() | {"fc8": trap}, layers() | {"fc8": [trap, trap]}, [trap]):
            path = tmp_path / "weights.npy"
            path.write_bytes(npy(content, protocol))
            said = refusal(path)
            assert name in said and "source that you trust" in said
    assert not (tmp_path / "ran").exists()


NUMBERS = np.arange(6, dtype="f4")
ARRAY = pickle.dumps(NUMBERS, 2)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"K\x06\x85", b"K\x07\x85"),
        (b"K\x06\x85", b"J\xff\xff\xff\x7f\x85"),
        (b"K\x06\x85", b"\x8a\x08" + b"\xff" * 7 + b"\x3f\x85"),
        (b"K\x06\x85", b"J\xff\xff\xff\xff\x85"),
        (b"K\x06\x85", b"K\0K\x06\x86"),
        (b"K\x06\x85", b"G" + bytes(8) + b"\x85"),
        (b"K\x06\x85", b"N"),
        (b"f4", b"f8"),
        (b"f4", b"i4"),
        (b"f4", b"O8"),
        (b"f4", b"xx"),
        (b"f4", b"\xff\xff"),
    ],
)
def test_an_array_that_does_not_fit_its_data_is_refused(old, new, tmp_path, refusal):
    assert old in ARRAY
    bad = pickle.dumps(np.array({"conv1": [NUMBERS, NUMBERS]}), 2).replace(old, new)
    (tmp_path / "weights.npy").write_bytes(npy(bad))
    refusal(tmp_path / "weights.npy")


@pytest.mark.parametrize(
    "start", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\0\xff\xff", b"\x93NUMPY\x09\0"]
)
def test_a_header_that_is_none_is_refused(start, tmp_path, refusal):
    (tmp_path / "weights.npy").write_bytes(start)
    refusal(tmp_path / "weights.npy")


def test_a_dictionary_that_is_cut_anywhere_is_refused(read):
    data = npy(layers())
    for end in [*range(200), *range(200, len(data), 17)]:
        with pytest.raises(UserError):
            read(data[:end])
