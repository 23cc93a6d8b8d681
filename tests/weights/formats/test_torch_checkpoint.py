"""PyTorch's checkpoints, new and old, as `torch.save` writes them, and as an enemy would."""

from __future__ import annotations

import collections
import io
import os
import pickle
import random
import struct
import zipfile

import numpy as np
import pytest

from alexnet_keras import UserError
from alexnet_keras.weights import read_weights
from alexnet_keras.weights.formats import torch_checkpoint

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.reference

LAYERS = {
    "features.0": "conv1",
    "features.3": "conv2",
    "features.6": "conv3",
    "features.8": "conv4",
    "features.10": "conv5",
    "classifier.1": "fc6",
    "classifier.4": "fc7",
    "classifier.6": "fc8",
}
CHANNELS, SIDE = 4, 2
SHAPES = dict(
    zip(
        LAYERS,
        [(4, 3, 5, 5), (6, 4, 3, 3), (6, 6, 1, 2), (4, 6, 2, 1), (CHANNELS, 4, 3, 3)]
        + [(5, CHANNELS * SIDE * SIDE), (5, 5), (3, 5)],
        strict=True,
    )
)


def state_dict(dtype=torch.float32):
    torch.manual_seed(0)
    made = collections.OrderedDict()
    for name, shape in SHAPES.items():
        made[f"{name}.weight"] = torch.randn(shape, dtype=torch.float64).to(dtype)
        made[f"{name}.bias"] = torch.randn(shape[0], dtype=torch.float64).to(dtype)
    return made


@pytest.fixture(params=[False, True], ids=["zip", "legacy"])
def legacy(request):
    return request.param


@pytest.fixture
def save(tmp_path, legacy):
    def to_file(content, name="alexnet.pth"):
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=not legacy)
        return tmp_path / name

    return to_file


def assert_same(stored, state):
    assert set(stored.tensors) == {
        f"{layer}/{variable}" for layer in LAYERS.values() for variable in ("kernel", "bias")
    }
    image = torch.randn(1, CHANNELS, SIDE, SIDE, dtype=torch.float64)
    for name, layer in LAYERS.items():
        weight, kernel = state[f"{name}.weight"].double(), stored.tensors[f"{layer}/kernel"]
        np.testing.assert_array_equal(
            stored.tensors[f"{layer}/bias"], state[f"{name}.bias"].double().numpy()
        )
        if layer == "fc6":
            theirs = torch.nn.functional.linear(image.flatten(1), weight).numpy()
            ours = image.permute(0, 2, 3, 1).reshape(1, -1).numpy() @ kernel.astype("f8")
            np.testing.assert_allclose(ours, theirs, rtol=1e-12)
        else:
            order = (2, 3, 1, 0) if weight.ndim == 4 else (1, 0)
            np.testing.assert_array_equal(kernel, weight.permute(order).numpy())


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_the_tensors_are_what_torch_saved(dtype, save):
    state = state_dict(getattr(torch, dtype))
    stored = read_weights(save(state))
    assert_same(stored, state)
    read_as = "float32" if dtype == "bfloat16" else dtype
    assert {tensor.dtype for tensor in stored.tensors.values()} == {np.dtype(read_as)}
    assert (stored.format, stored.variants) == ("PyTorch checkpoint", ("torchvision",))


@pytest.mark.parametrize(
    "wrap",
    [
        dict,
        lambda state: {"epoch": 3, "best": 0.5, "state_dict": state, "optimizer": {"state": {}}},
        lambda state: {"model": state, "args": None},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        # DataParallel on the convolutions alone, as in Places365's AlexNet.
        lambda state: {
            "state_dict": {
                name.replace("features.", "features.module."): value
                for name, value in state.items()
            }
        },
        lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
        lambda state: {name: torch.nn.Parameter(value) for name, value in state.items()},
    ],
)
def test_a_state_dict_is_found_as_training_scripts_wrap_it(wrap, save):
    state = state_dict()
    assert_same(read_weights(save(wrap(state), "alexnet.pth.tar")), state)


def test_views_of_shared_storages_are_read_by_their_strides(save):
    state = state_dict()
    expected = {name: value.clone() for name, value in state.items()}
    together = torch.zeros(200)
    together[7:56:2][:25] = state["classifier.4.weight"].reshape(-1)
    state["classifier.4.weight"] = together[7:57:2].view(5, 5)
    together[100:105] = state["classifier.4.bias"]
    state["classifier.4.bias"] = together[100:105]
    state["features.0.weight"] = state["features.0.weight"].to(memory_format=torch.channels_last)
    state["classifier.6.weight"] = state["classifier.6.weight"].t().contiguous().t()
    assert_same(read_weights(save(state)), expected)


