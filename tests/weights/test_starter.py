from __future__ import annotations

import hashlib
import zipfile

import keras
import numpy as np
import pytest

from alexnet_keras import AlexNet, UserError
from alexnet_keras.weights import (
    PREPROCESSING,
    load_tensors,
    load_weights,
    open_starter,
    open_weights,
    preprocessing_of,
    starter,
    write_starter,
)


def net(seed=0, classes=4):
    """A small net with everything that a starter keeps, and with what it leaves out."""
    keras.utils.set_random_seed(seed)
    options = {"normalization": "batch", "residual": True, "width": 0.05}
    model = AlexNet(classes=classes, input_shape=(64, 64, 3), **options)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_variance.assign(np.full(layer.moving_variance.shape, 1e6))
    return model


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """The net that stands for the trained one; its weights are the package's starter now."""
    model = net()
    path = tmp_path / "starter.npz"
    monkeypatch.setattr(starter, "PATH", path)
    monkeypatch.setattr(starter, "SHA256", write_starter(model, path))
    return model


def test_the_trunk_is_kept_its_kernels_in_half_precision(fake):
    stored = open_weights("starter")
    assert (stored.variants, stored.preprocessing) == ((starter.VARIANT,), starter.PREPROCESSING)
    assert starter.PREPROCESSING in PREPROCESSING
    trained = {f"{layer.name}/{v.name}": v.numpy() for layer in fake.layers for v in layer.weights}
    kept = {name for name in trained if not name.startswith("fc")}
    assert stored.tensors.keys() == kept
    assert {name.partition("/")[0] for name in kept} >= {"conv1", "norm1", "shortcut5"}
    for name in kept:
        half = name.endswith("/kernel")
        assert stored.tensors[name].dtype == (np.float16 if half else np.float32), name
        # Half of float16's last place, 2 ** -11, or of its least number, 2 ** -24.
        tolerance = {"rtol": 2**-11, "atol": 2**-25} if half else {"rtol": 0, "atol": 0}
        np.testing.assert_allclose(stored.tensors[name], trained[name], **tolerance)


def test_half_precision_becomes_single_in_a_net(fake):
    model = net(seed=1)
    stored = open_starter()
    report = load_tensors(model, stored.tensors, stored.path, allow_missing=True)
    assert report.fresh == ("fc6", "fc7", "fc8")
    for name, tensor in stored.tensors.items():
        layer, variable = name.split("/")
        value = getattr(model.get_layer(layer), variable)
        assert value.dtype == "float32"
        np.testing.assert_array_equal(value, tensor.astype(np.float32))


def test_the_same_weights_are_stored_as_the_same_bytes(tmp_path):
    paths = [tmp_path / "a.npz", tmp_path / "folder" / "b.npz"]
    digests = [write_starter(net(), path) for path in paths]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert digests == [hashlib.sha256(paths[0].read_bytes()).hexdigest()] * 2
    assert write_starter(net(seed=1), paths[0]) != digests[0]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["a.npz"]
    with zipfile.ZipFile(paths[1]) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    with np.load(paths[1]) as arrays:  # NumPy's own reader
        assert arrays["conv1/kernel"].dtype == np.float16


def test_a_flipped_bit_is_refused(fake):
    content = bytearray(starter.PATH.read_bytes())
    content[len(content) // 2] ^= 1
    starter.PATH.write_bytes(content)
    with pytest.raises(UserError, match=r"SHA-256 of .*starter\.npz.*; reinstall alexnet-keras"):
        open_weights("starter")


def test_a_missing_file_is_told(fake):
    starter.PATH.unlink()
    with pytest.raises(UserError, match=r"starter\.npz is missing\); reinstall alexnet-keras"):
        open_weights("starter")


def test_a_file_that_is_called_so_is_given_as_a_path(fake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "starter").write_bytes(b"something else")
    assert open_weights("starter").path == starter.PATH
    with pytest.raises(UserError, match="The weights file starter cannot be read"):
        open_weights("./starter")


@pytest.mark.parametrize(
    ("layer", "variable", "value", "words"),
    [
        ("conv2", "kernel", np.nan, "conv2/kernel holds values that are not finite"),
        ("norm2", "moving_variance", np.inf, "norm2/moving_variance .* not finite"),
        ("conv3", "kernel", -70_000.0, "conv3/kernel .* up to 70000, and float16 ends at 65504"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(
    layer, variable, value, words, tmp_path
):
    model = net()
    weights = getattr(model.get_layer(layer), variable)
    values = weights.numpy()
    values.flat[0] = value
    weights.assign(values)
    with pytest.raises(UserError, match=words):
        write_starter(model, tmp_path / "starter.npz")
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_a_trunk_and_a_path_in_the_way_are_refused(tmp_path):
    foreign = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="only")])
    with pytest.raises(UserError, match="no convolutions to store among its layers .*only"):
        write_starter(foreign, tmp_path / "starter.npz")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written to .*another path"):
        write_starter(net(), tmp_path / "file" / "starter.npz")


def test_the_shipped_file_is_the_one_whose_hash_is_known_and_small():
    content = starter.PATH.read_bytes()
    assert hashlib.sha256(content).hexdigest() == starter.SHA256
    assert len(content) <= 8_000_000


def test_the_first_filters_have_structure_and_are_not_noise():
    """Neighbours in a filter resemble each other more than when its values change places."""
    kernel = open_starter().tensors["conv1/kernel"].astype(np.float64)

    def likeness(filters):
        filters = filters - filters.mean(axis=(0, 1), keepdims=True)
        across = (filters[:, 1:] * filters[:, :-1]).sum() + (filters[1:] * filters[:-1]).sum()
        return across / (filters**2).sum()

    rng = np.random.default_rng(0)
    flat = kernel.reshape(-1, *kernel.shape[2:])
    shuffled = [likeness(rng.permuted(flat, axis=0).reshape(kernel.shape)) for _ in range(999)]
    assert likeness(kernel) > max(shuffled)  # p < .001
    # What colours are not told apart by chance: some filters weigh all three alike, others do not.
    rows = np.moveaxis(kernel, 2, 0).reshape(3, -1, kernel.shape[3])
    alike = [np.corrcoef(rows[..., n])[np.triu_indices(3, 1)].mean() for n in range(rows.shape[-1])]
    assert max(alike) > 0.9


def test_the_shipped_weights_fill_their_net():
    model = AlexNet(weights="starter", include_top=False)
    assert model.variant == starter.VARIANT
    assert model.loaded.fresh == model.loaded.unused == ()
    assert preprocessing_of(model) == PREPROCESSING[starter.PREPROCESSING]
    again = AlexNet(variant=starter.VARIANT, include_top=False)
    assert load_weights(again, "starter").fresh == ()
    with pytest.raises(UserError, match="do not fit the variant 'caffe'"):
        AlexNet(weights="starter", include_top=False, variant="caffe")
