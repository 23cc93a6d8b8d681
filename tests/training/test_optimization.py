from __future__ import annotations

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from alexnet_keras.alexnet import AlexNet
from alexnet_keras.errors import UserError
from alexnet_keras.training.optimization import build_optimization
from alexnet_keras.training.presets import PRESETS

PER_EPOCH = 10


def small_net(variant="caffe", **options):
    keras.utils.set_random_seed(0)
    return AlexNet(variant=variant, width=1 / 32, input_shape=(80, 80, 3), classes=2, **options)


@pytest.fixture(scope="module")
def variables():
    return small_net().trainable_variables


def made(variables, preset="caffe", **options):
    preset = PRESETS[preset]
    options = {"batch_size": preset.batch_size, "epochs": preset.epochs} | options
    return build_optimization(preset, variables, steps_per_epoch=PER_EPOCH, **options)


def test_each_variable_of_the_towers_gets_its_group():
    net = small_net("release")
    optimizer = made(net.trainable_variables, "release").optimizer
    names = [group.name for group in PRESETS["release"].groups]
    groups = {path: names[number] for path, number in optimizer.groups.items()}
    assert len(groups) == len(net.trainable_variables) == 30
    for path, group in groups.items():
        layer, own = path.split("/")
        kind = "weights" if own == "kernel" else "biases"
        assert group == (f"conv1 {kind}" if layer in ("conv1a", "conv1b") else kind)
    assert optimizer.weight_decays == [5e-4, 0.0, 5e-4, 0.0]


def test_gammas_and_betas_are_biases():
    net = small_net("alexnet", normalization="batch", residual=True)
    groups = made(net.trainable_variables).optimizer.groups
    assert groups["norm3/gamma"] == groups["norm3/beta"] == groups["fc8/bias"] == 1
    assert groups["shortcut5/kernel"] == groups["conv1/kernel"] == 0


def test_a_layer_whose_path_begins_with_its_models_name_is_found():
    layers = [keras.layers.Conv2D(2, 3, name=name) for name in ("conv1", "conv2")]
    net = keras.Sequential([keras.Input((8, 8, 3)), *layers], name="trunk")
    assert made(net.trainable_variables, "release").optimizer.groups == {
        "trunk/conv1/kernel": 2,
        "trunk/conv1/bias": 3,
        "trunk/conv2/kernel": 0,
        "trunk/conv2/bias": 1,
    }


def test_a_preset_at_its_own_batch_and_epochs_is_what_was_published(variables):
    run = made(variables, "release")
    assert run.rates(0) == {
        "weights": 0.01,
        "biases": 0.02,
        "conv1 weights": 0.01,
        "conv1 biases": 0.02,
    }
    assert list(run.rates(80 * PER_EPOCH).values()) == pytest.approx([1e-5, 0.02, 0.0, 0.0])
    assert run.optimizer.momentum == 0.9
    assert not run.needs_watching


def test_other_lengths_divide_in_proportion(variables):
    run = made(variables, "release", epochs=182)
    assert run.rates(50 * PER_EPOCH - 1)["weights"] == 0.01
    assert run.rates(50 * PER_EPOCH)["weights"] == pytest.approx(0.001)


def test_a_rate_of_ones_own_changes_all_groups_in_proportion(variables):
    run = made(variables, "caffe", learning_rate=0.1)
    assert run.rates(0) == pytest.approx({"weights": 0.1, "biases": 0.2})
    assert run.rates(25 * PER_EPOCH) == pytest.approx({"weights": 0.01, "biases": 0.02})


def test_rates_are_scaled_from_the_presets_batch(variables):
    scaled = made(variables, "caffe", batch_size=1024, scale_rate=True)
    assert scaled.rates(0) == pytest.approx({"weights": 0.04, "biases": 0.08})
    both = made(variables, "caffe", batch_size=64, scale_rate=True, learning_rate=0.1)
    assert both.rates(0)["weights"] == pytest.approx(0.025)
    assert made(variables, "caffe", batch_size=1024).rates(0)["weights"] == 0.01


def test_a_weight_decay_of_ones_own_is_for_what_decays(variables):
    assert made(variables, weight_decay=0.01).optimizer.weight_decays == [0.01, 0.0]
    assert made(variables, weight_decay=0.0).optimizer.weight_decays == [0.0, 0.0]


