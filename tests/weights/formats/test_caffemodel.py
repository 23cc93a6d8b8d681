"""Caffe's files, of 2014 and later, by the field numbers of src/caffe/proto/caffe.proto."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import wire
from alexnet_keras import UserError
from alexnet_keras.weights.formats import caffemodel, read_weights
from mutants import mutant

CHANNELS, SIDE = (4, 6, 6, 4, 4), 2
# (out, in / group, height, width), and (out, in) behind them
SHAPES = {
    "conv1": (4, 3, 3, 3),
    "conv2": (6, 2, 3, 3),
    "conv3": (6, 6, 1, 2),
    "conv4": (4, 3, 3, 1),
    "conv5": (4, 2, 2, 3),
    "fc6": (5, 4 * SIDE * SIDE),
    "fc7": (5, 5),
    "fc8": (3, 5),
}
CAFFE = ("conv1", "norm", "pool", "conv2", "norm", "pool", "conv3", "conv4", "conv5", "pool")
CAFFENET = ("conv1", "pool", "norm", "conv2", "pool", "norm", "conv3", "conv4", "conv5", "pool")
TOP = ("fc6", "fc7", "fc8")
KINDS = {"conv": "Convolution", "norm": "LRN", "pool": "Pooling", "fc": "InnerProduct"}
NUMBERS = {"Convolution": 4, "InnerProduct": 14, "LRN": 15, "Pooling": 17, "ReLU": 18, "Data": 5}
# local_size, alpha, beta as in BVLC's prototxts; k is 1 where it is not said
LRN = wire.integer(1, 5) + wire.real(2, 1e-4) + wire.real(3, 0.75)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        name: (rng.normal(size=shape).astype("<f4"), rng.normal(size=shape[0]).astype("<f4"))
        for name, shape in SHAPES.items()
    }


def blob(array):
    """As Caffe writes it today: packed floats and a shape."""
    return wire.content(5, array.tobytes()) + wire.content(7, wire.integers(1, array.shape))


def blob_of_2014(array):
    """num, channels, height, width, ones in front."""
    sides = (1,) * (4 - array.ndim) + array.shape
    dims = b"".join(wire.integer(number, side) for number, side in enumerate(sides, start=1))
    return dims + wire.content(5, array.tobytes())


def layer(name, kind, bottom, top, blobs=(), parameters=b""):
    texts = ((1, name), (2, kind), (3, bottom), (4, top))
    return wire.content(
        100,
        *(wire.content(number, text) for number, text in texts),
        *(wire.content(7, one) for one in blobs),
        parameters,
    )


def layer_of_2014(name, kind, bottom, top, blobs=(), parameters=b""):
    return wire.content(
        2,
        wire.content(2, bottom),
        wire.content(3, top),
        wire.content(4, name),
        wire.integer(5, NUMBERS[kind]),
        *(wire.content(6, one) for one in blobs),
        parameters,
    )


def net(arrays, order=CAFFE + TOP, layer=layer, blob=blob, lrn=LRN, prefix="", extra=()):
    """A NetParameter; `extra` are whole layers in front of the last one."""
    layers, bottom = [layer("data", "Data", "nothing", "data")], "data"
    for number, step in enumerate(order):
        kind = KINDS[step.rstrip("12345678")]
        name = step if step in arrays else f"{step}{number}"
        blobs = [blob(array) for array in arrays.get(step, ())]
        number_of_lrn = 118 if layer is not layer_of_2014 else 18
        parameters = wire.content(number_of_lrn, lrn) if kind == "LRN" and lrn else b""
        layers.append(layer(prefix + name, kind, bottom, name, blobs, parameters))
        bottom = name
        if kind == "Convolution":
            layers.append(layer(f"relu{number}", "ReLU", name, name))
    return wire.content(1, "net") + b"".join([*layers[:-1], *extra, layers[-1]])


def read(tmp_path, data, name="net.caffemodel"):
    path = tmp_path / name
    path.write_bytes(data)
    return read_weights(path)


def assert_same(stored, arrays):
    assert set(stored.tensors) == {f"{x}/{v}" for x in arrays for v in ("kernel", "bias")}
    for name, (weights, bias) in arrays.items():
        kernel = stored.tensors[f"{name}/kernel"]
        np.testing.assert_array_equal(stored.tensors[f"{name}/bias"], bias)
        if name == "fc6":
            # What a dense layer gives for one image, flattened by either library.
            image = np.random.default_rng(1).normal(size=(CHANNELS[-1], SIDE, SIDE))
            theirs = weights.astype(np.float64) @ image.ravel()
            ours = image.transpose(1, 2, 0).ravel() @ kernel
            np.testing.assert_allclose(ours, theirs, rtol=1e-12)
        elif weights.ndim == 4:
            assert kernel.shape == (*weights.shape[2:], weights.shape[1], weights.shape[0])
            for o, i, y, x in np.ndindex(weights.shape):
                assert kernel[y, x, i, o] == weights[o, i, y, x]
        else:
            np.testing.assert_array_equal(kernel, weights.T)


@pytest.mark.parametrize("blob", [blob, blob_of_2014])
@pytest.mark.parametrize("layer", [layer, layer_of_2014])
def test_a_file_of_any_year_holds_the_same_tensors(layer, blob, arrays, tmp_path):
    stored = read(tmp_path, net(arrays, layer=layer, blob=blob))
    assert_same(stored, arrays)
    assert stored.variants == ("caffe",)


def test_numbers_may_have_a_field_each_or_64_bits(arrays, tmp_path):
    def single(array):
        data = b"".join(wire.real(5, float(value)) for value in array.ravel())
        sides = b"".join(wire.integer(1, side) for side in array.shape)
        return data + wire.content(7, sides)

    def double(array):
        data = array.astype("<f8").tobytes()
        return wire.content(8, data) + wire.content(7, wire.integers(1, array.shape))

    assert_same(read(tmp_path, net(arrays, blob=single)), arrays)
    stored = read(tmp_path, net(arrays, blob=double))
    assert_same(stored, arrays)
    assert stored.tensors["conv1/kernel"].dtype == np.float64


def test_gradients_beside_the_weights_are_not_taken_for_them(arrays, tmp_path):
    def with_diff(array):
        return wire.content(6, (array * 2).tobytes()) + blob(array)

    assert_same(read(tmp_path, net(arrays, blob=with_diff)), arrays)


@pytest.mark.parametrize("layer", [layer, layer_of_2014])
@pytest.mark.parametrize(
    ("order", "variants"),
    [
        (CAFFE, ("caffe",)),
        (CAFFENET, ("caffenet",)),
        (tuple(name for name in CAFFE if name[:4] == "conv"), ("caffe", "caffenet")),
        # A net of neither order, such as one trained without normalization.
        (tuple(name for name in CAFFE if name != "norm"), ()),
        (CAFFE[:3] + CAFFENET[3:], ()),
    ],
)
def test_the_order_of_norm_and_pool_tells_the_variant(order, variants, layer, arrays, tmp_path):
    assert read(tmp_path, net(arrays, order + TOP, layer)).variants == variants


@pytest.mark.parametrize(
    "lrn",
    [
        wire.integer(1, 3) + LRN[2:],
        LRN + wire.real(5, 2.0),
        LRN + wire.integer(4, 1),  # WITHIN_CHANNEL
    ],
    ids=["size", "k", "region"],
)
def test_a_normalization_of_other_constants_is_no_published_net(lrn, arrays, tmp_path):
    assert read(tmp_path, net(arrays, lrn=LRN + wire.real(5, 1.0))).variants == ("caffe",)
    assert read(tmp_path, net(arrays, lrn=lrn)).variants == ()


@pytest.mark.parametrize("layer", [layer, layer_of_2014])
def test_a_pool_that_averages_is_no_published_net(layer, arrays, tmp_path):
    # PoolingParameter: method 1 is AVE; 0, MAX, need not be written.
    number = 121 if layer is not layer_of_2014 else 19

    def pooling(method):
        def written(name, kind, bottom, top, blobs=(), parameters=b""):
            if kind == "Pooling":
                parameters = wire.content(number, wire.integer(1, method), wire.integer(2, 3))
            return layer(name, kind, bottom, top, blobs, parameters)

        return written

    assert read(tmp_path, net(arrays, layer=pooling(0), lrn=b"")).variants == ("caffe",)
    assert read(tmp_path, net(arrays, layer=pooling(1), lrn=b"")).variants == ()


def test_layers_are_known_by_their_place_whatever_their_names(arrays, tmp_path):
    assert_same(read(tmp_path, net(arrays, prefix="my_")), arrays)


def test_the_name_of_the_file_does_not_matter(arrays, tmp_path):
    stored = read(tmp_path, net(arrays), "weights.pth")
    assert_same(stored, arrays)
    assert stored.format == "Caffe model"


@pytest.mark.parametrize("top", [(), ("fc6",), ("fc6", "fc7")])
def test_a_trunk_may_come_without_all_of_its_top(top, arrays, tmp_path):
    kept = {name: both for name, both in arrays.items() if name[:4] == "conv" or name in top}
    assert_same(read(tmp_path, net(kept, CAFFE + top)), kept)


def test_an_inner_product_that_is_stored_transposed_is_read_as_it_is_used(arrays, tmp_path):
    # InnerProductParameter.transpose: the blob is (in, out). fc7 is square: only this tells.
    weights, bias = arrays["fc7"]
    data = net(arrays, CAFFE + ("fc6",))
    transposed = [blob(np.ascontiguousarray(weights.T)), blob(bias)]
    data += layer("fc7", "InnerProduct", "fc6", "fc7", transposed, wire.content(117, b"\x30\x01"))
    data += layer("fc8", "InnerProduct", "fc7", "fc8", map(blob, arrays["fc8"]))
    assert_same(read(tmp_path, data), arrays)


@pytest.mark.parametrize("kind", ["BatchNorm", "Scale", "PReLU", "Deconvolution"])
def test_a_layer_with_weights_that_alexnet_has_not_is_refused(kind, arrays, tmp_path):
    extra = layer("more", kind, "fc7", "fc7", [blob(arrays["fc7"][1])])
    with pytest.raises(UserError, match=kind):
        read(tmp_path, net(arrays, extra=[extra]))


@pytest.mark.parametrize(
    ("order", "counts"),
    [
        (CAFFE + ("conv5",) + TOP, "6 convolutions"),
        (CAFFE[:7] + TOP, "3 convolutions"),
        (CAFFE + TOP + ("fc8",), "4 inner products"),
    ],
)
def test_a_net_with_other_counts_of_layers_is_refused(order, counts, arrays, tmp_path):
    with pytest.raises(UserError, match=counts):
        read(tmp_path, net(arrays, order))


def test_a_net_that_is_only_described_is_refused(arrays, tmp_path):
    with pytest.raises(UserError, match="0 convolutions"):
        read(tmp_path, net({name: () for name in arrays}))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_tensor_that_is_not_finite_is_named(value, arrays, tmp_path):
    arrays["fc7"][1][2] = value
    with pytest.raises(UserError, match="fc7/bias"):
        read(tmp_path, net(arrays))


@pytest.mark.parametrize(
    "dims",
    [
        (2**62, 4, 3, 3),
        (-4, -3, 3, 3),
        (2**32, 2**32, 1, 1),
        (0, 3, 3, 3),
        (4, 3, 3, 2),
        (4, 3, 3),
        (4, 3, 3, 3, 1),
        (1,) * 60,
        (),
    ],
)
def test_absurd_shapes_are_refused_by_name_and_nothing_is_allocated(dims, arrays, tmp_path):
    def lying(array):
        if array is not arrays["conv1"][0]:
            return blob(array)
        return wire.content(5, array.tobytes()) + wire.content(7, wire.integers(1, dims))

    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="conv1"):
            read(tmp_path, net(arrays, blob=lying))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kept", [b"", b"shape"])
def test_a_blob_without_data_is_refused(kept, arrays, tmp_path):
    def empty(array):
        return wire.content(7, wire.integers(1, array.shape)) if kept else b""

    with pytest.raises(UserError, match="conv1"):
        read(tmp_path, net(arrays, blob=empty))


def test_inputs_of_fc6_that_are_no_square_of_conv5s_channels_are_refused(arrays, tmp_path):
    arrays["fc6"] = (arrays["fc6"][0][:, :-1], arrays["fc6"][1])
    with pytest.raises(UserError, match="fc6"):
        read(tmp_path, net(arrays))


def test_a_file_that_is_cut_anywhere_is_refused_or_lacks_whole_layers(arrays, tmp_path):
    data = net(arrays)
    rng = np.random.default_rng(0)
    for end in [0, 1, len(data) - 1, *rng.integers(1, len(data), 150)]:
        try:
            stored = read(tmp_path, data[:end])
        except UserError as error:
            assert len(str(error)) < 1000
            continue
        assert "fc8/kernel" not in stored.tensors


def test_thousands_of_layers_cost_no_more_than_their_reading(arrays, tmp_path, reads_of):
    # Were each convolution to look at every layer behind it, this would take minutes.
    reads = reads_of(caffemodel._Layer, "inputs")
    idle = layer("idle", "Convolution", "nothing", "idle") * 2000
    assert_same(read(tmp_path, net(arrays, extra=[idle])), arrays)
    assert 2000 < len(reads) < 3 * 2000


def test_mutants_are_read_or_refused_and_nothing_else(arrays, tmp_path):
    contents = [net(arrays), net(arrays, layer=layer_of_2014, blob=blob_of_2014)]
    outcomes = set()
    for seed in range(400):
        try:
            read(tmp_path, mutant(contents[seed % 2], seed))
            outcomes.add("read")
        except UserError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
