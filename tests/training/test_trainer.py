"""The loop of a run from scratch, on a net so small that its steps take milliseconds."""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import signal
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from alexnet_keras import UserError
from alexnet_keras.data import Examples, TrainingParts, published_augmentation
from alexnet_keras.training import PRESETS, History, Plan, Stopped, Trainer, build_optimization
from alexnet_keras.training.plan import Parts
from alexnet_keras.training.step import TrainingStep
from alexnet_keras.viewing import Silent
from alexnet_keras.weights import PREPROCESSING, InputPreprocessing

SIDE, COUNT = 16, 22
PLAN = Plan(
    preset="release",
    epochs=3,
    batch_size=8,
    mixup=0.3,
    label_smoothing=0.1,
    ema=0.9,
    seed=4,
    checkpoint_seconds=1e9,
).resolved()


@pytest.fixture(scope="module", autouse=True)
def quick_views():
    """Views that TensorFlow traces in no time; the real ones have tests of their own."""

    def pixels(encoded, side=SIDE):
        image = tf.io.decode_jpeg(encoded, channels=3)
        return tf.image.resize(image, [side, side])

    def view(encoded, augmentation, image_size, seed):
        return augmentation.recolor(pixels(encoded, image_size), tf.cast(seed, tf.int32))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alexnet_keras.data.stream.augmented_view", view)
        patch.setattr(
            "alexnet_keras.training.measuring.centre_view",
            lambda encoded, *_, **__: pixels(encoded),
        )
        yield


def jpeg(seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 30, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def examples(name, first, count):
    keys = [f"{name}/{i}.jpg" for i in range(count)]
    labels = np.arange(count, dtype=np.int32) % 3
    return Examples(name, ("a", "b", "c"), keys, labels, [jpeg(first + i) for i in range(count)])


@pytest.fixture(scope="module")
def photographs():
    return TrainingParts(examples("t", 0, COUNT), examples("w", 50, 10), examples("v", 80, 11))


def net(any_size=False):
    pixels = keras.Input((SIDE, SIDE, 3))
    x = InputPreprocessing.of(PREPROCESSING["torchvision"])(pixels)
    if any_size:
        x = keras.layers.Conv2D(4, 3, strides=2, name="conv1")(x)
        x = keras.layers.BatchNormalization(name="norm1")(x)
        x = keras.layers.GlobalAveragePooling2D()(x)
    else:
        x = keras.layers.Flatten()(keras.layers.AveragePooling2D(4)(x))
    x = keras.layers.Dropout(0.5)(keras.layers.Dense(12, "relu", name="fc6")(x))
    return keras.Model(pixels, keras.layers.Dense(3, "softmax", name="fc8")(x))


def parts_of(plan, count=COUNT):
    keras.utils.set_random_seed(plan.seed)
    any_size = plan.first_view_size is not None
    model, average = net(any_size), None if plan.ema is None else net(any_size)
    rates = build_optimization(
        PRESETS[plan.preset],
        model.trainable_variables,
        batch_size=plan.batch_size,
        epochs=plan.epochs,
        learning_rate=plan.learning_rate,
        steps_per_epoch=math.ceil(count / plan.batch_size),
    )
    return Parts(model, average, rates, published_augmentation(256 / 224), 5)


def trainer(folder, photographs, plan=PLAN, strategy=None, **more):
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        parts = parts_of(plan, len(photographs.train))
    more = {"display": Silent(), "say": lambda sentence: None, **more}
    return Trainer(plan, parts, photographs, strategy=strategy, folder=folder, **more)


def final(run):
    """All that a run ends with, but what a clock says."""
    weights = [w.numpy().tobytes() for w in run.model.weights + (run.result.weights)]
    optimizer = [v.numpy().tobytes() for v in run._optimization.optimizer.variables]
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in run.rows]
    return weights, optimizer, json.dumps(rows), run.skipped


@pytest.fixture(scope="module")
def whole(photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    with trainer(folder, photographs) as run:
        run.train()
        run.measure()
        return final(run), run, folder


class Interrupting(Silent):
    """Ends a run in the middle, without a word to it, after so many calls."""

    def __init__(self, calls):
        self.calls = calls

    def training(self, *_):
        self.calls -= 1
        if self.calls == 0:
            raise KeyboardInterrupt

    measuring = training


def test_a_whole_run_sees_each_epoch(whole):
    _, run, folder = whole
    assert (run.step, run.steps, run.steps_per_epoch) == (9, 9, 3)
    assert [row["epoch"] for row in run.rows] == [1, 2, 3]
    with open(folder / "history.csv") as file:
        written = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in written] == [row["loss"] for row in run.rows]
    assert all(0 <= row["accuracy"] <= row["top5"] == 1 for row in run.rows)
    assert [*folder.glob("tensorboard/*")]


