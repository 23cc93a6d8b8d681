"""Keras 3's own files: what Keras saved is read, and what the HDF5 library dies of is survived."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from alexnet_keras import UserError
from alexnet_keras.weights import read_weights, save_weights
from alexnet_keras.weights.formats import hdf5_contents


def net(trained=True, **conv1):
    """A net with every kind of layer that has variables, one of them inside another model."""
    keras.utils.set_random_seed(0)
    inner = keras.Sequential(
        [
            keras.layers.Conv2D(2, 3, groups=2, name="conv2", bias_initializer="normal"),
            keras.layers.BatchNormalization(name="norm2"),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.5, seed=1),
        ],
        name="inner",
    )
    pixels = x = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="conv1", bias_initializer="normal", **conv1)(x)
    x = keras.layers.BatchNormalization(name="norm1", gamma_initializer="normal")(x)
    x = keras.layers.LayerNormalization(name="layer_norm", beta_initializer="normal")(inner(x))
    x = keras.layers.Dense(5, name="fc7", use_bias=False)(x)
    x = keras.layers.Dense(3, name="fc8", bias_initializer="normal")(x)
    model = keras.Model(pixels, x)
    if trained:
        model.compile("adam", "mse")
        model.fit(np.ones((2, 8, 8, 3)), np.ones((2, 3)), verbose=0)
    return model


NAMES = {
    "conv1/kernel": "conv1",
    "conv1/bias": "conv1",
    **{f"norm1/{name}": "norm1" for name in ("gamma", "beta", "moving_mean", "moving_variance")},
    "conv2/kernel": "conv2",
    "conv2/bias": "conv2",
    **{f"norm2/{name}": "norm2" for name in ("gamma", "beta", "moving_mean", "moving_variance")},
    "layer_norm/gamma": "layer_norm",
    "layer_norm/beta": "layer_norm",
    "fc7/kernel": "fc7",
    "fc8/kernel": "fc8",
    "fc8/bias": "fc8",
}


@pytest.fixture(scope="module")
def model():
    return net()


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    """The model as bytes of a file, by suffix."""
    folder = tmp_path_factory.mktemp("saved")
    model.save(folder / "net.keras")
    model.save_weights(folder / "net.weights.h5")
    return {path.name[3:]: path.read_bytes() for path in folder.iterdir()}


def assert_same(stored, model):
    layers = {
        **{x.name: x for x in model.layers},
        **{x.name: x for x in model.get_layer("inner").layers},
    }
    assert set(stored.tensors) == set(NAMES)
    for name, layer in NAMES.items():
        value = getattr(layers[layer], name.partition("/")[2])
        np.testing.assert_array_equal(stored.tensors[name], value.numpy())


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_the_variables_are_what_keras_saved(suffix, model, saved, tmp_path):
    path = tmp_path / f"net{suffix}"
    path.write_bytes(saved[suffix])
    stored = read_weights(path)
    assert_same(stored, model)
    assert (stored.variants, stored.preprocessing) == ((), None)
    assert not stored.tensors["conv1/kernel"].flags.owndata
    # Whatever it is called.
    assert_same(read_weights(path.rename(tmp_path / "net.pth")), model)


def test_a_packed_model_is_read_as_well(model, saved, tmp_path):
    (tmp_path / "stored.keras").write_bytes(saved[".keras"])
    with (
        zipfile.ZipFile(tmp_path / "stored.keras") as stored,
        zipfile.ZipFile(tmp_path / "packed.keras", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    assert_same(read_weights(tmp_path / "packed.keras"), model)


def test_a_bomb_in_a_model_is_refused(tmp_path, refusal):
    with zipfile.ZipFile(tmp_path / "net.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", b"\x89HDF\r\n\x1a\n" + bytes(128 << 20))
    assert "unpack to 134,217,736" in refusal(tmp_path / "net.keras")


@pytest.mark.parametrize("policy", ["bfloat16", "float16", "float64"])
def test_variables_of_other_floats_are_read(policy, tmp_path):
    model = net(trained=False, dtype=policy)
    model.save_weights(tmp_path / "net.weights.h5")
    tensors = read_weights(tmp_path / "net.weights.h5").tensors
    kernel = model.get_layer("conv1").kernel
    np.testing.assert_array_equal(tensors["conv1/kernel"], np.asarray(kernel).astype("f8"))
    assert tensors["conv1/kernel"].dtype == ("float32" if policy == "bfloat16" else policy)


def test_saved_weights_are_keras_own_and_know_what_they_belong_to(model, tmp_path):
    path = save_weights(model, tmp_path / "new" / "net.weights.h5", "caffenet", "caffe")
    stored = read_weights(path)
    assert_same(stored, model)
    assert (stored.variants, stored.preprocessing) == (("caffenet",), "caffe")
    again = net(trained=False)
    again.load_weights(path)
    for ours, theirs in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [one.name for one in path.parent.iterdir()] == ["net.weights.h5"]


def test_saving_asks_the_model_what_it_is(tmp_path):
    from alexnet_keras import AlexNet

    net = AlexNet(variant="caffe", width=0.02, classes=3)
    stored = read_weights(save_weights(net, tmp_path / "net.weights.h5"))
    assert (stored.variants, stored.preprocessing) == (("caffe",), "caffe")


def test_a_failed_save_leaves_the_old_file_and_nothing_else(model, tmp_path, monkeypatch):
    path = save_weights(model, tmp_path / "net.weights.h5")
    before = path.read_bytes()

    def full(target):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model, "save_weights", full)
    with pytest.raises(UserError, match="No space left"):
        save_weights(model, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["net.h5", "net.keras", "net"])
def test_weights_are_saved_under_keras_own_suffix(name, model, tmp_path):
    with pytest.raises(UserError, match=r"\.weights\.h5"):
        save_weights(model, tmp_path / name)


def h5(path, **datasets):
    """A file whose datasets lie where Keras puts those of `conv1`."""
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/conv2d/vars")
        group.attrs["name"] = "conv1"
        for name, make in datasets.items():
            make(group, name[1:])
    return path


def plain(shape=(1, 1, 3, 4), **options):
    return lambda group, name: group.create_dataset(name, data=np.ones(shape, "f4"), **options)


def packed_bomb(group, name):
    group.create_dataset(
        name, (1 << 28, 4), "f4", chunks=(1 << 20, 4), compression="gzip", fillvalue=1.0
    )


def external(group, name):
    group.create_dataset(name, (4, 4), "f4", external=[("other", 0, 64)])


def linked(kind):
    def make(group, name):
        group[name] = kind

    return make


def strange_float(group, name):
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_ebias(120)
    space = h5py.h5s.create_simple((2, 2))
    h5py.h5d.create(group.id, name.encode(), kind, space).write(
        h5py.h5s.ALL, h5py.h5s.ALL, np.ones((2, 2), "f4")
    )


@pytest.mark.parametrize(
    ("datasets", "words"),
    [
        ({"_0": plain(chunks=(1, 1, 3, 4))}, "not in one piece"),
        ({"_0": plain(compression="gzip")}, "not in one piece"),
        ({"_0": packed_bomb}, "not in one piece"),
        ({"_0": external}, "not in one piece"),
        ({"_0": linked(h5py.SoftLink("/layers"))}, "elsewhere"),
        ({"_0": linked(h5py.ExternalLink("other.h5", "/"))}, "elsewhere"),
        ({"_0": strange_float}, "conv1/kernel holds HDF5 class 1 of 4 bytes, not floats"),
        ({"_0": lambda g, n: g.create_dataset(n, data=np.ones((2, 2), "i4"))}, "not floats"),
        ({"_0": lambda g, n: g.create_dataset(n, data=np.full((2, 2), np.nan))}, "not finite"),
        ({"_0": plain((0, 4))}, "empty"),
        ({"_0": plain(), "_1": plain((4,)), "_2": plain((4,))}, "3 variables where 2 are known"),
        ({}, "no variables that Keras 3 wrote"),
    ],
)
def test_what_keras_does_not_write_is_refused(datasets, words, tmp_path):
    path = h5(tmp_path / "net.weights.h5", **datasets)
    with pytest.raises(UserError, match=words):
        read_weights(path)


def test_a_file_of_keras_2_is_refused_with_the_way_out(tmp_path):
    with h5py.File(tmp_path / "net.h5", "w") as file:
        file.attrs["layer_names"] = [b"conv1"]
        file["conv1/conv1/kernel:0"] = np.ones((1, 1, 3, 4), "f4")
    with pytest.raises(UserError, match="with Keras 3"):
        read_weights(tmp_path / "net.h5")


def test_layers_without_names_and_two_of_one_name_are_refused(tmp_path):
    with h5py.File(tmp_path / "net.weights.h5", "w") as file:
        file["layers/conv2d/vars/0"] = np.ones((1, 1, 3, 4), "f4")
    with pytest.raises(UserError, match="no names"):
        read_weights(tmp_path / "net.weights.h5")
    with h5py.File(tmp_path / "net.weights.h5", "a") as file:
        file["layers/conv2d_1/vars/0"] = np.ones((1, 1, 3, 4), "f4")
        for layer in ("conv2d", "conv2d_1"):
            file[f"layers/{layer}/vars"].attrs["name"] = "conv1"
    with pytest.raises(UserError, match="two layers with 'conv1/kernel'"):
        read_weights(tmp_path / "net.weights.h5")


def test_a_file_that_is_cut_is_refused(saved, tmp_path):
    for suffix, data in saved.items():
        for end in (10, 100, len(data) // 2, len(data) - 1000):
            (tmp_path / "cut.h5").write_bytes(data[:end])
            with pytest.raises(UserError, match="cut.h5 cannot be read"):
                read_weights(tmp_path / "cut.h5")
        assert suffix in (".keras", ".weights.h5")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os; os.abort()", "ended with code -6"),
        ("while True: pass", "ended with code -(9|24)"),
        ("x = bytearray(1 << 40)", "MemoryError"),
        ("print('no json')", "ended with code 0"),
    ],
)
def test_a_library_that_crashes_hangs_or_fills_memory_is_survived(
    code, words, saved, tmp_path, monkeypatch
):
    # The reader's own program, h5py's part of it put in the place of a damaged file's effect.
    program = Path(hdf5_contents.__file__).read_text()
    body = program.replace("    import h5py\n\n    variables:", f"    {code}\n    variables:", 1)
    assert body != program
    (tmp_path / "contents.py").write_text(body.replace("SECONDS = 10 ", "SECONDS = 1 "))
    monkeypatch.setattr(hdf5_contents, "__file__", str(tmp_path / "contents.py"))
    (tmp_path / "net.weights.h5").write_bytes(saved[".weights.h5"])
    with pytest.raises(UserError, match=f"HDF5 library cannot read it .*{words}"):
        read_weights(tmp_path / "net.weights.h5")


@pytest.mark.parametrize(
    "change",
    [
        {"offset": -1},
        {"offset": 10**9},
        {"offset": None},
        {"size": 10**9},
        {"size": 0},
        {"shape": [2**62, 4]},
        {"shape": [-3, -4]},
        {"dtype": "<f8"},
        {"dtype": "|O"},
        {"overlap": True},
    ],
    ids=str,
)
def test_the_library_s_answer_is_not_believed_either(change, tmp_path, monkeypatch):
    path = h5(tmp_path / "net.weights.h5", _0=plain(), _1=plain((4,)))
    answer = {
        "attributes": {},
        "variables": [
            {"path": f"layers/conv2d/vars/{i}", "layer": "conv1", "dtype": "<f4", "shape": shape,
             "offset": 100 * i, "size": 4 * int(np.prod(shape))}
            for i, shape in enumerate(([1, 1, 3, 4], [4]))
        ],
    }  # fmt: skip
    if change.pop("overlap", False):
        change["offset"] = 90
    answer["variables"][0] |= change
    (tmp_path / "contents.py").write_text(f"print({json.dumps(answer)!r})")
    monkeypatch.setattr(hdf5_contents, "__file__", str(tmp_path / "contents.py"))
    with pytest.raises(UserError, match="cannot be read as a Keras weights file"):
        read_weights(path)
