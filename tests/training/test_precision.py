"""Which precision the hardware has, and computing in it for a while."""

import io

import keras
import numpy as np
import pytest
import tensorflow as tf

from alexnet_keras import UserError
from alexnet_keras.training import precision as precision_module
from alexnet_keras.training.net import build_net
from alexnet_keras.training.precision import (
    choose_precision,
    computing_in,
    in_hardware,
    set_precision,
)


@pytest.fixture
def policy():
    """Puts Keras's policy back."""
    before = keras.mixed_precision.dtype_policy()
    yield keras.mixed_precision.dtype_policy
    keras.mixed_precision.set_dtype_policy(before)


@pytest.mark.parametrize(
    ("precision", "flags", "expected"),
    [
        ("float32", set(), "float32"),
        ("bfloat16", {"sse2", "amx_bf16"}, "mixed_bfloat16"),
        ("float16", {"avx512_fp16"}, "mixed_float16"),
    ],
)
def test_the_policy_is_set_where_the_cpu_has_it(monkeypatch, policy, precision, flags, expected):
    monkeypatch.setattr(precision_module, "_cpu_flags", lambda: flags)
    set_precision(precision)
    assert policy().name == expected


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_precision_that_the_cpu_lacks_is_refused(monkeypatch, policy, precision):
    monkeypatch.setattr(precision_module, "_cpu_flags", lambda: {"avx2", "avx512f"})
    with pytest.raises(UserError, match=f"CPU does not compute in {precision}.*--precision"):
        set_precision(precision)
    assert policy().name == "float32"


@pytest.mark.parametrize(
    ("capabilities", "precision", "fits"),
    [
        ([(8, 0)], "bfloat16", True),
        ([(7, 5)], "bfloat16", False),
        ([(7, 5)], "float16", True),
        ([(9, 0), (6, 1)], "float16", False),
    ],
)
def test_all_gpus_have_to_have_it(monkeypatch, policy, capabilities, precision, fits):
    details = [{"device_name": "a GPU", "compute_capability": each} for each in capabilities]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: range(len(details)))
    monkeypatch.setattr(tf.config.experimental, "get_device_details", details.__getitem__)
    monkeypatch.setattr(precision_module, "_cpu_flags", set)
    if fits:
        set_precision(precision)
        assert policy().name == f"mixed_{precision}"
    else:
        with pytest.raises(UserError, match="a GPU does not compute"):
            set_precision(precision)


def test_flags_of_the_cpu_are_read_as_linux_has_them(monkeypatch):
    text = "processor : 0\nflags\t\t: fpu avx2 avx512_bf16\nbugs : x\nflags : other\n"
    monkeypatch.setattr("builtins.open", lambda path: io.StringIO(text))
    assert {"avx2", "avx512_bf16"} <= precision_module._cpu_flags()

    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr("builtins.open", missing)
    assert precision_module._cpu_flags() == set()


def test_one_asks_whether_the_hardware_has_it(monkeypatch):
    monkeypatch.setattr(precision_module, "_cpu_flags", lambda: {"amx_bf16"})
    assert [in_hardware(name) for name in ("float32", "bfloat16", "float16")] == [True, True, False]


@pytest.mark.parametrize(
    ("flags", "chosen"),
    [({"amx_bf16"}, "bfloat16"), ({"avx512_bf16"}, "bfloat16"), ({"avx512_fp16"}, "float32")],
)
def test_automatic_is_bfloat16_where_it_is_in_hardware(monkeypatch, policy, flags, chosen):
    monkeypatch.setattr(precision_module, "_cpu_flags", lambda: flags)
    assert choose_precision("auto") == chosen
    assert policy().name == "float32"  # of nets to come nothing is said


def test_one_that_is_named_is_taken_or_refused(monkeypatch):
    monkeypatch.setattr(precision_module, "_cpu_flags", lambda: {"amx_bf16"})
    assert [choose_precision(name) for name in ("float32", "bfloat16")] == ["float32", "bfloat16"]
    with pytest.raises(UserError, match="CPU does not compute in float16.*--precision float16"):
        choose_precision("float16")


def test_feature_maps_are_computed_in_16_bits_for_a_while_and_nothing_else():
    model = build_net(3, variant="modern", image_size=32, width=0.1)
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype("float32")
    maps = keras.Model(model.input, [model.get_layer("conv5").output, model.output])
    before, answers = maps(pixels)
    with computing_in("bfloat16", model):
        rounded, probabilities = maps(pixels)
        assert (rounded.dtype, probabilities.dtype) == (tf.bfloat16, tf.float32)
        assert model.get_layer("conv5").kernel.dtype == "float32"
    assert before.dtype == tf.float32
    assert 0 < np.abs(probabilities - answers).max() < 0.02
    np.testing.assert_array_equal(maps(pixels)[1], answers)  # as before
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}


def test_an_error_inside_leaves_float32_behind():
    model = build_net(3, variant="modern", image_size=32, width=0.1)
    with pytest.raises(ZeroDivisionError), computing_in("bfloat16", model):
        raise ZeroDivisionError
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}
