"""ONNX models as the `onnx` package and PyTorch write them, read by what their graph does."""

from __future__ import annotations

import tracemalloc
import warnings
from pathlib import Path
from random import Random

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from alexnet_keras import UserError
from alexnet_keras.weights.formats import onnx_model, read_weights
from mutants import mutant
from weight_files import as_channels_last, caffe_blobs, write_zoo_graph

CAFFE_LRN = {"size": 5, "alpha": 1e-4, "beta": 0.75, "bias": 1.0}
CHANNELS, SIDE = (4, 6, 6, 4, 4), 2
SHAPES = {
    "conv1": (4, 3, 3, 3),
    "conv2": (6, 4, 3, 3),
    "conv3": (6, 6, 1, 3),
    "conv4": (4, 6, 3, 1),
    "conv5": (4, 4, 2, 3),
    "fc6": (5, 4 * SIDE * SIDE),
    "fc7": (5, 5),
    "fc8": (3, 5),
}


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        name: (
            rng.normal(size=shape).astype(np.float32),
            rng.normal(size=shape[0]).astype(np.float32),
        )
        for name, shape in SHAPES.items()
    }


class Graph:
    """A model built node by node along a chain."""

    def __init__(self):
        self.nodes, self.initializers, self.at = [], [], "pixels"

    def constant(self, array, name):
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, operator, *inputs, **attributes):
        output = f"value{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(operator, list(inputs) or [self.at], [output], **attributes)
        )
        return output

    def then(self, operator, *more, **attributes):
        self.at = self.add(operator, self.at, *more, **attributes)
        return self

    def model(self):
        pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, None)
        answer = helper.make_tensor_value_info(self.at, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "net", [pixels], [answer], self.initializers)
        return helper.make_model(graph)


#: steps of a net by name, which a test may replace by its own
def steps(arrays):
    def conv(name):
        weights, bias = arrays[name]
        return lambda graph: graph.then(
            "Conv", graph.constant(weights, f"w_{name}"), graph.constant(bias, f"b_{name}")
        ).then("Relu")

    def dense(name):
        weights, bias = arrays[name]
        return lambda graph: graph.then(
            "Gemm",
            graph.constant(weights, f"w_{name}"),
            graph.constant(bias, f"b_{name}"),
            transB=1,
        )

    def pool(graph):
        return graph.then("MaxPool", kernel_shape=[3, 3], strides=[2, 2])

    net = {"conv1": conv("conv1"), "pool1": pool, "conv2": conv("conv2"), "pool2": pool}
    net |= {name: conv(name) for name in ("conv3", "conv4", "conv5")}
    net |= {"pool5": pool, "flat": lambda graph: graph.then("Flatten")}
    net |= {name: dense(name) for name in ("fc6", "fc7", "fc8")}
    return net | {"scores": lambda graph: graph.then("Softmax")}


def build(net):
    graph = Graph()
    for step in net.values():
        step(graph)
    return graph.model()


def read(tmp_path, model, name="net.onnx"):
    path = tmp_path / name
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return read_weights(path)


def assert_same(stored, arrays, rtol=0.0):
    assert set(stored.tensors) == {f"{x}/{v}" for x in arrays for v in ("kernel", "bias")}
    for name, (weights, bias) in arrays.items():
        kernel = np.asarray(stored.tensors[f"{name}/kernel"], np.float64)
        np.testing.assert_allclose(stored.tensors[f"{name}/bias"], bias, rtol=rtol)
        if name == "fc6":
            # What a dense layer gives for one image, flattened by either library.
            image = np.random.default_rng(1).normal(size=(CHANNELS[-1], SIDE, SIDE))
            theirs = weights.astype(np.float64) @ image.ravel()
            ours = image.transpose(1, 2, 0).ravel() @ kernel
            np.testing.assert_allclose(ours, theirs, rtol=rtol or 1e-12, atol=rtol)
        elif weights.ndim == 4:
            expected = np.zeros(kernel.shape)
            for o, i, y, x in np.ndindex(weights.shape):
                expected[y, x, i, o] = weights[o, i, y, x]
            np.testing.assert_allclose(kernel, expected, rtol=rtol)
        else:
            np.testing.assert_allclose(kernel, weights.T, rtol=rtol)


