from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from alexnet_keras import UserError
from alexnet_keras.data import AUGMENTATIONS, CentreView, Examples, RandomView
from alexnet_keras.training import computing_in
from alexnet_keras.transfer import FeatureCache
from alexnet_keras.transfer import trunk_outputs as module
from alexnet_keras.transfer.trunk_outputs import TrunkOutputs, trunk_fingerprint

CENTRE = CentreView(256 / 224)
RANDOM = [RandomView(AUGMENTATIONS["inception"](), number) for number in range(3)]


def photographs(folder, count=9):
    """Files of noise, each another."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(file, "PNG")
        path = folder / f"{number}.png"
        path.write_bytes(file.getvalue())
        paths.append(path)
    labels = np.arange(count) % 2
    return Examples("noise", ("a", "b"), [path.name for path in paths], labels, paths)


def trunk(size=32, seed=0, stride=2):
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((size, size, 3), name="image")
    x = keras.layers.Rescaling(1 / 255, name="preprocessing")(pixels)
    x = keras.layers.Conv2D(4, 3, stride, activation="relu", name="conv1")(x)
    x = keras.layers.GlobalAveragePooling2D(name="average")(x)
    return keras.Model(pixels, x, name="trunk")


def rows_of(outputs, examples, views):
    found = outputs.rows([(examples, view) for view in views])
    return np.array(found, np.int64).reshape(-1, len(examples))


def outputs_of(net, examples, views, cache, batch_size=4):
    with TrunkOutputs(net, cache, batch_size) as outputs:
        rows = rows_of(outputs, examples, views)
        return np.array([outputs.read(some) for some in rows]), rows


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(tmp_path / "cache")


@pytest.fixture
def examples(tmp_path):
    return photographs(tmp_path)


def test_they_are_what_the_trunk_gives_to_half_precision(examples, cache):
    net = trunk()
    stored, rows = outputs_of(net, examples, [CENTRE, *RANDOM], cache)
    assert rows.shape == (4, 9) and len(set(rows.ravel())) == 36
    images = np.array([CENTRE(tf.constant(c), None, 32) for c in examples.contents])
    np.testing.assert_allclose(stored[0], net(images), rtol=2**-11, atol=2**-24)
    assert all(np.abs(a - b).max() > 0.01 for a, b in pairwise(stored))


def test_what_is_there_is_not_computed_again(examples, cache, monkeypatch):
    first, _ = outputs_of(trunk(), examples, RANDOM, cache)
    monkeypatch.setattr("alexnet_keras.transfer.trunk_outputs.fixed_views", None)
    again, _ = outputs_of(trunk(), examples.select([3, 1]), RANDOM, cache)
    np.testing.assert_array_equal(again, first[:, [3, 1]])


def prefix(net):
    """The trunk up to its convolution."""
    return keras.Model(net.input, net.get_layer("conv1").output, name="prefix")


def test_outputs_of_a_prefix_are_stored_on_the_way(examples, cache, monkeypatch):
    net = trunk()
    with TrunkOutputs(net, cache, 4, [prefix(net), net]) as outputs:
        rows = rows_of(outputs, examples, RANDOM)
        stored = outputs.read(rows[0])
    assert sorted(entry.outputs for entry in cache.sets()) == [27, 27]
    monkeypatch.setattr("alexnet_keras.transfer.trunk_outputs.fixed_views", None)
    before, _ = outputs_of(prefix(net), examples, RANDOM, cache)
    np.testing.assert_allclose(before[0].mean((1, 2)), stored, rtol=2e-3, atol=1e-4)


def test_a_prefix_goes_without_where_there_is_room_for_the_trunk_alone(examples, tmp_path):
    net = trunk()
    roomy = FeatureCache(tmp_path / "cache")
    with TrunkOutputs(net, roomy, 4, [prefix(net)]) as outputs:
        # The trunk's outputs take 2 kB, the prefix's 50.
        tight = FeatureCache(tmp_path / "cache", sum(e.size for e in roomy.sets()) + 20_000)
        outputs._cache = tight
        assert rows_of(outputs, examples, RANDOM).shape == (3, 9)
    assert sorted(entry.outputs for entry in tight.sets()) == [0, 27]


def test_outputs_computed_in_16_bits_are_a_set_of_their_own(examples, cache):
    net = trunk()
    exact, _ = outputs_of(net, examples, [CENTRE], cache)
    with computing_in("bfloat16", net):
        rounded, _ = outputs_of(net, examples, [CENTRE], cache)
    again, _ = outputs_of(net, examples, [CENTRE], cache)
    np.testing.assert_array_equal(again, exact)
    assert 0 < np.abs(rounded - exact).max() < 0.02 * np.abs(exact).max()
    assert [(entry.description, entry.outputs) for entry in cache.sets()] == [
        ("average of trunk at 32 px", 9)
    ] * 2


@pytest.mark.parametrize("seed, stride, size", [(1, 2, 32), (0, 3, 32), (0, 2, 24)])
def test_another_trunk_shares_nothing(examples, cache, seed, stride, size):
    outputs_of(trunk(), examples, [CENTRE], cache)
    other = trunk(size, seed, stride)
    stored, _ = outputs_of(other, examples, [CENTRE], cache)
    images = np.array([CENTRE(tf.constant(c), None, size) for c in examples.contents])
    np.testing.assert_allclose(stored[0], other(images), rtol=2**-11, atol=2**-24)
    assert [entry.outputs for entry in cache.sets()] == [9, 9]


def test_one_changed_weight_makes_another_trunk_and_a_second_copy_does_not():
    net = trunk()
    assert trunk_fingerprint(trunk()) == trunk_fingerprint(net)
    kernel = net.get_layer("conv1").kernel
    values = kernel.numpy()
    values.flat[5] = np.nextafter(values.flat[5], 1)
    kernel.assign(values)
    assert trunk_fingerprint(trunk()) != trunk_fingerprint(net)


def test_a_photograph_that_changes_is_computed_anew_and_a_moved_one_is_not(
    examples, cache, tmp_path
):
    before, _ = outputs_of(trunk(), examples, [CENTRE], cache)
    first, second = tmp_path / "0.png", tmp_path / "1.png"
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    after, _ = outputs_of(trunk(), examples, [CENTRE], cache)
    np.testing.assert_array_equal(after[0, [1, 0]], before[0, [0, 1]])
    np.testing.assert_array_equal(after[0, 2:], before[0, 2:])
    (only,) = cache.sets()
    assert only.outputs == 9
    Image.new("RGB", (40, 40)).save(first)
    after, _ = outputs_of(trunk(), examples, [CENTRE], cache)
    assert np.abs(after[0, 0] - before[0, 0]).max() > 0.01


def test_a_photograph_that_changes_meanwhile_is_told(examples, cache, tmp_path, monkeypatch):
    real = TrunkOutputs._compute

    def compute(self, *given):
        Image.new("RGB", (40, 40)).save(tmp_path / "7.png")
        return real(self, *given)

    monkeypatch.setattr(TrunkOutputs, "_compute", compute)
    with pytest.raises(UserError, match=r"7\.png changed while it was read; start again"):
        outputs_of(trunk(), examples, [CENTRE], cache)


def test_two_photographs_of_the_same_bytes_share_an_output(cache, examples):
    twice = examples.select([0, 1, 0, 0])
    _, rows = outputs_of(trunk(), twice, [CENTRE], cache)
    assert len(set(rows[0])) == 2 and rows[0, 0] == rows[0, 2] == rows[0, 3]


def test_short_room_means_fewer_views(examples, tmp_path):
    net = trunk()
    roomy = FeatureCache(tmp_path / "roomy")
    outputs_of(net, examples, RANDOM[:1], roomy)
    outputs_of(net, examples, RANDOM[:2], roomy)
    (entry,) = roomy.sets()
    tight = FeatureCache(tmp_path / "roomy", most_bytes=entry.size + 10)
    _, rows = outputs_of(net, examples, RANDOM, tight)
    assert rows.shape == (2, 9)
    _, rows = outputs_of(net, examples, RANDOM, FeatureCache(tmp_path / "none", most_bytes=0))
    assert rows.shape == (0, 9)


def test_a_disk_that_fills_on_the_way_leaves_the_whole_views(examples, cache, monkeypatch):
    from alexnet_keras.transfer.feature_cache import FeatureSet

    real, added = FeatureSet.add, []

    def add(self, keys, outputs):
        if len(added) == 4:  # batches of four, nine to a view: the second view lacks two
            raise OSError("outputs cannot be stored (database or disk is full)")
        added.append(len(keys))
        real(self, keys, outputs)

    monkeypatch.setattr(FeatureSet, "add", add)
    stored, rows = outputs_of(trunk(), examples, RANDOM, cache)
    assert rows.shape == (1, 9)
    monkeypatch.undo()
    again, _ = outputs_of(trunk(), examples, RANDOM, cache)
    np.testing.assert_array_equal(again[0], stored[0])


def test_parts_of_a_set_are_asked_for_together_and_the_first_goes_first(cache, examples, tmp_path):
    one, other = examples.select([0, 1, 2]), examples.select([3, 4, 5, 6])
    with TrunkOutputs(trunk(), cache, 4) as outputs:
        found = outputs.rows([(one, CENTRE), (other, CENTRE), (other, RANDOM[0])])
        stored = [outputs.read(rows) for rows in found]
    expected, _ = outputs_of(trunk(), examples, [CENTRE, RANDOM[0]], FeatureCache(tmp_path / "own"))
    for given, wanted in zip(
        stored, [expected[0, :3], expected[0, 3:7], expected[1, 3:7]], strict=True
    ):
        np.testing.assert_array_equal(given, wanted)
    (only,) = cache.sets()
    assert only.outputs == 11


WORKER = """
import json, sys, time
from pathlib import Path
import keras
import numpy as np
from alexnet_keras.data import AUGMENTATIONS, Examples, RandomView
from alexnet_keras.transfer import FeatureCache
from alexnet_keras.transfer.trunk_outputs import TrunkOutputs, in_half