def test_the_new_formats_tensors_are_views_of_the_file(tmp_path):
    torch.save(state_dict(), tmp_path / "alexnet.pth")
    kernel = read_weights(tmp_path / "alexnet.pth").tensors["conv1/kernel"]
    assert not kernel.flags.owndata and not kernel.flags.writeable


def test_the_suffix_does_not_matter(save):
    assert_same(read_weights(save(state_dict(), "weights.npz")), state_dict())


def test_numbers_of_the_other_byte_order_are_read(tmp_path):
    state, path = state_dict(), tmp_path / "alexnet.pth"
    torch.save(state, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name, content in members.items():
        if "/data/" in name:
            members[name] = np.frombuffer(content, "<f4").astype(">f4").tobytes()
        if name.endswith("byteorder"):
            members[name] = b"big"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert_same(read_weights(path), state)


def changed(**parts):
    state = state_dict()
    for name, value in parts.items():
        name = name.replace("__", ".")
        if value is None:
            del state[name]
        else:
            state[name] = value
    return state


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (torch.zeros(3), "no state_dict"),
        ([state_dict()], "no state_dict"),
        ({"weights": 1}, "no state_dict"),
        (changed(features__1__weight=torch.zeros(3)), "'features.1.weight'"),
        (changed(features__0__running_mean=torch.zeros(3)), "'features.0.running_mean'"),
        (changed(features__0__bias=torch.arange(4)), "'features.0.bias' holds i8, not floats"),
        (changed(features__0__bias=7), "'features.0.bias' is no tensor"),
        (changed(features__0__bias=torch.full((4,), torch.nan)), "conv1/bias .*not finite"),
        (changed(features__0__bias=torch.tensor([0, 0, 0, torch.inf])), "conv1/bias .*not finite"),
        (changed(features__0__weight=torch.zeros(4, 75)), "conv1/kernel .* 4 dimensions"),
        (changed(features__0__bias=torch.zeros(1).expand(4)), "more elements than its storage"),
        (changed(features__0__bias=torch.zeros(())), "the shape"),
        (changed(features__0__bias=torch.zeros(0)), "the shape"),
        (changed(classifier__1__weight=torch.zeros(5, 17)), "fc6 does not fit conv5"),
        (changed(features__10__weight=None), "fc6 without conv5"),
        (changed(module__features__0__bias=torch.zeros(4)), "conv1/bias twice"),
    ],
)
def test_what_is_no_alexnet_of_finite_floats_is_refused(content, words, save):
    with pytest.raises(UserError, match=f"alexnet.pth cannot be read as a PyTorch .*{words}"):
        read_weights(save(content))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_whole_module_is_refused_with_the_way_out(save):
    with pytest.raises(UserError, match=r"whole PyTorch object.*save its state_dict\(\)"):
        read_weights(save(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5))))


def test_a_script_is_refused_with_the_way_out(tmp_path):
    script = torch.jit.script(torch.nn.Linear(2, 2))
    script.save(tmp_path / "alexnet.pth")
    with pytest.raises(UserError, match=r"TorchScript .*save its state_dict\(\)"):
        read_weights(tmp_path / "alexnet.pth")


class Trap:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("where", ["value", "beside", "around"])
def test_what_a_checkpoint_would_run_is_named_and_not_run(where, save, tmp_path, refusal):
    command = f"touch {tmp_path / 'ran'}"
    for trap, name in (
        (Trap(os.system, command), ".system"),
        (Trap(eval, f"__import__('os').system({command!r})"), "eval"),
    ):
        state = state_dict()
        content = {
            "value": state | {"features.0.bias": trap},
            "beside": {"state_dict": state, "optimizer": trap},
            "around": [trap, state],
        }[where]
        said = refusal(save(content))
        assert name in said and "source that you trust" in said
    assert not (tmp_path / "ran").exists()


def storage_id(code="FloatStorage", key="0", count=4):
    return ("storage", getattr(torch, code), key, "cpu", count)