def with_raw_data_as(model, kind):
    """The model with its weights stored in another of ONNX's ways."""
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if kind in (TensorProto.FLOAT, TensorProto.DOUBLE):
            new = helper.make_tensor(tensor.name, kind, array.shape, array.ravel().tolist())
        else:
            dtype = helper.tensor_dtype_to_np_dtype(kind)
            new = numpy_helper.from_array(array.astype(dtype), tensor.name)
            assert new.HasField("raw_data")
        tensor.CopyFrom(new)
    return model


@pytest.mark.parametrize("variant", ["caffe", "caffenet"])
def test_the_model_zoos_graph_gives_its_tensors_and_its_variant(variant, tmp_path):
    blobs = caffe_blobs(0.03, 5)
    write_zoo_graph(tmp_path / "net.onnx", blobs, variant)
    stored = read_weights(tmp_path / "net.onnx")
    assert stored.variants == (variant,)
    expected = as_channels_last(blobs)
    assert set(stored.tensors) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(stored.tensors[name], array)


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("folded", [True, False])
def test_an_export_by_pytorch_gives_what_its_modules_hold(folded, tmp_path):
    torch = pytest.importorskip("torch")
    from torch_alexnet import TorchAlexNet

    torch.manual_seed(0)
    net = TorchAlexNet(classes=3, channels=(4, 6, 6, 4, 4), hidden=8).eval()
    path = tmp_path / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (torch.zeros(1, 3, 224, 224),),
            path,
            dynamo=False,
            do_constant_folding=folded,
            dynamic_axes={"pixels": {0: "batch"}},
            input_names=["pixels"],
        )
    stored = read_weights(path)
    assert stored.variants == ("torchvision",)
    convolutions = [layer for layer in net.features if isinstance(layer, torch.nn.Conv2d)]
    for number, layer in enumerate(convolutions, start=1):
        weights = layer.weight.detach().permute(2, 3, 1, 0).numpy()
        np.testing.assert_array_equal(stored.tensors[f"conv{number}/kernel"], weights)
        np.testing.assert_array_equal(stored.tensors[f"conv{number}/bias"], layer.bias.detach())
    pool5 = torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        expected = net.classifier(pool5.flatten(1)).numpy()
    x = pool5.permute(0, 2, 3, 1).reshape(2, -1).numpy()
    for name in ("fc6", "fc7", "fc8"):
        x = x @ stored.tensors[f"{name}/kernel"] + stored.tensors[f"{name}/bias"]
        x = np.maximum(x, 0) if name != "fc8" else x
    np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "read_as", "rtol"),
    [
        (TensorProto.FLOAT, np.float32, 0.0),
        (TensorProto.DOUBLE, np.float64, 0.0),
        (TensorProto.FLOAT16, np.float16, 2.0**-10),
        (TensorProto.BFLOAT16, np.float32, 2.0**-7),
    ],
)
def test_weights_may_be_stored_in_each_of_onnxs_floats(kind, read_as, rtol, arrays, tmp_path):
    stored = read(tmp_path, with_raw_data_as(build(steps(arrays)), kind))
    assert_same(stored, arrays, rtol)
    assert stored.tensors["conv1/kernel"].dtype == read_as


def test_weights_may_be_constant_nodes(arrays, tmp_path):
    model = build(steps(arrays))
    nodes = [
        helper.make_node("Constant", [], [tensor.name], value=tensor)
        for tensor in model.graph.initializer
    ]
    nodes += model.graph.node
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend(nodes)
    assert_same(read(tmp_path, model), arrays)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_dense_layer_may_be_a_product_and_a_sum(swapped, transposed, arrays, tmp_path):
    net = steps(arrays)

    def product_and_sum(graph, name):
        weights, bias = arrays[name]
        kernel = graph.constant(weights if transposed else weights.T, f"w_{name}")
        if transposed:
            kernel = graph.add("Transpose", kernel, perm=[1, 0])
        graph.then("MatMul", kernel)
        bias = graph.constant(bias, f"b_{name}")
        graph.at = graph.add("Add", *((bias, graph.at) if swapped else (graph.at, bias)))

    for name in ("fc6", "fc7", "fc8"):
        net[name] = lambda graph, name=name: product_and_sum(graph, name)
    assert_same(read(tmp_path, build(net)), arrays)


