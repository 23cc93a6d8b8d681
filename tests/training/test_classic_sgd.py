from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from alexnet_keras.alexnet import AlexNet
from alexnet_keras.errors import UserError
from alexnet_keras.training.classic_sgd import ClassicSGD

STEPS = 50
DECAYS = [5e-4, 0.0, 0.1]
SHAPES = [(3, 4), (4,), (5, 2, 3), (2,), (6,)]
NUMBERS = [0, 1, 2, 1, 0]
#: half a unit in the last place of float32
ROUNDING = 2.0**-24


def changing_rates(step):
    """Of three groups: divided by ten, held, and stilled for a while."""
    return [0.1 / 10 ** (step // 20), 0.02, 0.0 if 15 <= step < 25 else 0.05]


def paper_run(weights, numbers, decays, gradients, rates, momentum=0.9):
    """The paper's section 5, in float64, where the 2012 source skips what has a rate of 0."""
    weights = [w.astype(np.float64) for w in weights]
    velocities = [np.zeros_like(w) for w in weights]
    for step, of_step in enumerate(gradients):
        for i, gradient in enumerate(of_step):
            rate, decay = rates(step)[numbers[i]], decays[numbers[i]]
            if rate > 0:
                velocities[i] = (
                    momentum * velocities[i] - decay * rate * weights[i] - rate * gradient
                )
                weights[i] = weights[i] + velocities[i]
    return weights


def variables(values):
    return [
        keras.Variable(value, dtype="float32", name=f"variable_{i}")
        for i, value in enumerate(values)
    ]


def optimizer_of(made, numbers, rates, decays, **options):
    groups = {variable.path: number for variable, number in zip(made, numbers, strict=True)}
    optimizer = ClassicSGD(groups, rates, decays, **options)
    optimizer.build(made)
    return optimizer


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    start = [rng.normal(size=shape).astype(np.float32) for shape in SHAPES]
    gradients = [
        [rng.normal(size=shape).astype(np.float32) for shape in SHAPES] for _ in range(STEPS)
    ]
    return start, gradients


def assert_within_rounding(given, wanted, steps=STEPS):
    for ours, reference in zip(given, wanted, strict=True):
        # Each step rounds the weight once and its velocity, which is smaller, a few times.
        bound = 2 * steps * ROUNDING * np.abs(reference).max()
        np.testing.assert_allclose(np.asarray(ours), reference, rtol=0, atol=bound)


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_fifty_steps_are_the_papers_in_float64_though_rates_change(problem, mode):
    start, gradients = problem
    made = variables(start)
    optimizer = optimizer_of(made, NUMBERS, changing_rates(0), DECAYS)
    traced = []

    def apply(of_step):
        traced.append(1)
        optimizer.apply(of_step, made)

    step_once = apply if mode == "eager" else tf.function(apply, jit_compile=mode == "xla")
    for step, of_step in enumerate(gradients):
        optimizer.set_rates(changing_rates(step))
        step_once([tf.constant(gradient) for gradient in of_step])
    assert len(traced) == (STEPS if mode == "eager" else 1)
    assert_within_rounding(made, paper_run(start, NUMBERS, DECAYS, gradients, changing_rates))


def test_a_stilled_group_keeps_every_bit_and_its_velocity(problem):
    start, gradients = problem
    made = variables(start)
    optimizer = optimizer_of(made, NUMBERS, [0.1, 0.1, 0.1], DECAYS)
    optimizer.apply(gradients[0], made)
    before = [variable.numpy().copy() for variable in made]
    kept = {v.path: v.numpy().copy() for v in optimizer.variables if "velocity" in v.path}
    optimizer.set_rates([0.1, 0.1, 0.0])
    for of_step in gradients[1:4]:
        optimizer.apply(of_step, made)
    after = {v.path: v.numpy() for v in optimizer.variables if "velocity" in v.path}
    for variable, old, number in zip(made, before, NUMBERS, strict=True):
        (path,) = (path for path in kept if variable.path in path)
        assert np.abs(kept[path]).min() > 0
        assert (variable.numpy().tobytes() == old.tobytes()) == (number == 2)
        assert (after[path].tobytes() == kept[path].tobytes()) == (number == 2)


@pytest.mark.reference
def test_at_constant_rates_it_is_pytorchs_sgd(problem):
    torch = pytest.importorskip("torch")
    start, gradients = problem
    rates = [0.1, 0.02, 0.05]
    made = variables(start)
    optimizer = optimizer_of(made, NUMBERS, rates, DECAYS)
    theirs = [torch.tensor(value.astype(np.float64), requires_grad=True) for value in start]
    torch_sgd = torch.optim.SGD(
        [
            {"params": [tensor], "lr": rates[number], "weight_decay": DECAYS[number]}
            for tensor, number in zip(theirs, NUMBERS, strict=True)
        ],
        momentum=0.9,
    )
    for of_step in gradients:
        optimizer.apply(of_step, made)
        for tensor, gradient in zip(theirs, of_step, strict=True):
            tensor.grad = torch.tensor(gradient.astype(np.float64))
        torch_sgd.step()
    assert_within_rounding(made, [tensor.detach().numpy() for tensor in theirs])


def test_kerass_own_weight_decay_is_another(problem):
    start, gradients = problem
    made = variables(start[:1])
    keras_sgd = keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.1)
    for of_step in gradients:
        keras_sgd.apply(of_step[:1], made)
    (wanted,) = paper_run(
        start[:1], [0], [0.1], [of_step[:1] for of_step in gradients], lambda step: [0.1]
    )
    assert np.abs(made[0].numpy() - wanted).max() > 0.1


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    return (
        rng.normal(size=(4, 64, 64, 3)).astype(np.float32),
        np.array([0, 1, 2, 0]),
    )


def loss_of(net, x, y):
    probabilities = net(x, training=False)
    return tf.reduce_sum(keras.losses.sparse_categorical_crossentropy(y, probabilities))


def small_alexnet(variant):
    keras.utils.set_random_seed(2)
    net = AlexNet(variant=variant, width=1 / 32, input_shape=(64, 64, 3), classes=3)
    numbers = [0 if v.name == "kernel" else 1 for v in net.trainable_variables]
    return net, numbers


@pytest.mark.parametrize("variant", ["alexnet", "release"])
def test_fifty_steps_of_a_small_alexnet_are_the_papers(images, variant):
    net, numbers = small_alexnet(variant)
    start = net.get_weights()
    made = net.trainable_variables
    optimizer = optimizer_of(made, numbers, [0.01, 0.02], [5e-4, 0.0])

    @tf.function
    def train(x, y):
        with tf.GradientTape() as tape:
            loss = loss_of(net, x, y) / 4
        gradients = tape.gradient(loss, made)
        optimizer.apply(gradients, made)
        return gradients

    def rates(step):
        return [0.01 if step < 30 else 0.001, 0.02]

    gradients = []
    for step in range(STEPS):
        optimizer.set_rates(rates(step))
        gradients.append([gradient.numpy() for gradient in train(*map(tf.constant, images))])
    moved = max(np.abs(now - before).max() for now, before in zip(made, start, strict=True))
    assert moved > 0.01
    assert_within_rounding(made, paper_run(start, numbers, [5e-4, 0.0], gradients, rates))


def test_two_replicas_are_one_device_and_rates_change_between_their_steps(images):
    def train(strategy, steps=8):
        traced = []
        with strategy.scope():
            net, numbers = small_alexnet("alexnet")
            made = net.trainable_variables
            optimizer = optimizer_of(made, numbers, [0.01, 0.02], [5e-4, 0.0])

        def on_replica(x, y):
            with tf.GradientTape() as tape:
                loss = loss_of(net, x, y) / 4
            optimizer.apply(tape.gradient(loss, made), made)

        @tf.function
        def step_once(x, y):
            traced.append(1)
            strategy.run(on_replica, args=(x, y))

        count = strategy.num_replicas_in_sync
        x, y = (
            strategy.experimental_distribute_values_from_function(
                lambda context, whole=whole: tf.constant(
                    whole[context.replica_id_in_sync_group :: count]
                )
            )
            for whole in images
        )
        for step in range(steps):
            optimizer.set_rates([0.01 / (1 + step), 0.0 if step == 4 else 0.02])
            step_once(x, y)
        assert len(traced) == 1
        return net.get_weights(), start_of(net)

    def start_of(net):
        return small_alexnet("alexnet")[0].get_weights()

    mirrored = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    one, start = train(tf.distribute.get_strategy())
    two, _ = train(mirrored)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-7)
    assert max(np.abs(a - b).max() for a, b in zip(one, start, strict=True)) > 1e-3


