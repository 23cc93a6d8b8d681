from __future__ import annotations

import csv
import io
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from alexnet_keras.data import AUGMENTATIONS, CentreView, RandomView, Splits
from alexnet_keras.evaluation import evaluate
from alexnet_keras.training import EpochLog, choose_strategy
from alexnet_keras.transfer import FeatureCache, HeadShape, Settings, fine_tune, plan_phases
from alexnet_keras.transfer.fine_tune import stored_views
from alexnet_keras.transfer.heads import bilinear_head
from two_colours import colored, small_classifier

# Both kinds of phase, as short as they can be: most of the time goes into tracing.
SHORT = {"views": 1, "head_epochs": 2, "epochs": 1}
CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")


@pytest.fixture(scope="module")
def splits():
    return Splits(colored(32, 0), colored(8, 1), colored(16, 2))


def train(
    splits,
    folder,
    pretrained=CONVOLUTIONS,
    strategy=None,
    views=2,
    most_bytes=2**30,
    precision="float32",
    make=small_classifier,
    interrupt=lambda: None,
    callbacks=(),
    **plan,
):
    folder.mkdir(exist_ok=True)
    strategy = strategy or choose_strategy("none", 8)
    with strategy.scope():
        model = make()
        arguments = {
            "unfreeze_from": ("conv4",),
            "head_epochs": 6,
            "epochs": 4,
            "learning_rate": 0.02,
        }
        phases = plan_phases(model, pretrained, **(arguments | plan))
        log = EpochLog(folder / "history.csv", folder / "tensorboard")
        settings = Settings(
            AUGMENTATIONS["alexnet2012"](),
            batch_size=8,
            views=views,
            label_smoothing=0.0,
            precision=precision,
        )
        before = {layer.name: layer.get_weights() for layer in model.layers}
        cache = FeatureCache(folder / "cache", most_bytes)
        more = {"interrupt": interrupt, "callbacks": callbacks, "verbose": 0}
        keeper = fine_tune(model, splits, phases, settings, log=log, cache=cache, **more)
    return model, before, keeper, log


def changed(model, before):
    return {
        layer.name
        for layer in model.layers
        if any(
            not np.array_equal(a, b)
            for a, b in zip(layer.get_weights(), before[layer.name], strict=True)
        )
    }


def test_phases_train_what_they_say_and_the_net_learns(splits, tmp_path):
    model, before, keeper, log = train(splits, tmp_path / "run")
    assert changed(model, before) == {"conv4", "conv5", "fc6", "fc7", "fc8"}
    assert [row["phase"] for row in log.rows][:6] == ["head"] * 6
    assert log.rows[6]["phase"] == "fine-tune from conv4"
    assert evaluate(model, splits.validation).top(1) >= 0.9


def test_the_model_ends_with_the_best_weights_of_all_phases(splits, tmp_path):
    model, _, keeper, log = train(splits, tmp_path / "run")
    result = evaluate(model, splits.stopping)
    chosen = result.probabilities[np.arange(8), result.labels]
    loss = float(-np.log(chosen).mean())
    assert keeper.best == min(row["stop_loss"] for row in log.rows)
    assert loss == pytest.approx(keeper.best, abs=2e-3)  # the head's phase saw float16 activations


def test_stored_outputs_train_like_the_images_they_come_from(splits, tmp_path):
    # As many views as epochs: nothing is stored, the frozen layers run on new views.
    stored, _, _, _ = train(splits, tmp_path / "a", views=1, epochs=0, head_epochs=8)
    images, _, _, _ = train(splits, tmp_path / "b", views=8, epochs=0, head_epochs=8)
    for model in (stored, images):
        assert evaluate(model, splits.validation).top(1) >= 0.9


def test_random_weights_are_all_trained(splits, tmp_path):
    model, before, _, log = train(splits, tmp_path / "run", pretrained=(), epochs=2)
    assert {"conv1", "conv5", "fc6", "fc8"} <= changed(model, before)
    assert {row["phase"] for row in log.rows} == {"all layers"}