class Writer(pickle.Pickler):
    """Pickles tensors that are no tensors: each is a dictionary of what PyTorch would be told."""

    class Tensor:
        def __init__(self, *, identity=None, **told):
            self.told = {"offset": 0, "size": (4,), "stride": (1,)} | told
            self.identity = identity or storage_id()

    class Storage:
        def __init__(self, identity):
            self.identity = identity

    def persistent_id(self, value):
        return value.identity if isinstance(value, Writer.Storage) else None

    def reducer_override(self, value):
        if not isinstance(value, Writer.Tensor):
            return NotImplemented
        told = value.told
        arguments = (Writer.Storage(value.identity), told["offset"], told["size"], told["stride"])
        return torch._utils._rebuild_tensor_v2, (*arguments, False, collections.OrderedDict())


def pickled(content):
    file = io.BytesIO()
    Writer(file, 2).dump(content)
    return file.getvalue()


def write_zip(path, content, storages, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("archive/data.pkl", content)
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
    return path


def write_legacy(path, content, storages):
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    parts = [pickle.dumps(one, 2) for one in (0x1950A86A20F9469CFC6C, 1001, system)]
    parts += [content, pickle.dumps(list(storages), 2)]
    for data in storages.values():
        parts += [struct.pack("<q", len(data) // 4), data]
    path.write_bytes(b"".join(parts))
    return path


@pytest.fixture
def write(tmp_path, legacy):
    def to_file(content, storages):
        writer = write_legacy if legacy else write_zip
        content = content if isinstance(content, bytes) else pickled(content)
        return writer(tmp_path / "alexnet.pth", content, storages)

    return to_file


BIAS = "features.0.bias"
NUMBERS = np.arange(4, dtype="<f4")


def test_the_writer_below_writes_what_is_read(write):
    stored = read_weights(write({BIAS: Writer.Tensor()}, {"0": NUMBERS.tobytes()}))
    np.testing.assert_array_equal(stored.tensors["conv1/bias"], NUMBERS)


@pytest.mark.parametrize(
    "told",
    [
        {"offset": 1},
        {"offset": 2**62},
        {"offset": -1},
        {"size": (5,)},
        {"size": (2**62,)},
        {"size": (-4,)},
        {"size": (0,)},
        {"size": (2**40,), "stride": (0,)},
        {"size": (2, 2**62), "stride": (0, 0)},
        {"stride": (2,)},
        {"stride": (-1,)},
        {"stride": (2**62,)},
        {"stride": ()},
        {"size": (1,) * 60, "stride": (1,) * 60},
        {"identity": storage_id(count=2**60)},
        {"identity": storage_id(count=-4)},
        {"identity": storage_id(count=3)},
        {"identity": storage_id(count=5)},
        {"identity": storage_id(key="../../secret")},
        {"identity": storage_id("DoubleStorage")},
        {"identity": storage_id("HalfStorage")},
        {"identity": ("storage", "FloatStorage", "0", "cpu", 4)},
        {"identity": ("module", torch.FloatStorage, "0", "cpu", 4)},
        {"identity": ("storage",)},
        {"identity": (*storage_id(), ("view", 0, 4))},
        {"offset": "0"},
        {"offset": 0.0},
        {"offset": True},
        {"size": "4"},
        {"size": ((4,),)},
    ],
    ids=str,
)
def test_a_tensor_that_does_not_fit_its_storage_is_refused(told, write, refusal):
    refusal(write({BIAS: Writer.Tensor(**told)}, {"0": NUMBERS.tobytes()}))


def test_a_storage_that_is_said_to_be_of_two_types_is_not_read_beyond_its_end(write, refusal):
    half = Writer.Tensor(identity=storage_id("HalfStorage", count=8), size=(8,))
    for tensors in ({BIAS: Writer.Tensor(), "features.3.bias": half}, {BIAS: half}):
        path = write(tensors, {"0": NUMBERS.tobytes()})
        try:
            stored = read_weights(path)
        except UserError:
            continue
        # In a zip archive both fit: 16 bytes are four floats or eight halves.
        whole = NUMBERS.view("<f2")
        for tensor in stored.tensors.values():
            assert tensor.tolist() in (NUMBERS.tolist(), whole.tolist())
    long = Writer.Tensor(identity=storage_id(count=10**6), size=(10**6,))
    refusal(write({BIAS: Writer.Tensor(), "features.3.bias": long}, {"0": NUMBERS.tobytes()}))


STORAGE = b"ctorch\nFloatStorage\nU\x010U\3cpuK\4"
# Two to the sixtieth brackets as text, a few hundred bytes in a pickle.
endless = []
for _ in range(60):
    endless = [endless, endless]
ENDLESS = pickle.dumps(endless, 1)[:-1]

HOSTILE_PICKLES = {
    "a tuple as a key": b"\x80\x02}" + b"(" * 10_000 + b"t" * 10_000 + b"Ns.",
    "an index of gigabytes": b"\x80\x02}r\xff\xff\xff\x7f.",
    "bytes of an exabyte": b"\x80\x04\x8e" + (2**60).to_bytes(8, "little") + b".",
    "a call of a call": b"\x80\x02cos\nsystem\ncos\nsystem\n\x85R.",
    "nothing": b"",
    "text": b"this is no pickle",
    "a table's function with other arguments": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
    "a tensor of a string": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(U\1aK\0))NNtR.",
    "a kind of storage that has no end as text": b"\x80\x02(" + ENDLESS + STORAGE + b"tQ.",
    "one shape of thousands for thousands": b"\x80\x02((U\7storage"
    + STORAGE
    + b"tQq\0("
    + b"K\1" * 50_000
    + b"lq\1(h\0K\0h\1h\1NNtq\2ctorch._utils\n_rebuild_tensor_v2\nq\3"
    + b"h\3h\2R" * 50_000
    + b"t.",
    "thousands of arguments for thousands": b"\x80\x02(("
    + b"K\1" * 50_000
    + b"tq\2ctorch._utils\n_rebuild_parameter\nq\3"
    + b"h\3h\2R" * 50_000
    + b"t.",
    "a tensor alone": b"\x80\x02ctorch._utils\n_rebuild_parameter\nN\x85R.",
}


@pytest.mark.parametrize("what", HOSTILE_PICKLES)
def test_a_hostile_pickle_is_refused(what, write, refusal):
    refusal(write(HOSTILE_PICKLES[what], {"0": NUMBERS.tobytes()}))


def test_a_bomb_in_a_checkpoint_is_refused(tmp_path, refusal):
    count = 100 << 20
    tensor = Writer.Tensor(identity=storage_id(count=count), size=(count,))
    path = write_zip(
        tmp_path / "alexnet.pth",
        pickled({BIAS: tensor}),
        {"0": bytes(4 * count)},
        compression=zipfile.ZIP_DEFLATED,
    )
    assert path.stat().st_size < 1 << 20
    assert "unpack" in refusal(path)


def test_a_checkpoint_that_is_cut_anywhere_is_refused(save, tmp_path):
    data = save(state_dict()).read_bytes()
    ends = [*range(0, 200), len(data) - 1, *random.Random(0).sample(range(200, len(data)), 150)]
    for end in ends:
        (tmp_path / "cut.pth").write_bytes(data[:end])
        with pytest.raises(UserError, match="cut.pth cannot be read"):
            read_weights(tmp_path / "cut.pth")


def test_a_flipped_bit_of_a_storage_is_noticed(tmp_path):
    torch.save(state_dict(), tmp_path / "alexnet.pth")
    data = bytearray((tmp_path / "alexnet.pth").read_bytes())
    value = state_dict()["features.3.weight"].numpy().tobytes()
    data[data.find(value) + 5] ^= 1
    (tmp_path / "alexnet.pth").write_bytes(data)
    with pytest.raises(UserError, match="checksum"):
        read_weights(tmp_path / "alexnet.pth")


def test_an_old_checkpoint_of_an_unknown_version_is_refused(tmp_path):
    content = pickled({BIAS: Writer.Tensor()})
    path = write_legacy(tmp_path / "alexnet.pth", content, {"0": NUMBERS.tobytes()})
    path.write_bytes(path.read_bytes().replace(struct.pack("<H", 1001), struct.pack("<H", 1002)))
    with pytest.raises(UserError, match="unknown version"):
        read_weights(path)
    path = write_legacy(tmp_path / "alexnet.pth", content, {"1": NUMBERS.tobytes()})
    with pytest.raises(UserError, match="storages of no tensor"):
        read_weights(path)
    path = write_legacy(tmp_path / "alexnet.pth", content, {})
    with pytest.raises(UserError, match="'0' is missing"):
        read_weights(path)


def test_the_table_of_names_calls_nothing_of_others():
    for name, value in torch_checkpoint._NAMES.items():
        assert name.startswith(("torch.", "collections.", "numpy."))
        if callable(value):
            assert value.__module__ == torch_checkpoint.__name__