GROWING = replace(PLAN, first_view_size=8)


@pytest.fixture(scope="module")
def grown(photographs, tmp_path_factory):
    with trainer(tmp_path_factory.mktemp("grown"), photographs, GROWING) as run:
        run.train()
        run.measure()
        return final(run)


def test_views_grow_and_are_measured_at_the_nets_size(photographs, tmp_path, monkeypatch):
    sizes = []
    step = TrainingStep.__call__

    def seen(self, number, batch, stop=False):
        sizes.append((number, batch["images"].shape[1]))
        return step(self, number, batch, stop)

    monkeypatch.setattr(TrainingStep, "__call__", seen)
    with trainer(tmp_path, photographs, GROWING) as run:
        before = [w.numpy() for w in run.model.weights]
        run.train()
        assert run.measure().answers.labels.shape == (11,)
    assert sizes == [(n, 8) for n in range(6)] + [(n, 16) for n in range(6, 9)]
    assert [row["view_size"] for row in run.rows] == [8, 8, 16]
    assert not any(
        np.array_equal(w, b) for w, b in zip(run.model.weights, before, strict=True) if w.trainable
    )


@pytest.mark.parametrize("calls", [2, 6, 9, 12])
def test_interrupted_while_views_grow_it_ends_the_same(calls, grown, photographs, tmp_path):
    plan = replace(GROWING, checkpoint_seconds=1e-9)
    with (
        pytest.raises(KeyboardInterrupt),
        trainer(tmp_path, photographs, plan, display=Interrupting(calls)) as run,
    ):
        run.train()
        run.measure()
    with trainer(tmp_path, photographs, plan) as run:
        run.train()
        run.measure()
    assert final(run) == grown


@pytest.mark.parametrize("calls", [1, 4, 5, 7, 12, 17])
def test_interrupted_anywhere_it_ends_the_same(calls, whole, photographs, tmp_path):
    """Each epoch has three steps and two batches of watched photographs; saved after each."""
    often = Plan(**{**vars(PLAN), "checkpoint_seconds": 1e-9})
    with (
        pytest.raises(KeyboardInterrupt),
        trainer(tmp_path, photographs, often, display=Interrupting(calls)) as run,
    ):
        run.train()
        run.measure()
    said = []
    with trainer(tmp_path, photographs, often, say=said.append) as run:
        assert calls == 1 or said[0].startswith("Going on after step ")
        run.train()
        run.measure()
        assert final(run) == whole[0]


def test_a_signal_saves_and_stops(whole, photographs, tmp_path):
    class Signalling(Silent):
        def training(self, step, *_):
            if step == 4:
                os.kill(os.getpid(), signal.SIGTERM)

    run = trainer(tmp_path, photographs, display=Signalling())
    with run, pytest.raises(Stopped) as stopped:
        run.train()
    assert stopped.value.exit_code == 143
    assert run.step == 5
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with trainer(tmp_path, photographs) as again:
        assert again.step == 5
        again.train()
        assert final(again) == whole[0]


def test_two_devices_train_the_same_net(whole, photographs, tmp_path):
    devices = [device.name for device in tf.config.list_logical_devices("CPU")][:2]
    strategy = tf.distribute.MirroredStrategy(
        devices, cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    # Groups of 8 to be mixed on each of two devices.
    plan = Plan(**{**vars(PLAN), "batch_size": 16})
    results = []
    for number, where in enumerate((None, strategy)):
        with trainer(tmp_path / str(number), photographs, plan, where) as run:
            run.train()
            results.append((run.result.get_weights(), run.measure().answers, run.rows))
    (one, alone, rows), (two, together, other_rows) = results
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_array_equal(alone.predictions, together.predictions)
    assert [r["loss"] for r in rows] == pytest.approx([r["loss"] for r in other_rows], abs=1e-5)


def test_a_run_goes_on_under_another_strategy(whole, photographs, tmp_path):
    plan = Plan(**{**vars(PLAN), "mixup": 0.0})

    class Stopping(Silent):
        def training(self, step, *_):
            if step == 4:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped), trainer(tmp_path, photographs, plan, display=Stopping()) as run:
        run.train()
    strategy = tf.distribute.MirroredStrategy(
        [device.name for device in tf.config.list_logical_devices("CPU")][:2],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )
    with trainer(tmp_path, photographs, plan, strategy) as run:
        run.train()
    with trainer(tmp_path / "alone", photographs, plan) as alone:
        alone.train()
    for a, b in zip(run.result.weights, alone.result.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-5)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good(photographs, tmp_path):
    often = {**vars(PLAN), "checkpoint_seconds": 1e-9, "mixup": 0.0, "learning_rate": 0.01}
    with trainer(tmp_path, photographs, Plan(**often)) as run:

        class Poisoning(Silent):
            def training(self, step, *_):
                if step == 3:
                    run._checkpoints.wait()
                    run.model.weights[0].assign(np.nan * run.model.weights[0])

        run._display = Poisoning()
        with pytest.raises(
            UserError, match=r"no longer finite after step 2, .*t/\d+\.jpg"
        ) as error:
            run.train()
    assert "--learning-rate" in str(error.value)
    # A gentler rate may take over, where that is asked for.
    gentler = Plan(**{**often, "learning_rate": 0.001})
    with pytest.raises(UserError, match="learning_rate=0.01 .* --allow-changes"):
        trainer(tmp_path, photographs, gentler)
    with trainer(tmp_path, photographs, gentler, allow_changes=True) as run:
        assert run.step == 2
        run.train()
        assert np.isfinite(run.rows[-1]["loss"])