def test_runs_repeat(splits, tmp_path):
    first, _, _, _ = train(splits, tmp_path / "a", **SHORT)
    second, _, _, _ = train(splits, tmp_path / "b", **SHORT)
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_two_mirrored_devices_equal_one(splits, tmp_path):
    one, _, _, log_one = train(splits, tmp_path / "one", **SHORT)
    two, _, _, log_two = train(
        splits, tmp_path / "two", strategy=choose_strategy("mirrored", 8), **SHORT
    )
    assert len(log_two.rows) == 3
    np.testing.assert_allclose(
        [row["loss"] for row in log_one.rows], [row["loss"] for row in log_two.rows], rtol=1e-3
    )
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_an_odd_number_of_photographs_can_be_shared_by_two_devices(splits, tmp_path):
    odd = replace(splits, stopping=colored(7, 1), validation=colored(9, 2))
    strategy = choose_strategy("mirrored", 8)
    model, _, _, log = train(odd, tmp_path / "run", strategy=strategy, **SHORT)
    assert all(np.isfinite(row["stop_loss"]) for row in log.rows)
    assert evaluate(model, odd.validation, batch_size=8).probabilities.shape == (9, 2)


def test_a_second_run_finds_what_the_first_stored_and_ends_alike(splits, tmp_path, monkeypatch):
    first, _, _, _ = train(splits, tmp_path / "run", epochs=0)
    with monkeypatch.context() as patch:
        patch.setattr("alexnet_keras.data.pipeline.decode_window", None)  # no image is looked at
        second, _, _, _ = train(splits, tmp_path / "run", epochs=0)
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_phase_that_trains_convolutions_learns_from_stored_outputs_too(
    splits, tmp_path, monkeypatch
):
    # Two views, four epochs: the frozen convolutions run twice.
    model, before, _, log = train(splits, tmp_path / "run", unfreeze_from=("conv5", "conv4"))
    assert changed(model, before) == {"conv4", "conv5", "fc6", "fc7", "fc8"}
    assert log.rows[-1]["phase"] == "fine-tune from conv4"
    stored = {entry.description for entry in FeatureCache(tmp_path / "run" / "cache").sets()}
    assert {name.split(" of ")[0] for name in stored} == {"flatten", "conv4", "conv3"}
    assert evaluate(model, splits.validation).top(1) >= 0.9
    with monkeypatch.context() as patch:
        patch.setattr("alexnet_keras.data.pipeline.decode_window", None)  # no image is looked at
        again, _, _, _ = train(splits, tmp_path / "run", unfreeze_from=("conv5", "conv4"))
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(("mirror", "measured"), [(True, 2), (False, 1)])
def test_what_will_be_measured_is_trained_on_first(mirror, measured):
    augmentation = replace(AUGMENTATIONS["gentle"](), mirror=mirror)
    centre = CentreView(1.0, keep_aspect=False)
    given = stored_views(centre, Settings(augmentation, seed=7, views=4))
    assert given[:measured] == [centre, replace(centre, mirrored=True)][:measured]
    assert given[measured:] == [RandomView(augmentation, 7 + n) for n in range(4 - measured)]
    assert stored_views(centre, Settings(augmentation, views=1)) == [centre]


def bilinear_classifier():
    """The small one, with the bilinear head in the place of fc6 and fc7."""
    small = small_classifier()
    outputs = bilinear_head(small, 2, HeadShape())
    return keras.Model(small.input, outputs, name=small.name)


def test_a_bilinear_head_learns_from_stored_outputs(splits, tmp_path):
    options = {"head": "bilinear", "views": 4, "head_epochs": 12, "epochs": 0}
    model, before, _, _ = train(splits, tmp_path / "run", make=bilinear_classifier, **options)
    assert changed(model, before) == {"fc8"}
    (stored,) = FeatureCache(tmp_path / "run" / "cache").sets()
    assert stored.description.startswith("length of ")
    assert evaluate(model, splits.validation).top(1) >= 0.9