def test_a_warm_up_comes_before_the_presets_rates(variables):
    run = made(variables, "caffe", warmup_epochs=2)
    assert run.rates(0) == {"weights": 0.0, "biases": 0.0}
    assert run.rates(PER_EPOCH) == pytest.approx({"weights": 0.005, "biases": 0.01})
    assert run.rates(2 * PER_EPOCH) == {"weights": 0.01, "biases": 0.02}
    assert run.rates(20 * PER_EPOCH)["weights"] == pytest.approx(0.001)


@pytest.mark.parametrize("warmup", [0, 10])
def test_a_cosine_takes_every_group_from_its_rate_to_zero(variables, warmup):
    run = made(variables, "release", epochs=90, schedule="cosine", warmup_epochs=warmup)
    half = (90 + warmup) // 2 * PER_EPOCH
    assert run.rates(warmup * PER_EPOCH)["biases"] == 0.02
    assert run.rates(half)["conv1 weights"] == pytest.approx(0.005)
    assert set(run.rates(90 * PER_EPOCH).values()) == {0.0}


def test_steps_are_net_145s_for_every_group(variables):
    run = made(variables, "caffe", epochs=91, schedule="step")
    for epoch, share in ((0, 1), (24, 1), (25, 0.1), (51, 0.01), (79, 0.001), (90, 0.001)):
        assert run.rates(epoch * PER_EPOCH) == pytest.approx(
            {"weights": 0.01 * share, "biases": 0.02 * share}
        )


def test_a_plateau_divides_every_groups_rate_and_goes_on_from_its_state(variables):
    def run():
        return made(variables, "caffe", schedule="plateau")

    straight, first, second = run(), run(), run()
    assert straight.needs_watching
    watched = [3.0] * 8 + [2.0] * 12
    for epoch, value in enumerate(watched, start=1):
        straight.observe(epoch, value)
        if epoch <= 7:
            first.observe(epoch, value)
    second.load_state(json.loads(json.dumps(first.state())))
    for epoch, value in enumerate(watched[7:], start=8):
        second.observe(epoch, value)
    steps = range(0, 25 * PER_EPOCH, PER_EPOCH)
    assert [second.rates(step) for step in steps] == [straight.rates(step) for step in steps]
    # 5 epochs after the first, after 9 (better) and after 14
    expected = [1.0] * 6 + [0.1] * 8 + [0.01] * 5 + [0.001] * 6
    assert [straight.rates(step)["biases"] for step in steps] == pytest.approx(
        [0.02 * share for share in expected]
    )
    assert second.state() == straight.state()


def test_runs_of_one_preset_share_nothing(variables):
    first, second = made(variables, "paper"), made(variables, "paper")
    for epoch in range(1, 20):
        first.observe(epoch, 1.0)
    assert second.state() == made(variables, "paper").state() != first.state()


def test_the_state_of_other_groups_is_refused(variables):
    with pytest.raises(UserError, match="resume with the settings"):
        made(variables, "release").load_state(made(variables, "caffe").state())


class Count:
    """Counts how often rates went to the optimizer."""

    def __init__(self, run):
        self.run, self.calls, self._assign = run, 0, run._assign
        run._assign = self

    def __call__(self, rates):
        self.calls += 1
        self._assign(rates)


def test_rates_go_to_the_optimizer_when_they_change_and_after_a_restart(variables):
    run = made(variables, "caffe")
    count = Count(run)
    for step in range(25 * PER_EPOCH):
        run.set_rates(step)
    assert count.calls == 2
    np.testing.assert_allclose(run.optimizer.learning_rate, [0.001, 0.002], rtol=1e-6)
    run.optimizer.set_rates([9.0, 9.0])
    run.load_state(run.state())
    run.set_rates(25 * PER_EPOCH)
    np.testing.assert_allclose(run.optimizer.learning_rate, [0.001, 0.002], rtol=1e-6)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_rates_can_be_set_within_a_strategys_scope_and_outside(kind):
    strategy = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    with strategy.scope():
        net = small_net()
        run = made(net.trainable_variables, kind=kind, schedule="step", warmup_epochs=0)
        run.set_rates(0)
    first = next(iter(run.rates(0).values()))

    def seen():
        read = tf.function(lambda: strategy.run(lambda: tf.convert_to_tensor(rate_of())))()
        return [np.ravel(value)[0] for value in strategy.experimental_local_results(read)]

    def rate_of():
        return run.optimizer.learning_rate

    assert seen() == pytest.approx([first, first])
    run.set_rates(89 * PER_EPOCH)
    assert seen() == pytest.approx([first / 1000, first / 1000])


