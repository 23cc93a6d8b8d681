"""Checkpoints as training leaves them, and as strangers make them."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from alexnet_keras.weights.formats.archives import Archive
from alexnet_keras.weights.formats.torch_checkpoint import (
    is_torch_legacy,
    read_torch_legacy,
    read_torch_zip,
)
from alexnet_keras.weights.formats.unreadable import Unreadable
from mutants import mutant

CHANNELS, HIDDEN, CLASSES = (4, 6, 8, 6, 5), 7, 3
FEATURES = {"conv1": 0, "conv2": 3, "conv3": 6, "conv4": 8, "conv5": 10}
CLASSIFIER = {"fc6": 1, "fc7": 4, "fc8": 6}


def read(content):
    tensors, variants = (
        read_torch_legacy(memoryview(content))
        if is_torch_legacy(memoryview(content))
        else read_torch_zip(Archive(memoryview(content)))
    )
    assert variants == ("torchvision",)
    return tensors


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def net(torch):
    from torch_alexnet import TorchAlexNet

    torch.manual_seed(0)
    return TorchAlexNet(CLASSES, CHANNELS, HIDDEN).eval()


def saved(torch, value, **options):
    content = io.BytesIO()
    torch.save(value, content, **options)
    return content.getvalue()


def state_dict(tensors):
    """The arrays that PyTorch would hold, from those that were read: element by element."""
    state = {}
    for layer, number in FEATURES.items():
        kernel = tensors[f"{layer}/kernel"]
        height, width, inputs, outputs = kernel.shape
        weight = np.empty((outputs, inputs, height, width), kernel.dtype)
        for h, w, i, o in np.ndindex(kernel.shape):
            weight[o, i, h, w] = kernel[h, w, i, o]
        state[f"features.{number}.weight"] = weight
        state[f"features.{number}.bias"] = tensors[f"{layer}/bias"]
    for layer, number in CLASSIFIER.items():
        weight = tensors[f"{layer}/kernel"].T
        if layer == "fc6":
            # Input number of channel, height, width, at the place of height, width, channel.
            order = np.arange(CHANNELS[-1] * 36).reshape(CHANNELS[-1], 6, 6)
            weight = weight.copy()
            weight[:, order.transpose(1, 2, 0).ravel()] = tensors["fc6/kernel"].T
        state[f"classifier.{number}.weight"] = weight
        state[f"classifier.{number}.bias"] = tensors[f"{layer}/bias"]
    return state


def assert_same(tensors, expected, dtype=np.float32):
    found = state_dict(tensors)
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == dtype
        np.testing.assert_array_equal(found[name], tensor.detach().float().numpy(), err_msg=name)


def training_checkpoint(torch, net):
    """As PyTorch's ImageNet example saves it, best_acc1 being a tensor there."""
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
    net(torch.zeros(1, 3, 64, 64)).sum().backward()
    optimizer.step()
    return {
        "epoch": 90,
        "arch": "alexnet",
        "best_acc1": torch.tensor(56.5),
        "optimizer": optimizer.state_dict(),
        "scheduler": torch.optim.lr_scheduler.MultiStepLR(optimizer, [30, 60]).state_dict(),
        "mean": np.float64(0.5),
    }


@pytest.mark.reference
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("holder", ["state_dict", "model_state_dict", "model"])
def test_the_state_dict_is_found_in_a_training_checkpoint(torch, net, zipped, holder):
    checkpoint = training_checkpoint(torch, net)
    content = saved(
        torch,
        {**checkpoint, holder: net.state_dict()},
        _use_new_zipfile_serialization=zipped,
    )
    assert_same(read(content), net.state_dict())


@pytest.mark.reference
@pytest.mark.parametrize("wrapper", ["module.{}", "_orig_mod.{}", "features.module"])
def test_wrapped_nets_are_read(torch, net, wrapper):
    # DataParallel around the net, torch.compile, and DataParallel around `features` alone.
    state = OrderedDict(
        (
            wrapper.format(name) if "{" in wrapper else name.replace("features", wrapper),
            torch.nn.Parameter(tensor),
        )
        for name, tensor in net.state_dict().items()
    )
    assert_same(read(saved(torch, {"state_dict": state})), net.state_dict())


@pytest.mark.reference
def test_values_that_are_stored_negated_are_refused(torch, net):
    state = net.state_dict()
    state["features.0.bias"] = torch._neg_view(state["features.0.bias"])
    with pytest.raises(Unreadable, match="negated"):
        read(saved(torch, state))


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def integer(value):
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def integers(*values):
    return b"(" + b"".join(map(integer, values)) + b"t"


def storage(key, count, kind="FloatStorage", more=b""):
    name = f"ctorch\n{kind}\n".encode()
    return b"(" + text("storage") + name + text(key) + text("cpu") + integer(count) + more + b"tQ"


def tensor(where, shape, strides, offset=0):
    arguments = where + integer(offset) + integers(*shape) + integers(*strides) + b"\x89}"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def state(**tensors):
    items = b"".join(text(name.replace("__", ".")) + value for name, value in tensors.items())
    return b"\x80\x02}(" + items + b"u."


def zipped(pickled, storages, **others):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("net/data.pkl", pickled)
        for name, member in others.items():
            archive.writestr(f"net/{name}", member)
        for key, member in storages.items():
            archive.writestr(f"net/data/{key}", member)
    return content.getvalue()


