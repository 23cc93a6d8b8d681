from __future__ import annotations

import keras
import numpy as np
import pytest

from alexnet_keras import AlexNet, UserError
from alexnet_keras.transfer import build_classifier
from alexnet_keras.variants import VARIANTS
from alexnet_keras.weights import (
    PREPROCESSING,
    PUBLISHED,
    InputPreprocessing,
    from_pixels,
    load_weights,
    loading,
    open_weights,
    preprocessing_of,
    save_weights,
)
from alexnet_keras.weights.published import imagenet_weights

#: input channels of conv1 to conv5, and output channels
CHANNELS = {
    "alexnet": ((3, 96, 256, 384, 384), (96, 256, 384, 384, 256)),
    "torchvision": ((3, 64, 192, 384, 256), (64, 192, 384, 256, 256)),
    # two towers or groups in conv2, conv4 and conv5
    "caffe": ((3, 48, 256, 192, 192), (96, 256, 384, 384, 256)),
}
SMALL = {"input_shape": (64, 64, 3), "width": 0.05}


def trunk(variant, seed=0):
    """Random convolutions in the layout of the shared trunk."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for number, (size, i, o) in enumerate(
        zip((11, 5, 3, 3, 3), *CHANNELS[variant], strict=True), start=1
    ):
        tensors[f"conv{number}/kernel"] = rng.normal(0, 0.02, (size, size, i, o)).astype("float32")
        tensors[f"conv{number}/bias"] = rng.normal(0, 0.02, o).astype("float32")
    return tensors


def tensors_of(model):
    return {
        f"{layer.name}/{variable.name}": variable.numpy()
        for layer in model.layers
        for variable in layer.weights
    }


@pytest.fixture
def archive(tmp_path):
    def write(tensors, name="trunk.npz"):
        np.savez(tmp_path / name, **tensors)
        return tmp_path / name

    return write


@pytest.mark.parametrize("variant", ["alexnet", "torchvision"])
def test_weights_choose_their_variant_and_arrive_unchanged(variant, archive):
    tensors = trunk(variant)
    model = AlexNet(include_top=False, weights=archive(tensors), input_shape=(64, 64, 3))
    for name, tensor in tensors.items():
        layer, variable = name.split("/")
        np.testing.assert_array_equal(getattr(model.get_layer(layer), variable), tensor)


def test_layers_without_weights_stay_random_only_if_that_is_asked_for(archive):
    path = archive(trunk("torchvision"))
    with pytest.raises(UserError, match=r"nothing for fc6, fc7, fc8; .* skip_mismatch=True"):
        AlexNet(weights=path, input_shape=(64, 64, 3))
    with pytest.warns(UserWarning, match="fc6, fc7, fc8: they stay random"):
        model = AlexNet(weights=path, input_shape=(64, 64, 3), skip_mismatch=True)
    assert model.loaded.loaded == ("conv1", "conv2", "conv3", "conv4", "conv5")
    assert model.loaded.fresh == ("fc6", "fc7", "fc8")


def test_without_the_top_a_trunk_is_complete_and_nothing_is_warned(archive, recwarn):
    model = AlexNet(include_top=False, weights=archive(trunk("torchvision")))
    assert not [w for w in recwarn if "stay random" in str(w.message)]
    assert model.loaded.fresh == model.loaded.unused == ()


def test_other_classes_are_named_with_both_shapes_or_left_random_if_asked(tmp_path):
    whole = AlexNet(variant="torchvision", classes=10, **SMALL)
    save_weights(whole, tmp_path / "whole.weights.h5")
    options = {"variant": "torchvision", "weights": tmp_path / "whole.weights.h5", **SMALL}
    with pytest.raises(UserError, match=r"fc8/kernel is \(204, 10\) in the file and \(204, 3\)"):
        AlexNet(classes=3, **options)
    with pytest.warns(UserWarning, match="fc8: they stay random"):
        model = AlexNet(classes=3, skip_mismatch=True, **options)
    assert model.loaded.fresh == ("fc8",)
    assert "(204, 10)" in str(model.loaded)
    np.testing.assert_array_equal(model.get_layer("fc7").kernel, whole.get_layer("fc7").kernel)
    without = AlexNet(include_top=False, **options)
    assert without.loaded.unused == ("fc6", "fc7", "fc8")


def test_all_mismatches_are_named_before_anything_is_set(archive):
    model = AlexNet(variant="torchvision", include_top=False, input_shape=(64, 64, 3))
    before = tensors_of(model)
    tensors = trunk("torchvision")
    tensors["conv2/bias"], tensors["conv5/bias"] = np.zeros(7, "f4"), np.zeros(8, "f4")
    with pytest.raises(UserError, match=r"conv2/bias is \(7,\).*conv5/bias is \(8,\)"):
        load_weights(model, archive(tensors))
    for name, value in tensors_of(model).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("variant", ["paper", "release"])
def test_each_tower_takes_its_half_of_grouped_weights(variant, archive):
    tensors = trunk("caffe")
    path = archive(tensors)
    with pytest.raises(UserError, match="'paper' or 'release' or 'caffe' or 'caffenet'; say which"):
        AlexNet(include_top=False, weights=path)
    model = AlexNet(include_top=False, weights=path, variant=variant)
    for name, tensor in tensors.items():
        layer, variable = name.split("/")
        parts = [getattr(model.get_layer(layer + tower), variable) for tower in "ab"]
        np.testing.assert_array_equal(np.concatenate(parts, axis=-1), tensor)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_what_was_saved_in_keras_own_format_needs_no_conversion(variant, suffix, tmp_path):
    model = AlexNet(variant=variant, classes=3, **SMALL)
    path = tmp_path / f"saved{suffix}"
    if suffix == ".keras":
        model.save(path)
    else:
        save_weights(model, path)
    again = AlexNet(weights=path, classes=3, **SMALL)
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    np.testing.assert_array_equal(again(images), model(images))
    assert preprocessing_of(again) == preprocessing_of(model)
    if suffix == ".weights.h5":
        other = AlexNet(variant=variant, classes=3, **SMALL)
        other.load_weights(path)
        np.testing.assert_array_equal(other(images), model(images))


def test_a_model_is_not_taken_for_one_of_other_layers_with_the_same_shapes(tmp_path):
    AlexNet(variant="caffe", classes=3, **SMALL).save(tmp_path / "net.keras")
    for variant in ("paper", "caffenet"):
        with pytest.raises(UserError, match=f"variant '{variant}'; they fit 'caffe'"):
            AlexNet(weights=tmp_path / "net.keras", variant=variant, classes=3, **SMALL)


def test_the_preprocessing_inside_a_saved_classifier_goes_with_its_weights(tmp_path):
    built = build_classifier(3, variant="alexnet", image_size=80)
    built.model.save(tmp_path / "classifier.keras")
    model = AlexNet(weights=tmp_path / "classifier.keras", input_shape=(80, 80, 3), classes=3)
    assert preprocessing_of(model) == preprocessing_of(built.model) == PREPROCESSING["torchvision"]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 80, 80, 3)).astype(np.float32)
    np.testing.assert_allclose(from_pixels(model)(pixels), built.model(pixels), atol=1e-6)


def test_a_variant_that_does_not_fit_the_weights_is_refused_with_those_that_do(archive):
    path = archive(trunk("torchvision"))
    with pytest.raises(UserError, match="do not fit the variant 'alexnet'; they fit 'torchvision'"):
        AlexNet(variant="alexnet", weights=path)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"variant": "caffe"}, ["belong to 'caffe'", "shapes of 'torchvision'"]),
        ({"variant": "of tomorrow"}, ["'of tomorrow'", "'torchvision'"]),
        ({"preprocessing": "of tomorrow"}, ["'of tomorrow'", "torchvision, caffe"]),
    ],
)
def test_files_that_contradict_themselves_or_know_more_are_refused(told, words, tmp_path):
    model = AlexNet(variant="torchvision", classes=3, **SMALL)
    path = tmp_path / "odd.weights.h5"
    save_weights(model, path, **told)
    with pytest.raises(UserError) as caught:
        AlexNet(weights=path, classes=3, **SMALL)
    assert all(word in str(caught.value) for word in [*words, str(path)])


@pytest.fixture
def published(monkeypatch, archive):
    """Published files that need no network: each is a trunk of its own row's variant."""
    asked = []

    def fetch(row):
        asked.append(row.file_name)
        if row.file_name in unreachable:
            raise UserError(f"{row.file_name} is out of reach.")
        return archive(trunk(row.variant if row.variant in CHANNELS else "caffe"))

    unreachable = set()
    monkeypatch.setattr(loading, "fetch", fetch)
    monkeypatch.setattr(loading, "cached", lambda row: None)
    return asked, unreachable