def test_a_loss_that_explodes_names_step_and_photographs(photographs, tmp_path):
    plan = Plan(**{**vars(PLAN), "learning_rate": 1e30})
    with (
        pytest.raises(UserError, match=r"loss became (nan|inf) at step \d, on the photographs t/"),
        trainer(tmp_path, photographs, plan) as run,
    ):
        run.train()


def with_bad(photographs, bad):
    train = photographs.train
    contents = [b"torn" if i in bad else train.read(i) for i in range(len(train))]
    damaged = Examples("t", train.class_names, list(train.keys), train.labels, contents)
    return TrainingParts(damaged, photographs.watched, photographs.validation)


def test_unreadable_photographs_are_skipped_and_listed(photographs, tmp_path):
    said = []
    with trainer(tmp_path, with_bad(photographs, {5}), say=said.append) as run:
        run.train()
    assert list(run.skipped) == ["t/5.jpg"]
    assert said == [f"t/5.jpg cannot be used and is skipped: {run.skipped['t/5.jpg']}."]


def test_too_many_unreadable_photographs_stop_the_run(photographs, tmp_path):
    bad = with_bad(photographs, {1, 5})
    with (
        pytest.raises(UserError, match=r"2 of 22 .* cannot be read.*--allow-bad"),
        trainer(tmp_path, bad) as run,
    ):
        run.train()
    with trainer(tmp_path / "all", bad, Plan(**{**vars(PLAN), "allow_bad": True})) as run:
        run.train()
        assert len(run.skipped) == 2


def test_changed_photographs_are_refused(whole, photographs):
    _, _, folder = whole
    changed = with_bad(photographs, {5})
    with pytest.raises(UserError, match="training photographs are not those"):
        trainer(folder, changed)
    # Even where changes are allowed.
    with pytest.raises(UserError, match="training photographs are not those"):
        trainer(folder, changed, allow_changes=True)


def test_a_history_that_cannot_be_written_does_not_stop_the_run(photographs, tmp_path, monkeypatch):
    written, said = History._write_csv, []

    def full(self):
        if len(self.rows) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        written(self)

    monkeypatch.setattr(History, "_write_csv", full)
    with trainer(tmp_path, photographs, say=said.append) as run:
        run.train()
    assert len(said) == 1 and "Epoch 2" in said[0] and "No space left" in said[0]
    with open(tmp_path / "history.csv") as file:
        assert len(list(csv.DictReader(file))) == 3


def test_a_second_run_in_the_same_folder_is_refused(photographs, tmp_path):
    with trainer(tmp_path, photographs), pytest.raises(UserError, match="Another run"):
        trainer(tmp_path, photographs)


def test_a_plateau_needs_something_to_watch(photographs, tmp_path):
    plan = Plan(**{**vars(PLAN), "preset": "paper"})
    unwatched = TrainingParts(photographs.train, None, photographs.validation)
    with pytest.raises(UserError, match="--watch-share"):
        trainer(tmp_path, unwatched, plan)


def test_without_watched_photographs_the_history_has_gaps(photographs, tmp_path):
    unwatched = TrainingParts(photographs.train, None, photographs.validation)
    with trainer(tmp_path, unwatched) as run:
        run.train()
    assert all(math.isnan(row["stop_loss"]) for row in run.rows)