def legacy(pickled, storages, little=True, count=None):
    sizes = {"short": 2, "int": 4, "long": 4}
    system = {"protocol_version": 1001, "little_endian": little, "type_sizes": sizes}
    begin = (0x1950A86A20F9469CFC6C, 1001, system)
    content = b"".join(pickle.dumps(value, 2) for value in begin) + pickled
    content += pickle.dumps(sorted(storages), 2)
    for key in sorted(storages):
        size = len(storages[key]) // 4 if count is None else count
        content += struct.pack("<q", size) + storages[key]
    return content


FOUR = np.arange(4, dtype="<f4")
BIAS = tensor(storage("0", 4), (4,), (1,))
CONTAINERS = pytest.mark.parametrize("contained", [zipped, legacy])


def test_byte_order_is_told_by_the_zip_format_and_always_little_before():
    pickled = state(features__0__bias=BIAS)
    big = zipped(pickled, {"0": FOUR.astype(">f4").tobytes()}, byteorder=b"big")
    np.testing.assert_array_equal(read(big)["conv1/bias"], FOUR)
    # torch/csrc/serialization.cpp turns the bytes round on a big-endian machine.
    old = legacy(pickled, {"0": FOUR.tobytes()}, little=False)
    np.testing.assert_array_equal(read(old)["conv1/bias"], FOUR)


@CONTAINERS
def test_a_checkpoint_that_runs_a_command_is_refused_by_name_and_not_run(contained, tmp_path):
    evidence = tmp_path / "run"
    call = b"cposix\nsystem\n(" + text(f"touch {evidence}") + b"tR"
    pickle.loads(b"\x80\x02" + call + b".")
    assert evidence.exists(), "the attack itself works"
    evidence.unlink()
    for pickled in (state(features__0__bias=call), b"\x80\x02" + call + b"0}."):
        with pytest.raises(Unreadable, match="posix.system"):
            read(contained(pickled, {"0": FOUR.tobytes()}))
    assert not evidence.exists()


IMPOSSIBLE = {
    "beyond the storage": tensor(storage("0", 4), (5,), (1,)),
    "beyond by its offset": tensor(storage("0", 4), (4,), (1,), 1),
    "before the storage": tensor(storage("0", 4), (2,), (1,), -1),
    "backwards": tensor(storage("0", 4), (2,), (-1,), 1),
    "beyond by its strides": tensor(storage("0", 4), (2, 2), (3, 1)),
    "more than is stored": tensor(storage("0", 4), (2**40,), (0,)),
    "a side of 2**62": tensor(storage("0", 4), (2**62,), (1,)),
    "a negative side": tensor(storage("0", 4), (-4,), (1,)),
    "no element": tensor(storage("0", 4), (0,), (1,)),
    "no dimension": tensor(storage("0", 4), (), ()),
    "nine dimensions": tensor(storage("0", 4), (1,) * 9, (1,) * 9),
    "fewer strides than sides": tensor(storage("0", 4), (2, 2), (1,)),
    "a storage larger than its bytes": tensor(storage("0", 10**9), (10**9,), (1,)),
    "a storage smaller than its bytes": tensor(storage("0", 3), (3,), (1,)),
    "a negative storage": tensor(storage("0", -4), (4,), (1,)),
    "a storage that is not there": tensor(storage("1", 4), (4,), (1,)),
    "a storage elsewhere": tensor(storage("../version", 4), (4,), (1,)),
    "integers": tensor(storage("0", 2, "LongStorage"), (2,), (1,)),
    "a storage in a storage": tensor(storage("0", 4, more=integers(0, 0)), (4,), (1,)),
    "no tensor": b"K\x01",
    "no storage": tensor(b"N", (4,), (1,)),
    "no persistent id": tensor(b"NQ", (4,), (1,)),
    "a whole module": tensor(b"(" + text("module") + b"NNNtQ", (4,), (1,)),
    "text nested 2**20 times": tensor(b"(" + text("a") + b"2\x86" * 20 + b"NNNNtQ", (4,), (1,)),
}


@CONTAINERS
def test_two_tensors_that_disagree_about_their_storage_are_refused(contained):
    # Otherwise the second would be a view of whatever memory follows the file.
    for claim in (storage("0", 10**9), storage("0", 10**9, "DoubleStorage")):
        pickled = state(features__0__bias=BIAS, features__3__bias=tensor(claim, (10**9,), (1,)))
        with pytest.raises(Unreadable):
            read(contained(pickled, {"0": FOUR.tobytes()}))


def test_an_archive_without_a_pickle_is_refused():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("conv1.npy", b"")
    with pytest.raises(Unreadable):
        read(content.getvalue())


@CONTAINERS
def test_a_damaged_pickle_in_a_whole_checkpoint_is_read_or_refused(contained):
    # Checksums and lengths are right: the damage arrives.
    pickled = state(
        features__0__weight=tensor(storage("0", 12), (1, 3, 2, 2), (12, 4, 2, 1)),
        features__0__bias=tensor(storage("1", 4), (2,), (2,), 1),
    )
    storages = {"0": bytes(48), "1": bytes(16)}
    outcomes = {"read": 0, "refused": 0}
    for seed in range(400):
        try:
            for found in read(contained(mutant(pickled, seed), storages)).values():
                found.sum()
            outcomes["read"] += 1
        except Unreadable as error:
            assert len(str(error)) < 300
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 10
