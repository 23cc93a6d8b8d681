from __future__ import annotations

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from alexnet_keras.data import Examples, pipeline
from alexnet_keras.data.stream import Share, training_stream
from alexnet_keras.training.classic_sgd import ClassicSGD
from alexnet_keras.training.plan import Plan, set_up
from alexnet_keras.training.step import SUMS, TrainingStep, rank_of_truth

CLASSES, BATCH, SHAPE = 7, 8, (2, 2, 3)
ONE = tf.distribute.get_strategy()


@pytest.fixture(scope="module")
def two():
    """Two virtual CPUs."""
    return tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )


def batch_of(seed=0, unread=(), filled=()):
    """As `training_stream` yields them, with mixed labels."""
    rng = np.random.default_rng(seed)
    truths = rng.integers(0, CLASSES, BATCH)
    others, share = rng.integers(0, CLASSES, BATCH), rng.uniform(0.5, 1, (BATCH, 1))
    weights = np.ones(BATCH)
    weights[[*unread, *filled]] = 0
    return {
        "images": rng.uniform(0, 1, (BATCH, *SHAPE)).astype(np.float32),
        "labels": (share * np.eye(CLASSES)[truths] + (1 - share) * np.eye(CLASSES)[others]).astype(
            np.float32
        ),
        "truths": truths.astype(np.int32),
        "weights": weights.astype(np.float32),
        "rows": np.arange(BATCH, dtype=np.int32),
        "examples": np.arange(BATCH, dtype=np.int64),
        "unreadable": np.isin(np.arange(BATCH), unread),
    }


def shared_out(batch, strategy):
    """The batch as a strategy's data set would hand it to the step."""
    rows = BATCH // strategy.num_replicas_in_sync

    def of_replica(name):
        return lambda context: tf.constant(
            batch[name][context.replica_id_in_sync_group * rows :][:rows]
        )

    if strategy.num_replicas_in_sync == 1:
        return {name: tf.constant(value) for name, value in batch.items()}
    return {
        name: strategy.experimental_distribute_values_from_function(of_replica(name))
        for name in batch
    }


def linear(scale=1.0):
    """Softmax regression: its gradient is a line of NumPy."""
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Flatten(),
            keras.layers.Dense(CLASSES, "softmax"),
        ]
    )
    rng = np.random.default_rng(5)
    model.set_weights([scale * rng.normal(size=v.shape) for v in model.weights])
    return model


class Run:
    """A step of a linear model, made in the scope of a strategy."""

    def __init__(self, strategy=ONE, optimizer=None, scale=1.0, average=False, **options):
        with strategy.scope():
            self.model = linear(scale)
            self.average = linear(0.0) if average else None
            self.optimizer = (optimizer or (lambda _: keras.optimizers.SGD(1.0)))(self.model)
            self.optimizer.build(self.model.trainable_variables)
        self.strategy = strategy
        self.step = TrainingStep(
            self.model,
            self.optimizer,
            strategy,
            batch_size=BATCH,
            seed=0,
            average=self.average,
            **options,
        )

    def __call__(self, batch, number=0, **options):
        found = self.step(number, shared_out(batch, self.strategy), **options)
        return {name: float(value) for name, value in found.items()}

    @property
    def weights(self):
        return [w.astype(np.float64) for w in self.model.get_weights()]