def test_a_gemm_may_hold_its_kernel_as_in_out(arrays, tmp_path):
    net = steps(arrays)
    weights, bias = arrays["fc7"]
    net["fc7"] = lambda graph: graph.then(
        "Gemm", graph.constant(weights.T, "w"), graph.constant(bias[None], "b")
    )
    assert_same(read(tmp_path, build(net)), arrays)


def test_the_flattening_may_compute_its_shape(arrays, tmp_path):
    net = steps(arrays)

    def flat(graph):
        batch = graph.add("Gather", graph.add("Shape"), graph.constant(np.int64(0), "zero"))
        batch = graph.add("Unsqueeze", batch, graph.constant(np.array([0]), "axes"))
        shape = graph.add("Concat", batch, graph.constant(np.array([16]), "rest"), axis=0)
        graph.then("Reshape", shape).then("Dropout")

    net["flat"] = flat
    assert_same(read(tmp_path, build(net)), arrays)


def test_a_value_may_pass_through_an_identity(arrays, tmp_path):
    net = steps(arrays)
    weights, bias = arrays["conv3"]

    def conv3(graph):
        kernel = graph.add("Identity", graph.constant(weights, "w"))
        graph.then("Identity").then("Conv", kernel, graph.constant(bias, "b")).then("Relu")

    net["conv3"] = conv3
    assert_same(read(tmp_path, build(net)), arrays)


@pytest.mark.parametrize("top", [(), ("fc6",), ("fc6", "fc7")])
def test_a_trunk_may_come_without_all_of_its_top(top, arrays, tmp_path):
    left_out = {"fc6", "fc7", "fc8", "scores"} - set(top)
    net = {name: step for name, step in steps(arrays).items() if name not in left_out}
    kept = {name: both for name, both in arrays.items() if name not in left_out}
    assert_same(read(tmp_path, build(net)), kept)