folder, name = Path(sys.argv[1]), sys.argv[2]
paths = sorted(folder.glob("*.png"))
labels = np.zeros(len(paths), int)
examples = Examples("noise", ("a", "b"), [path.name for path in paths], labels, paths)
trunk = keras.models.load_model(folder / "trunk.keras")
run, computed = in_half(trunk), []

def slow(images):
    computed.append(len(images))
    (folder / f"{name}.began").touch()
    while len(list(folder.glob("*.began"))) < 2:  # then each is at a batch of its own
        time.sleep(0.01)
    time.sleep(0.05)
    return run(images)

with TrunkOutputs(trunk, FeatureCache(folder / "cache"), 4, run=slow) as outputs:
    views = [RandomView(AUGMENTATIONS["inception"](), number) for number in range(3)]
    bar = keras.utils.Progbar(120, verbose=0)
    rows = outputs.rows([(examples, view) for view in views], bar)
print(json.dumps([sum(computed), bar._seen_so_far, np.array(rows).min().item()]))
"""


def test_two_processes_that_need_the_same_compute_half_of_it_each(tmp_path):
    photographs(tmp_path, 40)
    trunk().save(tmp_path / "trunk.keras")
    both = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path), name], stdout=subprocess.PIPE, text=True
        )
        for name in ("one", "other")
    ]
    computed, told, rows = np.array(
        [json.loads(process.communicate(timeout=240)[0]) for process in both]
    ).T
    assert computed.sum() == 120 and computed.min() >= 20
    assert (told == 120).all() and (rows >= 0).all()


class TestWhatAnotherProcessIsAt:
    @pytest.fixture
    def keys(self, examples):
        """Of the first five photographs."""
        digests = examples.contents.digests()[:5]
        return [module._key(CENTRE, digest.tobytes()) for digest in digests]

    @pytest.fixture
    def other(self, cache, keys, claimer):
        """A process that is to compute the first five, and does not."""
        cache.folder.mkdir()
        return claimer(cache.folder / f"{trunk_fingerprint(trunk())}.claims", keys)

    @pytest.fixture
    def asked(self, examples, cache):
        """What comes of asking for all, in a thread."""
        with ThreadPoolExecutor(1) as pool:
            yield pool.submit(outputs_of, trunk(), examples, [CENTRE], cache)

    def stored(self, cache):
        return sum(entry.outputs for entry in cache.sets())

    def wait_for_ours(self, cache):
        for _ in range(1200):
            if self.stored(cache) == 4:
                return
            time.sleep(0.1)
        raise AssertionError(f"{self.stored(cache)} stored, not 4")

    def test_is_left_to_it(self, examples, cache, keys, other, asked):
        self.wait_for_ours(cache)
        time.sleep(0.3)
        assert not asked.done()
        with cache.open(trunk_fingerprint(trunk()), (4,), "") as theirs:
            theirs.add(keys, np.zeros((5, 4)))
        stored, rows = asked.result(120)
        assert (stored[0, :5] == 0).all() and (stored[0, 5:] != 0).any(axis=1).all()
        assert rows.min() >= 0

    def test_is_taken_over_where_it_is_gone(self, examples, cache, keys, other, asked, tmp_path):
        self.wait_for_ours(cache)
        other.kill()
        stored, _ = asked.result(120)
        expected, _ = outputs_of(trunk(), examples, [CENTRE], FeatureCache(tmp_path / "own"))
        np.testing.assert_array_equal(stored, expected)

    def test_is_taken_over_where_nothing_comes_of_it(
        self, examples, cache, keys, other, monkeypatch, tmp_path
    ):
        monkeypatch.setattr(module, "PATIENCE", 0.3)
        stored, _ = outputs_of(trunk(), examples, [CENTRE], cache)
        assert other.poll() is None
        expected, _ = outputs_of(trunk(), examples, [CENTRE], FeatureCache(tmp_path / "own"))
        np.testing.assert_array_equal(stored, expected)


def test_batches_give_each_example_once_an_epoch_in_one_of_its_views(examples, cache):
    each = replace(examples, labels=np.arange(9), class_names=tuple("abcdefghi"))
    with TrunkOutputs(trunk(), cache, 4) as outputs:
        rows = rows_of(outputs, examples, RANDOM)
        stored = np.array([outputs.read(some) for some in rows]).astype(np.float32)
        seen = set()
        for features, target in outputs.batches(rows, each, 3, seed=1).take(30):
            for feature, example in zip(features.numpy(), target.numpy().argmax(1), strict=True):
                (view,) = [v for v in range(3) if np.array_equal(stored[v, example], feature)]
                seen.add((int(example), view))
        assert len(seen) == 27  # 30 steps are ten epochs
        epoch = [t.numpy().argmax(1) for _, t in outputs.batches(rows, each, 3, seed=1).take(3)]
        assert sorted(np.concatenate(epoch)) == list(range(9))
        whole, partly = (
            next(iter(outputs.batches(rows, each, 3, 1, **some)))[0].numpy()
            for some in ({}, {"part": slice(1, 3)})
        )
        np.testing.assert_array_equal(partly, whole[:, 1:3])
        ordered = list(outputs.in_order(rows[0], each, 4))
        np.testing.assert_array_equal(np.concatenate([f for f, _ in ordered]), stored[0])
        np.testing.assert_array_equal(np.concatenate([t for _, t in ordered]), np.eye(9))