def by_numpy(weights, batch, smoothing=0.0):
    """Probabilities, cross-entropies and the gradient of their mean, in float64."""
    kernel, bias = weights
    x = batch["images"].astype(np.float64).reshape(BATCH, -1)
    logits = x @ kernel + bias
    logits -= logits.max(1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    labels = batch["labels"] * (1 - smoothing) + smoothing / CLASSES
    losses = -(labels * logs).sum(1)
    upstream = (np.exp(logs) - labels) * batch["weights"][:, None]
    upstream /= max(batch["weights"].sum(), 1)
    return np.exp(logs), losses, [x.T @ upstream, upstream.sum(0)]


def norm(gradient):
    return np.sqrt(sum((g**2).sum() for g in gradient))


@pytest.fixture(scope="module")
def plain():
    return Run(label_smoothing=0.1)


def test_sums_are_numpys_over_what_can_be_read(plain):
    batch = batch_of(1, unread=[2], filled=[6, 7])
    probabilities, losses, _ = by_numpy(plain.weights, batch, 0.1)
    predicted = plain.model.predict(batch["images"], verbose=0)
    found = plain(batch)
    seen = batch["weights"] > 0
    ranks = np.argsort(np.argsort(-predicted, axis=1), axis=1)[np.arange(BATCH), batch["truths"]]
    assert set(found) == set(SUMS)
    assert found["loss"] == pytest.approx(losses[seen].sum(), rel=1e-5)
    assert found["top1"] == (ranks[seen] < 1).sum()
    assert found["top5"] == (ranks[seen] < 5).sum()
    assert (found["examples"], found["unreadable"], found["stop"]) == (5, 1, 0)
    np.testing.assert_allclose(predicted, probabilities, rtol=1e-5)


def test_the_update_follows_the_mean_over_what_can_be_read(plain):
    batch = batch_of(2, unread=[1, 4], filled=[7])
    before = plain.weights
    _, _, gradient = by_numpy(before, batch, 0.1)
    plain(batch)
    for was, now, expected in zip(before, plain.weights, gradient, strict=True):
        np.testing.assert_allclose(was - now, expected, atol=2e-6)


def test_extreme_logits_have_the_gradients_that_they_should():
    # A softmax of 0 for the true class in float32; its logarithm would be cut off.
    run, batch = Run(scale=300.0), batch_of(3)
    probabilities, losses, gradient = by_numpy(run.weights, batch)
    assert (probabilities.astype(np.float32) == 0).any() and losses.max() > 200
    before = run.weights
    found = run(batch)
    assert found["loss"] == pytest.approx(losses.sum(), rel=1e-5)
    for was, now, expected in zip(before, run.weights, gradient, strict=True):
        assert np.isfinite(now).all()
        np.testing.assert_allclose(was - now, expected, atol=2e-4)  # beside weights of 300


@pytest.mark.parametrize("share", [0.5, 2.0])
@pytest.mark.parametrize("devices", [1, 2])
def test_gradients_are_cut_to_the_norm_of_the_whole(share, devices, request):
    strategy = ONE if devices == 1 else request.getfixturevalue("two")
    batch = batch_of(4, unread=[0])
    _, _, gradient = by_numpy([w.astype(np.float64) for w in linear().get_weights()], batch)
    run = Run(strategy, clip_norm=share * norm(gradient))
    before = run.weights
    run(batch)
    for was, now, expected in zip(before, run.weights, gradient, strict=True):
        np.testing.assert_allclose(was - now, min(share, 1) * expected, atol=2e-6)


def test_the_average_follows_its_recursion():
    run = Run(average=True, decay=0.3)
    expected = [w.astype(np.float64) for w in run.average.get_weights()]
    for step in range(6):
        run(batch_of(step), step)
        decay = min(0.3, (1 + step) / (10 + step))  # .1, .18, .25, then .3
        expected = [
            decay * average + (1 - decay) * weight
            for average, weight in zip(expected, run.weights, strict=True)
        ]
    for given, wanted in zip(run.average.get_weights(), expected, strict=True):
        np.testing.assert_allclose(given, wanted, atol=1e-6)
    assert np.abs(run.average.get_weights()[0] - run.weights[0]).max() > 1e-3


def test_a_batch_that_cannot_be_read_leaves_only_momentum_and_decay():
    def classic(model):
        numbers = {v.path: number for number, v in enumerate(model.trainable_variables)}
        return ClassicSGD(numbers, [0.1, 0.2], [0.05, 0.0], momentum=0.9)

    run = Run(optimizer=classic)
    before = run.weights
    run(batch_of(6))
    velocities = [now - was for was, now in zip(before, run.weights, strict=True)]
    before = run.weights
    found = run(batch_of(7, unread=range(BATCH)), 1)
    assert found == {**dict.fromkeys(SUMS, 0.0), "unreadable": BATCH}
    for was, now, velocity, decay in zip(before, run.weights, velocities, (0.005, 0), strict=True):
        np.testing.assert_allclose(now - was, 0.9 * velocity - decay * was, atol=1e-6)


def test_a_request_to_stop_comes_back_from_all(plain, two):
    assert plain(batch_of(), stop=True)["stop"] == 1
    assert plain(batch_of())["stop"] == 0
    run = Run(two)
    assert run(batch_of(), stop=True)["stop"] > 0
    assert run(batch_of())["stop"] == 0


def test_a_gradient_that_overflows_on_one_device_is_used_on_none(two):
    def scaling(_):
        return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale=1e37)

    run, batch = Run(two, scaling), batch_of(1)
    before = run.weights
    batch["images"][-1] = 1000.0  # 1e37 times that is none, on the second device only
    assert np.isfinite(run(batch)["loss"])
    for was, now in zip(before, run.weights, strict=True):
        np.testing.assert_array_equal(now, was)
    ordinary = batch_of(2)
    run(ordinary, 1)
    _, _, gradient = by_numpy(before, ordinary)
    for was, now, expected in zip(before, run.weights, gradient, strict=True):
        np.testing.assert_allclose(was - now, expected, atol=2e-6)