def test_imagenet_takes_torchvisions_weights_unless_a_variant_is_named(published):
    asked, _ = published
    model = AlexNet(include_top=False, weights="imagenet")
    assert asked == ["alexnet-owt-7be5be79.pth"]
    assert model.get_layer("conv1").filters == 64
    assert preprocessing_of(model) == PREPROCESSING["torchvision"]
    caffenet = AlexNet(include_top=False, weights="imagenet", variant="caffenet")
    assert preprocessing_of(caffenet).channels == "BGR"
    names = [layer.name for layer in caffenet.layers]
    assert names.index("pool1") < names.index("norm1")


def test_where_one_source_is_out_of_reach_the_next_is_taken(published):
    asked, unreachable = published
    first, second = (PUBLISHED[key].file_name for key in imagenet_weights("caffe"))
    unreachable.add(first)
    stored = open_weights("imagenet", "caffe")
    assert asked == [first, second]
    assert (stored.variants, stored.preprocessing) == (("caffe",), "caffe")
    unreachable.add(second)
    with pytest.raises(UserError, match=f"{first} is out of reach. {second} is out of reach."):
        open_weights("imagenet", "caffe")


def test_what_is_in_the_cache_is_taken_before_anything_is_downloaded(published, monkeypatch):
    asked, _ = published
    _, second = (PUBLISHED[key] for key in imagenet_weights("caffenet"))
    monkeypatch.setattr(loading, "cached", lambda row: row if row == second else None)
    open_weights("imagenet", "caffenet")
    assert asked == [second.file_name]