def adamw_run(weights, decays, gradients, rates):
    """Loshchilov and Hutter's algorithm 2 in float64, the decay times the rate, as in Keras."""
    weights = [w.astype(np.float64) for w in weights]
    m, v = ([np.zeros_like(w) for w in weights] for _ in range(2))
    for step, of_step in enumerate(gradients):
        for i, gradient in enumerate(of_step):
            m[i] = 0.9 * m[i] + 0.1 * gradient
            v[i] = 0.999 * v[i] + 0.001 * gradient**2
            corrected = m[i] / (1 - 0.9 ** (step + 1))
            root = np.sqrt(v[i] / (1 - 0.999 ** (step + 1)))
            weights[i] = weights[i] - rates[step] * (
                decays[i] * weights[i] + corrected / (root + 1e-7)
            )
    return weights


def test_adamw_follows_warm_up_and_cosine_and_biases_do_not_decay():
    net = small_net("alexnet", normalization="batch")
    variables = net.trainable_variables
    run = made(variables, kind="adamw", epochs=2, warmup_epochs=0.5, weight_decay=0.5)
    start = [variable.numpy() for variable in variables]
    decays = [0.5 if variable.name == "kernel" else 0.0 for variable in variables]
    rng = np.random.default_rng(0)
    gradients = [
        [rng.normal(size=variable.shape).astype(np.float32) for variable in variables]
        for _ in range(2 * PER_EPOCH)
    ]
    expected = [
        1e-3 * (step / 5 if step < 5 else 0.5 + 0.5 * math.cos(math.pi * (step - 5) / 15))
        for step in range(2 * PER_EPOCH)
    ]
    for step, of_step in enumerate(gradients):
        run.set_rates(step)
        assert run.rates(step) == pytest.approx({"all": expected[step]})
        run.optimizer.apply(of_step, variables)
    for variable, wanted in zip(
        variables, adamw_run(start, decays, gradients, expected), strict=True
    ):
        np.testing.assert_allclose(variable.numpy(), wanted, atol=2e-6)


def test_adamw_left_to_itself_warms_up_for_5_of_90_epochs_and_decays_by_05(variables):
    run = made(variables, kind="adamw")
    assert run.optimizer.weight_decay == 0.05
    assert run.rates(0) == {"all": 0.0}
    assert run.rates(5 * PER_EPOCH) == {"all": 1e-3}
    assert run.rates(90 * PER_EPOCH) == {"all": 0.0}
    assert made(variables, kind="adamw", learning_rate=0.01).rates(50) == {"all": 0.01}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"kind": "adam"}, "no optimizer 'adam'"),
        ({"schedule": "linear"}, "no schedule 'linear'"),
        ({"kind": "adamw", "schedule": "preset"}, "for SGD, received kind='adamw'"),
        ({"learning_rate": 0.0}, "rate of 0.0"),
        ({"learning_rate": math.nan}, "rate of nan"),
        ({"weight_decay": -0.1}, "decay of -0.1"),
        ({"warmup_epochs": -1}, "warm-up of -1 epochs in a run of 90"),
        ({"warmup_epochs": 90}, "warm-up of 90 epochs in a run of 90"),
        ({"epochs": 0}, "run of 0;"),
        ({"batch_size": 0, "scale_rate": True}, "Batches of 0 and 256"),
    ],
)
def test_settings_out_of_range_are_refused(variables, options, message):
    with pytest.raises(UserError, match=message):
        made(variables, **options)


def test_an_epoch_without_steps_is_refused(variables):
    with pytest.raises(UserError, match="epoch of 0 steps"):
        build_optimization(PRESETS["paper"], variables, batch_size=1, epochs=1, steps_per_epoch=0)