def test_a_true_class_as_probable_as_another_is_behind_it():
    probabilities = tf.constant(
        [[0.5, 0.3, 0.2], [0.4, 0.4, 0.2], [0.2, 0.3, 0.5], [np.nan, np.nan, np.nan]]
    )
    for rank in (rank_of_truth, tf.function(rank_of_truth)):
        # What is no number is no answer.
        np.testing.assert_array_equal(rank(probabilities, tf.constant([0, 1, 0, 0])), [1, 2, 3, 3])


# With everything on, from photographs to weights.

SIDE, COUNT, GLOBAL, BAD = 64, 27, 16, 5  # an epoch is two steps, the second with 5 rows filled up
EVERYTHING = {
    "normalization": "batch",
    "width": 0.05,
    "image_size": SIDE,
    "batch_size": GLOBAL,
    "mixup": 0.2,
    "cutmix": 1.0,
    "label_smoothing": 0.1,
    "clip_norm": 1.0,
    "ema": 0.9,
    "seed": 3,
}
PLANS = {
    "paper": Plan(preset="paper", **EVERYTHING),
    "adamw": Plan(variant="alexnet", optimizer="adamw", epochs=18, **EVERYTHING),
}


@pytest.fixture(scope="module")
def simple_decoding():
    """Decoding has tests of its own, and takes seconds to trace for each stream."""

    def decode_window(content, window, size):
        image = tf.io.decode_png(content, channels=3)
        top, left, height, width = tf.unstack(window(tf.shape(image)[0], tf.shape(image)[1]))
        return tf.image.resize(image[top : top + height, left : left + width], [size, size])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "decode_window", decode_window)
        yield


def photographs():
    rng = np.random.default_rng(0)
    contents = []
    for number in range(COUNT):
        file = io.BytesIO()
        pixels = rng.integers(0, 255, (70 + number, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, "PNG")
        contents.append(file.getvalue())
    contents[BAD] = b"no image"
    labels = rng.integers(0, 3, COUNT)
    return Examples("some", tuple("abc"), list(map(str, range(COUNT))), labels, contents)


def train(plan, strategy, steps=4):
    """All weights, those of the average and sums after some steps."""
    examples = photographs()
    keras.utils.set_random_seed(1)
    with strategy.scope():
        parts = set_up(plan, 3, COUNT)
        for average, weight in zip(parts.average.weights, parts.model.weights, strict=True):
            average.assign(weight)
    step = TrainingStep(
        parts.model,
        parts.optimization.optimizer,
        strategy,
        batch_size=GLOBAL,
        seed=plan.seed,
        label_smoothing=plan.label_smoothing,
        clip_norm=plan.clip_norm,
        average=parts.average,
        decay=plan.ema,
    )
    batches = strategy.distribute_datasets_from_function(
        lambda context: training_stream(
            examples,
            parts.augmentation,
            image_size=SIDE,
            share=Share.of(context, GLOBAL),
            seed=plan.seed,
            mixing=plan.mixing,
        )
    )
    sums = []
    for number, batch in zip(range(steps), batches, strict=False):
        parts.optimization.set_rates(number)
        sums.append({name: float(value) for name, value in step(number, batch).items()})
    assert step._compiled.experimental_get_tracing_count() == 1
    return parts.model.get_weights(), parts.average.get_weights(), sums


@pytest.fixture(scope="module", params=PLANS)
def on_one(request, simple_decoding):
    """A plan, and what comes of it on one device."""
    plan = PLANS[request.param].resolved()
    return plan, train(plan, ONE)


def worst(ours, theirs):
    return max(np.abs(a - b).max() for a, b in zip(ours, theirs, strict=True))


def test_two_devices_equal_one_with_everything_on(on_one, two):
    plan, (weights, average, sums) = on_one
    weights_of_two, average_of_two, sums_of_two = train(plan, two)
    assert worst(weights, weights_of_two) < 1e-5
    assert worst(average, average_of_two) < 1e-5
    for ours, theirs in zip(sums, sums_of_two, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-4)
    # Had nothing been learnt, that were easy.
    assert worst(weights, average) > 1e-3
    assert [sum(each["examples"] for each in sums[i : i + 2]) for i in (0, 2)] == [COUNT - 1] * 2
    assert [sum(each["unreadable"] for each in sums[i : i + 2]) for i in (0, 2)] == [1, 1]