@pytest.mark.parametrize(
    "arguments",
    [
        {"classes": 5},
        {"pooling": "median", "include_top": False},
        {"input_shape": (10, 10, 3)},
        {"width": -1},
        {"tower_devices": ("CPU:0", "CPU:1")},
    ],
)
def test_wrong_arguments_are_told_before_anything_is_downloaded(arguments, published):
    asked, _ = published
    for weights in ("imagenet", "caffe"):
        with pytest.raises(UserError):
            AlexNet(weights=weights, **arguments)
    assert asked == []


def test_a_keyword_of_weights_in_the_place_of_include_top_is_refused():
    with pytest.raises(UserError, match="received 'imagenet'.*weights="):
        AlexNet("imagenet")


def saved(path, **options):
    model = AlexNet(variant="torchvision", classes=3, **{**SMALL, **options})
    save_weights(model, path)
    return path


def test_weights_of_other_options_do_not_match_and_say_how(tmp_path):
    plain = saved(tmp_path / "plain.weights.h5")
    batch = saved(tmp_path / "batch.weights.h5", normalization="batch")
    residual = saved(tmp_path / "residual.weights.h5", residual=True)
    cases = [
        (plain, {"normalization": "batch"}, "conv1/bias is in the file and not in the model"),
        (batch, {}, "conv1/bias is in the model and not in the file"),
        (residual, {}, "shortcut4 is in the file and not in the model"),
    ]
    for path, options, words in cases:
        with pytest.raises(UserError, match=words):
            AlexNet(weights=path, classes=3, **SMALL, **options)
    with pytest.warns(UserWarning, match="conv1, norm1, conv2"):
        model = AlexNet(
            weights=plain, classes=3, normalization="batch", skip_mismatch=True, **SMALL
        )
    assert model.loaded.loaded == ("fc6", "fc7", "fc8")


def test_another_width_is_taken_as_far_as_it_fits_only_if_that_is_asked_for(tmp_path):
    path = saved(tmp_path / "wide.weights.h5", width=0.1)
    asked = {"weights": path, "variant": "torchvision", "classes": 3, **SMALL}
    with pytest.raises(UserError, match="fit no variant"):
        AlexNet(**asked)
    with pytest.warns(UserWarning, match="conv1, conv2"):
        model = AlexNet(**asked, skip_mismatch=True)
    assert model.loaded.loaded == ()


def test_images_of_one_channel_come_back_too(tmp_path):
    options = {"input_shape": (64, 64, 1)}
    path = saved(tmp_path / "gray.weights.h5", **options)
    model = AlexNet(weights=path, classes=3, **{**SMALL, **options})
    assert model.get_layer("conv1").kernel.shape == (11, 11, 1, 4)