def variants_of(order, arrays, tmp_path, group=1, lrn=CAFFE_LRN):
    """What a net says of itself that has these operations behind conv1 and conv2."""
    net = steps(arrays)
    kinds = {
        "norm": lambda graph: graph.then("LRN", **lrn),
        "pool": net["pool1"],
        "average": lambda graph: graph.then("AveragePool", kernel_shape=[3, 3], strides=[2, 2]),
    }

    def conv(graph, name):
        weights, bias = arrays[name]
        count = group if name in ("conv2", "conv4", "conv5") else 1
        kernel = graph.constant(weights[:, : weights.shape[1] // count], f"w_{name}")
        graph.then("Conv", kernel, graph.constant(bias, f"b_{name}"), group=count).then("Relu")

    for number in (1, 2):

        def block(graph):
            for kind in order:
                kinds[kind](graph)

        net[f"pool{number}"] = block
    for name in ("conv1", "conv2", "conv3", "conv4", "conv5"):
        net[name] = lambda graph, name=name: conv(graph, name)
    return read(tmp_path, build(net)).variants


@pytest.mark.parametrize(
    ("order", "group", "variants"),
    [
        (("norm", "pool"), 2, ("caffe",)),
        (("pool", "norm"), 2, ("caffenet",)),
        (("pool",), 1, ("torchvision",)),
        (("norm", "pool"), 1, ()),
        (("pool", "norm"), 1, ()),
        (("pool",), 2, ()),
        ((), 1, ()),
        (("norm", "norm", "pool"), 2, ()),
    ],
)
def test_the_order_of_norm_and_pool_and_the_groups_tell_the_variant(
    order, group, variants, arrays, tmp_path
):
    assert variants_of(order, arrays, tmp_path, group) == variants


@pytest.mark.parametrize("lrn", [{"size": 3}, {"alpha": 2e-5}, {"beta": 0.5}, {"bias": 2.0}])
def test_a_normalization_of_other_constants_is_no_published_net(lrn, arrays, tmp_path):
    assert variants_of(("norm", "pool"), arrays, tmp_path, 2, CAFFE_LRN | lrn) == ()


def test_pools_that_average_are_no_alexnets(arrays, tmp_path):
    with pytest.raises(UserError, match="AveragePool"):
        variants_of(("average",), arrays, tmp_path)


@pytest.mark.parametrize(
    "operator",
    [
        "Sigmoid",
        "Transpose",  # such as channels-last graphs have: fc6 would be in another order
        "GlobalAveragePool",
        "BatchNormalization",
        "If",
        "/bin/sh",
    ],
)
def test_an_operation_that_alexnet_has_not_is_refused_by_name(operator, arrays, tmp_path):
    net = {}
    for name, step in steps(arrays).items():
        net[name] = step
        if name == "pool5":
            net["more"] = lambda graph: graph.then(operator)
    with pytest.raises(UserError, match=operator):
        read(tmp_path, build(net))


def test_preprocessing_inside_the_graph_is_refused(arrays, tmp_path):
    net = {"mean": lambda graph: graph.then("Sub", graph.constant(np.ones(3, np.float32), "mean"))}
    with pytest.raises(UserError, match="Sub"):
        read(tmp_path, build(net | steps(arrays)))


def test_a_sum_with_an_earlier_value_is_refused(arrays, tmp_path):
    net = steps(arrays)
    kept = []
    net["pool2"] = lambda graph: kept.append(graph.then("MaxPool", kernel_shape=[3, 3]).at)
    net["pool5"] = lambda graph: graph.then("Add", kept[0])
    with pytest.raises(UserError, match="Add"):
        read(tmp_path, build(net))


@pytest.mark.parametrize("attribute", [{"alpha": 0.5}, {"beta": 2.0}, {"transA": 1}])
def test_a_gemm_that_scales_or_transposes_its_input_is_refused(attribute, arrays, tmp_path):
    net = steps(arrays)
    weights, bias = arrays["fc7"]
    net["fc7"] = lambda graph: graph.then(
        "Gemm", graph.constant(weights, "w"), graph.constant(bias, "b"), transB=1, **attribute
    )
    with pytest.raises(UserError):
        read(tmp_path, build(net))


def test_a_convolution_whose_kernel_is_computed_is_refused(arrays, tmp_path):
    net = steps(arrays)
    weights, bias = arrays["conv5"]

    def conv5(graph):
        kernel = graph.add("Transpose", graph.constant(weights, "w"), perm=[0, 1, 3, 2])
        graph.then("Conv", kernel, graph.constant(bias, "b")).then("Relu")

    net["conv5"] = conv5
    with pytest.raises(UserError, match="conv5"):
        read(tmp_path, build(net))


@pytest.mark.parametrize("operator", ["DequantizeLinear", "QLinearConv", "QLinearMatMul"])
def test_a_quantized_model_is_refused_with_the_way_out(operator, arrays, tmp_path):
    net = steps(arrays)
    net["pool2"] = lambda graph: graph.then(operator)
    with pytest.raises(UserError, match="quantized.*float"):
        read(tmp_path, build(net))


def test_weights_in_a_second_file_are_asked_for_in_one(arrays, tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(
        build(steps(arrays)), path, save_as_external_data=True, location="data", size_threshold=0
    )
    with pytest.raises(UserError, match="one file"):
        read_weights(path)


def test_a_graph_without_its_weights_is_refused():
    sample = Path(onnx.__file__).parent / "backend/test/data/light/light_bvlc_alexnet.onnx"
    with pytest.raises(UserError, match="conv1.*not in the file"):
        read_weights(sample)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_tensor_that_is_not_finite_is_named(value, arrays, tmp_path):
    arrays["fc7"][1][2] = value
    with pytest.raises(UserError, match="fc7/bias"):
        read(tmp_path, build(steps(arrays)))


@pytest.mark.parametrize("kind", [TensorProto.INT8, TensorProto.STRING, TensorProto.UNDEFINED, 99])
def test_weights_that_are_no_floats_are_refused(kind, arrays, tmp_path):
    model = build(steps(arrays))
    model.graph.initializer[0].data_type = kind
    with pytest.raises(UserError, match="conv1/kernel"):
        read(tmp_path, model)


@pytest.mark.parametrize(
    "dims",
    [
        (2**62, 3, 3, 3),
        (-4, -3, 3, 3),
        (2**32, 2**32, 1, 1),
        (0, 3, 3, 3),
        (4, 3, 3, 2),
        (4, 27),
        (1,) * 60,
        (),
    ],
)
def test_absurd_shapes_are_refused_by_name_and_nothing_is_allocated(dims, arrays, tmp_path):
    model = build(steps(arrays))
    model.graph.initializer[0].dims[:] = dims
    data = model.SerializeToString()
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="conv1/kernel"):
            read(tmp_path, data)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.BFLOAT16])
