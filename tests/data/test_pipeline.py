from __future__ import annotations

import hashlib
import io
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from alexnet_keras.data import (
    AUGMENTATIONS,
    CentreView,
    Examples,
    RandomView,
    centre_view,
    evaluation_batches,
    fixed_views,
    training_batches,
)
from alexnet_keras.data.augmentation import AreaCrop, CentreCrop, ColorJitter, ShiftedCrop


def picture(height, width, seed=0):
    """Smooth colours, as photographs have them: resizing noise would test only the filter."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(64, 192, (6, 6, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def encode(image, kind="PNG"):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.fixture(params=["bytes", "paths"])
def examples(request, tmp_path):
    encoded = [encode(picture(40 + i, 50, i)) for i in range(7)]
    contents = encoded
    if request.param == "paths":
        contents = [tmp_path / f"{i}.png" for i in range(7)]
        for path, content in zip(contents, encoded, strict=True):
            path.write_bytes(content)
    return Examples(
        "some",
        ("a", "b", "c"),
        tuple(map(str, range(7))),
        np.array([0, 1, 2, 0, 1, 2, 0], np.int32),
        tuple(contents),
    )


def take(batches, count):
    return [(images.numpy(), labels.numpy()) for images, labels in batches.take(count)]


@pytest.mark.parametrize(("height", "width"), [(300, 400), (400, 300), (150, 100), (60, 60)])
def test_the_centre_view_is_resize_256_and_centre_crop(height, width):
    image = picture(height, width)
    scale = 256 / min(height, width)
    resized = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    left, top = (resized.width - 224) // 2, (resized.height - 224) // 2
    expected = np.asarray(resized.crop((left, top, left + 224, top + 224)), np.float64)
    given = centre_view(encode(image), 224, 256 / 224).numpy()
    assert given.shape == (224, 224, 3)
    # The window is rounded to whole pixels of the original: half a pixel of shift at most.
    assert np.abs(given - expected).mean() < 2


def test_evaluation_keeps_the_order_and_every_example(examples):
    batches = list(
        evaluation_batches(examples, image_size=32, resize_ratio=256 / 224, batch_size=3)
    )
    assert [images.shape[0] for images, _ in batches] == [3, 3, 1]
    labels = np.concatenate([labels for _, labels in batches])
    np.testing.assert_array_equal(labels, np.eye(3)[examples.labels])


@pytest.mark.parametrize("preset", AUGMENTATIONS)
def test_training_batches_repeat_whatever_the_threads(examples, preset):
    def run(threads):
        batches = training_batches(
            examples, AUGMENTATIONS[preset](), image_size=24, batch_size=3, seed=5
        )
        options = tf.data.Options()
        options.threading.private_threadpool_size = threads
        return take(batches.with_options(options), 6)

    for (images, labels), (again, labels_again) in zip(run(1), run(4), strict=True):
        assert images.shape == (3, 24, 24, 3)
        assert images.dtype == np.float32
        np.testing.assert_array_equal(images, again)
        np.testing.assert_array_equal(labels, labels_again)


def test_seeds_and_epochs_give_other_views_and_orders(examples):
    def first(seed, epoch=0):
        batches = training_batches(
            examples,
            AUGMENTATIONS["inception"](),
            image_size=24,
            batch_size=7,
            seed=seed,
            first_epoch=epoch,
        )
        return take(batches, 1)[0]

    base, labels = first(0)
    for other, other_labels in (first(1), first(0, epoch=1)):
        assert not np.array_equal(base, other)
        assert sorted(labels.argmax(1)) == sorted(other_labels.argmax(1))


def test_a_second_phase_goes_on_where_the_first_stopped(examples):
    def batches(first_epoch):
        return training_batches(
            examples,
            AUGMENTATIONS["alexnet2012"](),
            image_size=24,
            batch_size=3,
            seed=0,
            first_epoch=first_epoch,
        )

    # Seven examples make two whole batches of three an epoch.
    for (given, _), (expected, _) in zip(take(batches(1), 2), take(batches(0), 4)[2:], strict=True):
        np.testing.assert_array_equal(given, expected)


def test_each_example_comes_at_most_once_an_epoch(examples):
    marked = Examples(
        "marked", tuple("abcdefg"), examples.keys, np.arange(7, dtype=np.int32), examples.contents
    )
    batches = training_batches(
        marked, AUGMENTATIONS["inception"](), image_size=8, batch_size=3, seed=1
    )
    for epoch in range(3):
        labels = [batch[1].argmax(1) for batch in take(batches.skip(2 * epoch), 2)]
        assert len(set(np.concatenate(labels))) == 6


def all_views(examples, view, image_size=16, batch_size=3):
    batches = fixed_views([(examples, view)], image_size=image_size, batch_size=batch_size)
    views, digests, _ = zip(*batches.as_numpy_iterator(), strict=True)
    return np.concatenate(views), np.concatenate(digests)


def test_fixed_views_cover_every_example_in_order_and_tell_its_hash(examples):
    views, digests = all_views(examples, RandomView(AUGMENTATIONS["inception"](), 2))
    assert views.shape == (7, 16, 16, 3)
    assert list(digests) == [hashlib.sha256(content).digest() for content in examples.contents]
    assert examples.contents.digests().tobytes() == b"".join(digests)


def test_fixed_views_of_several_parts_come_one_after_the_other(examples):
    plain, mirrored = CentreView(1.0), CentreView(1.0, mirrored=True)
    asked = [(examples.select([2, 5]), mirrored), (examples, plain), (examples.select([0]), plain)]
    batches = list(fixed_views(asked, image_size=16, batch_size=4).as_numpy_iterator())
    assert [len(images) for images, _, _ in batches] == [4, 4, 2]
    images, digests, numbers = map(np.concatenate, zip(*batches, strict=True))
    assert numbers.tolist() == [0] * 2 + [1] * 7 + [2]
    of_all, their_digests = all_views(examples, plain)
    np.testing.assert_array_equal(images[:2], of_all[[2, 5], :, ::-1])
    np.testing.assert_array_equal(images[2:9], of_all)
    np.testing.assert_array_equal(images[9], of_all[0])
    assert digests.tolist() == [*their_digests[[2, 5]], *their_digests, their_digests[0]]


def test_fixed_views_are_of_what_is_chosen_shortly_before(examples):
    asked = [(examples, CentreView(1.0)), (examples.select([6, 5, 4]), CentreView(1.0))]
    told = []

    def choose(number, indices):
        told.append((number, indices.tolist()))
        return indices[indices % 2 == 1 - number]

    batches = fixed_views(asked, image_size=16, batch_size=4, choose=choose)
    _, digests, numbers = map(np.concatenate, zip(*batches.as_numpy_iterator(), strict=True))
    assert told == [(0, [0, 1, 2, 3]), (0, [4, 5, 6]), (1, [0, 1, 2])]
    assert numbers.tolist() == [0, 0, 0, 1, 1]
    of_all = examples.contents.digests()
    assert b"".join(digests) == of_all[[1, 3, 5, 6, 4]].tobytes()


def test_a_view_belongs_to_the_bytes_of_its_image(examples):
    view = RandomView(AUGMENTATIONS["inception"](), 2)
    views, _ = all_views(examples, view)
    order = [4, 0, 6]
    moved, _ = all_views(examples.select(order), view)
    np.testing.assert_array_equal(moved, views[order])
    other, _ = all_views(examples, RandomView(AUGMENTATIONS["inception"](), 3))
    assert all(np.abs(a - b).max() > 1 for a, b in zip(views, other, strict=True))


def test_a_mirrored_centre_view_is_the_centre_view_seen_from_behind(examples):
    plain, _ = all_views(examples, CentreView(256 / 224))
    mirrored, _ = all_views(examples, CentreView(256 / 224, mirrored=True))
    np.testing.assert_array_equal(mirrored, plain[:, :, ::-1])
    np.testing.assert_array_equal(plain[0], centre_view(examples.read(0), 16, 256 / 224).numpy())


def ramps(count):
    """Bright on the left, each with bytes of its own: a mirrored view is bright on the right."""
    contents = []
    for number in range(count):
        ramp = np.repeat(np.linspace(255, 0, 64, dtype=np.uint8)[None], 64, axis=0)
        ramp[0, 0] = number % 256
        ramp[0, 1] = number // 256
        contents.append(encode(Image.fromarray(ramp), "PNG"))
    return Examples("ramp", ("a", "b"), ("x",) * count, np.zeros(count, np.int32), contents)


def are_mirrored(views):
    return views[:, :, 0].mean(axis=(1, 2)) < views[:, :, -1].mean(axis=(1, 2))


def test_flips_come_in_half_of_all_cases():
    views, _ = all_views(ramps(400), RandomView(AUGMENTATIONS["inception"]()), 8, 100)
    assert abs(are_mirrored(views).mean() - 0.5) < 3 * (0.25 / 400) ** 0.5


def test_without_mirrors_no_view_is_one_and_nothing_else_changes():
    mirrored = AUGMENTATIONS["random_resized_crop"]()
    plain = replace(mirrored, mirror=False)
    both, _ = all_views(ramps(60), RandomView(mirrored), 8, 60)
    views, _ = all_views(ramps(60), RandomView(plain), 8, 60)
    assert 10 < are_mirrored(both).sum() < 50
    assert not are_mirrored(views).any()
    turned = np.where(are_mirrored(both)[:, None, None, None], both[:, :, ::-1], both)
    np.testing.assert_array_equal(views, turned)


def test_training_batches_have_no_mirrors_where_there_are_to_be_none():
    def mirrored(mirror):
        batches = training_batches(
            ramps(60),
            replace(AUGMENTATIONS["inception"](), mirror=mirror),
            image_size=8,
            batch_size=60,
            seed=0,
        )
        ((views, _),) = take(batches, 1)
        return are_mirrored(views).sum()

    assert (mirrored(False), 10 < mirrored(True) < 50) == (0, True)


@pytest.mark.parametrize("preset", AUGMENTATIONS)
def test_stored_views_with_and_without_mirrors_are_told_apart(preset):
    augmentation = AUGMENTATIONS[preset]()
    plain = replace(augmentation, mirror=False)
    assert augmentation == AUGMENTATIONS[preset]() == replace(plain, mirror=True)
    assert augmentation != plain
    assert repr(RandomView(augmentation)) != repr(RandomView(plain))


def windows(crop, height, width, count=400):
    def window(i):
        return crop(tf.constant(height), tf.constant(width), tf.stack([i, 0]))

    found = tf.map_fn(window, tf.range(count), fn_output_signature=tf.int32).numpy()
    top, left, h, w = found.T
    assert (top >= 0).all() and (left >= 0).all() and (h > 0).all() and (w > 0).all()
    assert (top + h <= height).all() and (left + w <= width).all()
    return found


def test_shifted_crops_reach_every_corner_at_the_papers_scale():
    top, left, h, w = windows(ShiftedCrop(256 / 224), 256, 320).T
    assert set(h) == set(w) == {224}
    assert (top.min(), top.max()) == (0, 32)
    assert left.min() <= 2 and left.max() >= 94


def test_area_crops_have_the_areas_and_aspects_asked_for():
    _, _, h, w = windows(AreaCrop((0.35, 1.0), (3 / 4, 4 / 3)), 300, 300).T
    share, aspect = h * w / 300**2, w / h
    assert 0.34 < share.min() < 0.4 and share.max() > 0.9
    assert 0.74 < aspect.min() < 0.8 and 1.25 < aspect.max() < 1.35


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 3)])
def test_tiny_images_still_have_a_window(shape):
    for crop in (AreaCrop(), ShiftedCrop(256 / 224)):
        windows(crop, *shape, count=20)
    window = CentreCrop(256 / 224)(tf.constant(shape[0]), tf.constant(shape[1])).numpy()
    assert (window[2:] >= 1).all()


def test_color_jitter_without_strength_changes_nothing_and_stays_in_range():
    pixels = tf.constant(np.random.default_rng(0).uniform(0, 255, (6, 6, 3)), tf.float32)
    still = ColorJitter(0, 0, 0)(pixels, tf.constant([1, 2]))
    np.testing.assert_allclose(still, pixels, atol=1e-3)
    strong = ColorJitter(0.9, 0.9, 0.9)(pixels, tf.constant([1, 2])).numpy()
    assert strong.min() >= 0 and strong.max() <= 255
    assert np.abs(strong - pixels).mean() > 5


@pytest.mark.parametrize(("height", "width"), [(300, 500), (256, 256)])
def test_without_the_aspect_the_centre_view_is_that_of_the_image_stretched_to_a_square(
    height, width
):
    # Caffe: examples/imagenet/create_imagenet.sh stretches to 256 x 256; nets take 227 of it.
    image = picture(height, width)
    stretched = image.resize((256, 256), Image.Resampling.BILINEAR)
    expected = np.asarray(stretched.crop((14, 14, 241, 241)), np.float32)
    given = centre_view(encode(image), 227, 256 / 227, keep_aspect=False).numpy()
    assert given.shape == (227, 227, 3)
    # Within a level on average: windows begin at whole pixels of the image.
    assert np.abs(given - expected).mean() < 1
    kept = centre_view(encode(image), 227, 256 / 227).numpy()
    assert (np.abs(kept - expected).mean() > 3) == (height != width)