def test_weights_are_not_put_into_a_built_net_of_another_variant(tmp_path, archive):
    path = tmp_path / "caffenet.weights.h5"
    save_weights(AlexNet(variant="caffenet", classes=3, **SMALL), path)
    model = AlexNet(variant="caffe", classes=3, **SMALL)
    with pytest.raises(UserError, match="belong to 'caffenet', not to the variant 'caffe'"):
        load_weights(model, path)
    other = AlexNet(variant="caffenet", classes=3, **SMALL)
    assert load_weights(other, path) is other.loaded
    assert other.loaded.fresh == ()


def test_behind_a_preprocessing_of_ones_own_none_is_recorded():
    pixels = keras.Input((64, 64, 3))
    own = AlexNet(input_tensor=keras.layers.Rescaling(1 / 255)(pixels), width=0.05)
    with pytest.raises(UserError, match="records no preprocessing"):
        preprocessing_of(own)
    plain = AlexNet(input_tensor=pixels, width=0.05)
    assert preprocessing_of(plain) == PREPROCESSING["paper"]


@pytest.mark.parametrize("variant", ["alexnet", "paper", "release"])
def test_nets_whose_weights_were_never_published_say_so(variant):
    with pytest.raises(UserError, match=f"'{variant}'.*'torchvision'"):
        AlexNet(weights="imagenet", variant=variant)


def test_a_classifier_keeps_its_new_fc8_and_reports_what_was_loaded(archive):
    tensors = trunk("torchvision") | {
        "fc8/kernel": np.ones((4096, 1000), "float32"),
        "fc8/bias": np.ones(1000, "float32"),
    }
    built = build_classifier(5, weights=archive(tensors), image_size=64, head="fc")
    assert built.variant == "torchvision"
    assert built.loaded.loaded == ("conv1", "conv2", "conv3", "conv4", "conv5")
    assert built.loaded.fresh == ("fc6", "fc7", "fc8")
    assert built.model.output_shape == (None, 5)


def test_pretrained_weights_get_the_bilinear_head_unless_told_otherwise(archive):
    path = archive(trunk("torchvision"))
    built = build_classifier(5, weights=path, image_size=64)
    assert (built.head, built.loaded.fresh) == ("bilinear", ("fc8",))
    pooled = build_classifier(5, weights=path, image_size=64, head="pooled")
    assert (pooled.head, pooled.loaded.fresh) == ("pooled", ("head_norm", "hidden", "fc8"))
    assert build_classifier(5, weights=path, image_size=64, head="fc").head == "fc"
    assert build_classifier(5, weights="starter").head == "bilinear"


def test_weights_that_hold_fc6_lend_it_on_request(archive):
    fc6 = {"fc6/kernel": np.zeros((256, 4096), "f4"), "fc6/bias": np.zeros(4096, "f4")}
    path = archive(trunk("torchvision") | fc6)
    built = build_classifier(5, weights=path, image_size=64, head="fc")
    assert (built.head, built.loaded.fresh) == ("fc", ("fc7", "fc8"))
    bilinear = build_classifier(5, weights=path, image_size=64)
    assert bilinear.head == "bilinear"
    assert bilinear.loaded.loaded == ("conv1", "conv2", "conv3", "conv4", "conv5")
    assert bilinear.loaded.unused == ("fc6",)


def test_the_input_size_suits_the_head_and_the_weights(archive):
    path = archive(trunk("torchvision"))
    for head, side in (("auto", 256), ("bilinear", 256), ("pooled", 288)):
        built = build_classifier(5, weights=path, head=head)
        assert built.model.input_shape == (None, side, side, 3)
    assert build_classifier(5, weights=path, head="fc").model.input_shape == (None, 224, 224, 3)
    random = build_classifier(5)
    assert (random.head, random.model.input_shape) == ("fc", (None, 96, 96, 3))
    assert build_classifier(5, image_size=70).model.input_shape == (None, 70, 70, 3)
    for head in ("bilinear", "pooled"):
        starter = build_classifier(5, weights="starter", head=head).model
        assert starter.input_shape == (None, 128, 128, 3)