def test_a_single_number_in_place_of_a_tensor_is_refused(kind, arrays, tmp_path):
    for place in range(4):
        model = build(steps(arrays))
        number = numpy_helper.from_array(np.array(1, helper.tensor_dtype_to_np_dtype(kind)))
        number.name = model.graph.initializer[place].name
        assert not number.dims
        model.graph.initializer[place].CopyFrom(number)
        with pytest.raises(UserError, match="conv[12]/"):
            read(tmp_path, model)


def test_weights_that_layers_share_are_unpacked_once(arrays, tmp_path):
    # bfloat16 doubles as float32: a small file could ask for it again and again.
    net = steps(arrays)
    weights, bias = arrays["conv5"]

    def conv4(graph):
        graph.then("Conv", graph.constant(weights, "w_conv5"), graph.constant(bias, "b_conv5"))
        del graph.initializers[-2:]
        graph.then("Relu")

    net["conv4"] = conv4
    stored = read(tmp_path, with_raw_data_as(build(net), TensorProto.BFLOAT16))
    assert np.shares_memory(stored.tensors["conv4/kernel"], stored.tensors["conv5/kernel"])


def test_a_name_of_megabytes_is_refused_before_it_is_text(arrays, tmp_path):
    model = build(steps(arrays))
    model.graph.node[3].output[0] = "x" * (20 << 20)
    data = model.SerializeToString()
    path = tmp_path / "net.onnx"
    path.write_bytes(data)
    del data, model
    tracemalloc.start()
    try:
        with pytest.raises(UserError):
            read_weights(path)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


def test_thousands_of_nodes_cost_no_more_than_their_reading(arrays, tmp_path, reads_of):
    net = steps(arrays)

    def many(graph):
        for _ in range(1000):
            graph.then("Identity")
        # Each of these looks back at the one before it.
        name = graph.constant(np.float32(1), "one")
        for _ in range(1000):
            name = graph.add("Identity", name)

    net["pool5"] = many
    data = build(net).SerializeToString()
    reads = reads_of(onnx_model._Node, "inputs")
    assert_same(read(tmp_path, data), arrays)
    assert 2000 < len(reads) < 10 * 2000


def test_a_file_that_is_cut_anywhere_is_refused_or_lacks_its_end(arrays, tmp_path):
    data = build(steps(arrays)).SerializeToString()
    rng = np.random.default_rng(0)
    for end in [0, 1, *rng.integers(1, len(data) - 20, 150)]:
        with pytest.raises(UserError) as refusal:
            read(tmp_path, data[:end])
        assert len(str(refusal.value)) < 1000


def changed(model, rng):
    """`model` with one to three of its nodes, names or tensors changed, but still well-formed."""
    graph = model.graph
    for _ in range(rng.choice((1, 2, 3))):
        node, tensor = rng.choice(graph.node), rng.choice(graph.initializer)
        kind = rng.randrange(8)
        if kind == 0:
            node.op_type = rng.choice(("Conv", "Gemm", "MatMul", "Add", "LRN", "Transpose", ""))
        elif kind == 1:
            del node.input[rng.randrange(3) :]
        elif kind == 2:
            del node.output[:]
        elif kind == 3:
            node.input.insert(0, rng.choice((tensor.name, "pixels", "", *node.output)))
        elif kind == 4:
            sides = rng.randrange(6)
            tensor.dims[:] = [rng.choice((0, 1, -1, 3, 2**62)) for _ in range(sides)]
            tensor.raw_data = tensor.raw_data[: rng.choice((0, 1, 4, len(tensor.raw_data)))]
        elif kind == 5:
            tensor.data_type = rng.randrange(20)
        elif kind == 6:
            tensor.ClearField(rng.choice(("raw_data", "name", "dims", "data_type")))
        else:
            graph.node.insert(rng.randrange(len(graph.node)), node)
    return model


def test_models_changed_in_any_part_are_read_or_refused_and_nothing_else(arrays, tmp_path):
    content = build(steps(arrays)).SerializeToString()
    outcomes = set()
    for seed in range(400):
        try:
            read(tmp_path, changed(onnx.ModelProto.FromString(content), Random(seed)))
            outcomes.add("read")
        except UserError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_mutants_are_read_or_refused_and_nothing_else(arrays, tmp_path):
    content = build(steps(arrays)).SerializeToString()
    outcomes = set()
    for seed in range(400):
        try:
            read(tmp_path, mutant(content, seed))
            outcomes.add("read")
        except UserError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