def test_in_16_bits_it_learns_too_and_ends_in_float32(splits, tmp_path, monkeypatch):
    computed, fit = [], keras.Model.fit

    def noting(model, *given, **options):
        computed.append({layer.name: layer.compute_dtype for layer in model.layers})
        return fit(model, *given, **options)

    monkeypatch.setattr(keras.Model, "fit", noting)
    # Too few epochs for stored outputs: the second phase runs on images.
    model, before, keeper, log = train(splits, tmp_path / "run", precision="bfloat16", epochs=3)
    head, whole = computed
    assert whole["conv1"] == whole["conv5"] == "bfloat16"
    assert whole["fc6"] == whole["fc8"] == head["fc8"] == "float32"
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}
    assert {variable.dtype for variable in model.variables} == {"float32"}
    assert changed(model, before) == {"conv4", "conv5", "fc6", "fc7", "fc8"}
    assert evaluate(model, splits.validation).top(1) >= 0.9
    assert keeper.best == min(row["stop_loss"] for row in log.rows)


def test_the_two_precisions_share_no_stored_outputs(splits, tmp_path):
    def sets(precision):
        model, _, _, log = train(
            splits, tmp_path / "run", precision=precision, views=1, head_epochs=2, epochs=0
        )
        found = FeatureCache(tmp_path / "run" / "cache").sets()
        assert {(entry.description, entry.outputs) for entry in found} == {
            ("flatten of alexnet_trunk at 64 px", 40)
        }
        return {entry.fingerprint for entry in found}, model.get_weights()

    exact, first = sets("float32")
    both, rounded = sets("bfloat16")
    assert (len(exact), len(both)) == (1, 2) and exact < both
    assert any((a != b).any() for a, b in zip(first, rounded, strict=True))
    again, second = sets("float32")
    assert again == both
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_without_room_the_frozen_layers_run_in_every_epoch(splits, tmp_path):
    model, before, _, _ = train(splits, tmp_path / "run", epochs=0, head_epochs=8, most_bytes=0)
    assert changed(model, before) == {"fc6", "fc7", "fc8"}
    assert evaluate(model, splits.validation).top(1) >= 0.9


def test_images_reach_the_net_with_its_own_preprocessing(splits):
    model = small_classifier()
    result = evaluate(model, splits.validation)
    pixels = np.stack(
        [np.asarray(Image.open(io.BytesIO(c)), np.float32) for c in splits.validation.contents]
    )
    # 70 px with a ratio of 256/224: the centre 61 px, resized to 64.
    side = round(70 / (256 / 224))
    start = (70 - side) // 2
    cropped = pixels[:, start : start + side, start : start + side]
    resized = tf.image.resize(cropped, (64, 64), antialias=True).numpy()
    normal = (resized / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    net = keras.Model(model.get_layer("preprocessing").output, model.output)
    np.testing.assert_allclose(result.probabilities, net(normal.astype("f4")), atol=1e-5)


class Enough(Exception):
    pass


def test_interrupted_it_keeps_the_best_until_then(splits, tmp_path):
    """Four batches a step of the head's phase, of eight photographs each, then more."""
    calls, made = [], []

    def interrupt():
        calls.append(1)
        if len(calls) == 24:
            raise Enough

    def make():
        made.append(small_classifier())
        return made[-1]

    with pytest.raises(Enough):
        train(splits, tmp_path / "run", make=make, interrupt=interrupt)
    (model,) = made
    assert all(layer.trainable for layer in model.layers)
    with (tmp_path / "run" / "history.csv").open() as file:
        losses = [float(row["stop_loss"]) for row in csv.DictReader(file)]
    assert 1 <= len(losses) < 10
    result = evaluate(model, splits.stopping)
    loss = -np.log(result.probabilities[np.arange(8), result.labels]).mean()
    assert loss == pytest.approx(min(losses), abs=2e-3)


def test_interrupted_while_views_are_stored_it_keeps_those_that_are(splits, tmp_path):
    calls = []

    def interrupt():
        calls.append(1)
        if len(calls) == 3:
            raise Enough

    with pytest.raises(Enough):
        train(splits, tmp_path / "run", interrupt=interrupt)
    # Both phases' sets are filled on the way: nothing was there, then two batches of eight.
    stored = FeatureCache(tmp_path / "run" / "cache").sets()
    assert [entry.outputs for entry in stored] == [16, 16]


def test_more_callbacks_are_told(splits, tmp_path):
    seen = []
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs))
    _, _, _, log = train(splits, tmp_path / "run", callbacks=[callback], **SHORT)
    assert [logs["val_loss"] for logs in seen] == [row["stop_loss"] for row in log.rows]