def test_the_small_head_sees_averages_of_pool5(archive):
    path = archive(trunk("torchvision"))
    built = build_classifier(5, weights=path, image_size=224, head="pooled")
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3)).astype(np.float32)
    outputs = [built.model.get_layer(name).output for name in ("pool5", "averages")]
    pool5, averages = keras.Model(built.model.input, outputs).predict(images, verbose=0)
    whole = pool5.mean(axis=(1, 2))
    # 6 x 6 positions in 3 x 3 cells of 2 x 2.
    cells = pool5.reshape(2, 3, 2, 3, 2, 256).mean(axis=(2, 4)).reshape(2, -1)
    expected = np.concatenate([whole, cells], axis=1)
    np.testing.assert_allclose(averages, expected, atol=1e-5 * np.abs(expected).max())


def with_tensor(name, value):
    tensors = trunk("torchvision")
    if value is None:
        del tensors[name]
    else:
        tensors[name] = value
    return tensors


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (with_tensor("conv3/kernel", np.zeros((3, 3, 192, 7), "f4")), ["fit no variant", "7)"]),
        (with_tensor("conv3/bias", np.zeros(7, "f4")), ["conv3/bias is (7,)", "(384,)"]),
        (with_tensor("conv3/bias", None), ["conv3/bias is in the model and not"]),
        (with_tensor("conv3/bias", np.full(384, np.nan, "f4")), ["conv3/bias", "not finite"]),
        (with_tensor("conv3/bias", np.array(["x"] * 384)), ["conv3/bias", "not floats"]),
        (with_tensor("conv3/bias", np.array([{}] * 384)), ["cannot be read as a NumPy archive"]),
        ({"weight": np.zeros(3, "f4")}, ["fit no variant"]),
    ],
    ids=["kernel shape", "bias shape", "half a layer", "nan", "text", "pickle", "other names"],
)
def test_tensors_that_do_not_fit_are_named(tensors, words, archive):
    path = archive(tensors)
    with pytest.raises(UserError) as caught:
        AlexNet(include_top=False, weights=path, input_shape=(64, 64, 3))
    assert all(word in str(caught.value) for word in [*words, str(path)])


def test_preprocessing_is_the_published_arithmetic():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    given = InputPreprocessing.of(PREPROCESSING["torchvision"])(pixels.astype(np.uint8))
    np.testing.assert_allclose(given, (pixels / 255 - mean) / std, atol=1e-5)
    given = InputPreprocessing.of(PREPROCESSING["paper"])(pixels)
    np.testing.assert_allclose(given, pixels - 255 * mean, atol=1e-4)
    # Caffe's mean, blue first: python/caffe/imagenet/ilsvrc_2012_mean.npy.
    given = InputPreprocessing.of(PREPROCESSING["caffe"])(pixels)
    expected = pixels[..., ::-1] - np.array([104.00698793, 116.66876762, 122.67891434])
    np.testing.assert_allclose(given, expected, atol=1e-4)


def test_evaluation_resizes_as_published():
    # Paper, section 4.1, and torchvision: the shorter side to 256, of which 224. Caffe: both sides.
    for name in ("paper", "torchvision"):
        geometry = PREPROCESSING[name].geometry
        assert (PREPROCESSING[name].resize(224), geometry["keep_aspect"]) == (256, True)
    geometry = PREPROCESSING["caffe"].geometry
    assert (PREPROCESSING["caffe"].resize(227), geometry["keep_aspect"]) == (256, False)


@pytest.mark.parametrize("name", PREPROCESSING)
def test_arrays_and_tensors_are_preprocessed_alike(name):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    given = PREPROCESSING[name].apply(pixels)
    assert (type(given), given.dtype) == (np.ndarray, np.float32)
    tensor = PREPROCESSING[name].apply(keras.ops.convert_to_tensor(pixels))
    np.testing.assert_allclose(tensor, given, atol=1e-5)


def test_preprocessing_is_saved_with_the_model(archive, tmp_path):
    built = build_classifier(3, weights=archive(trunk("torchvision")), image_size=64)
    built.model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert preprocessing_of(again) == PREPROCESSING["torchvision"]
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.float32)
    np.testing.assert_array_equal(again(images), built.model(images))


def test_a_bare_net_knows_its_preprocessing_and_a_foreign_model_does_not(archive):
    assert preprocessing_of(AlexNet(input_shape=(64, 64, 3))) == PREPROCESSING["paper"]
    foreign = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="records no preprocessing"):
        preprocessing_of(foreign)