def test_a_saved_and_reloaded_model_trains_on_as_if_never_saved(tmp_path, problem):
    def compiled():
        keras.utils.set_random_seed(3)
        inputs = keras.Input((4,))
        hidden = keras.layers.Dense(3, name="hidden")(inputs)
        net = keras.Model(inputs, keras.layers.Dense(2, name="out")(hidden))
        groups = {v.path: int(v.name == "bias") for v in net.trainable_variables}
        net.compile(ClassicSGD(groups, [0.1, 0.2], [5e-4, 0.0], momentum=0.8), "mse")
        return net

    rng = np.random.default_rng(0)
    data = rng.normal(size=(8, 4)), rng.normal(size=(8, 2))
    net = compiled()
    net.fit(*data, epochs=3, verbose=0)
    net.optimizer.set_rates([0.05, 0.1])
    net.save(tmp_path / "net.keras")
    again = keras.saving.load_model(tmp_path / "net.keras")
    assert again.optimizer.get_config() == net.optimizer.get_config()
    assert again.optimizer.get_config()["rates"] == pytest.approx([0.05, 0.1])
    assert again.optimizer.get_config()["momentum"] == 0.8
    for one in (net, again):
        one.fit(*data, epochs=2, verbose=0)
    for a, b in zip(net.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_loss_scaling_can_be_put_around_it(problem):
    start, gradients = problem
    made = variables(start)
    inner = optimizer_of(made, NUMBERS, [0.1, 0.02, 0.05], DECAYS)
    scaling = keras.optimizers.LossScaleOptimizer(inner, initial_scale=1024.0)
    scaling.build(made)
    for of_step in gradients[:3]:
        scaling.apply([gradient * 1024 for gradient in of_step], made)
    # float16 overflowed: the step is left out.
    scaling.apply([gradient * np.inf for gradient in gradients[3]], made)
    wanted = paper_run(start, NUMBERS, DECAYS, gradients[:3], lambda step: [0.1, 0.02, 0.05])
    assert_within_rounding(made, wanted, steps=3)


def test_its_learning_rate_is_that_of_each_group():
    optimizer = ClassicSGD({}, [0.25, 0.5], [0.0, 0.0])
    np.testing.assert_array_equal(optimizer.learning_rate, [0.25, 0.5])


@pytest.mark.parametrize("rates", [[0.1], [0.1, -0.1], [0.1, np.nan], [0.1, np.inf]])
def test_rates_that_are_none_are_refused_and_the_old_ones_stay(rates):
    optimizer = ClassicSGD({}, [0.25, 0.5], [0.0, 0.0])
    with pytest.raises(UserError, match="2 numbers, 0 or more"):
        optimizer.set_rates(rates)
    np.testing.assert_array_equal(optimizer.learning_rate, [0.25, 0.5])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (({}, [0.1], [0.0], 1.0), "momentum=1.0 must be 0 or more, less than 1"),
        (({}, [0.1], [0.0], -0.1), "momentum=-0.1"),
        (({}, [], []), r"weight_decays=\[\] must be one or more"),
        (({}, [0.1], [-0.5]), r"weight_decays=\[-0.5\]"),
        (({"conv1/kernel": 1}, [0.1], [0.0]), r"numbers \[1\], but weight_decays has 1 groups"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        ClassicSGD(*arguments)


def test_a_variable_without_a_group_is_refused():
    optimizer = ClassicSGD({"other": 0}, [0.1], [0.0])
    with pytest.raises(UserError, match=r"No group for the variables \['variable_0'\]"):
        optimizer.build(variables([np.zeros(2)]))
