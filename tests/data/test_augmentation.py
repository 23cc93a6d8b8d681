from __future__ import annotations

import functools
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from alexnet_keras.data import AUGMENTATIONS, published_augmentation
from alexnet_keras.data.augmentation import CentreCrop, PublishedCrop
from alexnet_keras.data.pipeline import augmented_view, centre_view, ten_views

RATIO = 256 / 224
SHAPES = [(256, 256), (256, 400), (401, 256), (300, 457), (33, 47), (1, 5), (8, 1)]


@functools.cache
def crop_of_seeds(keep_aspect):
    crop = PublishedCrop(RATIO, keep_aspect)

    @tf.function(autograph=False)
    def windows(height, width, count):
        return tf.map_fn(lambda number: crop(height, width, tf.stack([number, 0])), tf.range(count))

    return windows


def windows(keep_aspect, height, width, count=300):
    """Of `count` seeds: top, left, height and width, each an array."""
    arguments = map(tf.constant, (height, width, count))
    return crop_of_seeds(keep_aspect)(*arguments).numpy().T


def centred(height, width, keep_aspect):
    """The part of the photograph that evaluation resizes, by the definition of it."""
    if not keep_aspect:
        return 0.0, 0.0, height, width
    side = min(height, width)
    return (height - side) / 2, (width - side) / 2, side, side


@pytest.mark.parametrize("keep_aspect", [True, False])
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_published_crops_stay_within_what_evaluation_resizes(height, width, keep_aspect):
    top, left, rows, columns = windows(keep_aspect, height, width)
    first_row, first_column, all_rows, all_columns = centred(height, width, keep_aspect)
    assert set(rows) == {max(round(all_rows / RATIO), 1)}
    assert set(columns) == {max(round(all_columns / RATIO), 1)}
    # An odd margin is not the same on both sides.
    assert (top >= np.floor(first_row)).all() and (left >= np.floor(first_column)).all()
    assert (top + rows <= np.ceil(first_row) + all_rows).all()
    assert (left + columns <= np.ceil(first_column) + all_columns).all()
    assert (top >= 0).all() and (top + rows <= height).all()
    assert (left >= 0).all() and (left + columns <= width).all()


@pytest.mark.parametrize("keep_aspect", [True, False])
def test_published_crops_reach_all_places_evenly(keep_aspect):
    top, left, rows, columns = windows(keep_aspect, 64, 96, count=1000)
    first_row, first_column, all_rows, all_columns = centred(64, 96, keep_aspect)
    for start, first, room in ((top, first_row, all_rows - rows[0]), (left, first_column, None)):
        room = all_columns - columns[0] if room is None else room
        counts = np.bincount(start - int(first), minlength=room + 1)
        assert len(counts) == room + 1
        expected = len(start) / (room + 1)
        assert np.abs(counts - expected).max() < 4.5 * np.sqrt(expected)
    assert abs(np.corrcoef(top, left)[0, 1]) < 0.15


@pytest.mark.parametrize("keep_aspect", [True, False])
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_the_middle_of_the_published_crops_is_evaluations(height, width, keep_aspect):
    centre = CentreCrop(RATIO, keep_aspect)(tf.constant(height), tf.constant(width)).numpy()
    top, left, rows, columns = windows(keep_aspect, height, width)
    np.testing.assert_array_equal([rows[0], columns[0]], centre[2:])
    # Half a pixel, where an even room has a middle and an odd one two.
    assert abs((top.min() + top.max()) / 2 - centre[0]) <= 0.5
    assert abs((left.min() + left.max()) / 2 - centre[1]) <= 0.5
    assert centre[0] in top and centre[1] in left


def test_published_views_have_the_colour_noise_of_2012_unless_it_is_off():
    pixels = tf.constant(np.random.default_rng(0).uniform(0, 255, (6, 6, 3)), tf.float32)
    seed = tf.constant([3, 4])
    np.testing.assert_array_equal(
        published_augmentation(RATIO, color_noise=False).recolor(pixels, seed), pixels
    )
    # One colour is added to all pixels.
    added = published_augmentation(RATIO).recolor(pixels, seed) - pixels
    np.testing.assert_allclose(added, np.broadcast_to(added[0, 0], (6, 6, 3)), atol=1e-4)
    assert np.abs(added).max() > 0.5


def test_the_colour_noise_is_as_strong_as_in_2012():
    recolor = published_augmentation(RATIO).recolor

    @tf.function(autograph=False)
    def drawn():
        return tf.map_fn(
            lambda number: recolor(tf.zeros([1, 1, 3]), tf.stack([number, 1])),
            tf.range(2000),
            fn_output_signature=tf.float32,
        )

    # cuda-convnet2: .1 times the standard deviations 121.8, 37.1 and 19.7 along the components.
    components = np.array(
        [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    )
    variances = (0.1 * np.array([121.8, 37.1, 19.7])) ** 2
    expected = components @ np.diag(variances) @ components.T
    found = np.cov(drawn().numpy().reshape(-1, 3).T)
    np.testing.assert_allclose(found, expected, atol=0.15 * expected.max())


def picture(height, width):
    """Smooth colours, as photographs have them: resizing noise would test only the filter."""
    coarse = np.random.default_rng(height).integers(64, 192, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "PNG")
    return image, file.getvalue()


def crops_by_pillow(image, size, ratio, keep_aspect):
    """The paper's section 4.1: resize the shorter side, central square, five crops, mirrors."""
    side = round(size * ratio)
    width, height = image.size
    if keep_aspect:
        scale = side / min(width, height)
        image = image.resize((round(width * scale), round(height * scale)), Image.BILINEAR)
    else:
        image = image.resize((side, side), Image.BILINEAR)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    free = side - size
    places = [(0, 0), (free, 0), (0, free), (free, free), (free // 2, free // 2)]
    crops = [square.crop((x, y, x + size, y + size)) for x, y in places]
    return np.stack([np.asarray(c, np.float64) for c in [*crops, *map(ImageOps.mirror, crops)]])


@pytest.mark.parametrize(
    ("height", "width", "size", "ratio", "keep_aspect"),
    [
        (300, 431, 224, 256 / 224, True),
        (180, 120, 224, 256 / 224, True),
        (300, 431, 227, 256 / 227, False),
        (90, 90, 64, 256 / 224, True),
    ],
)
def test_the_ten_views_are_pillows(height, width, size, ratio, keep_aspect):
    image, content = picture(height, width)
    expected = crops_by_pillow(image, size, ratio, keep_aspect)
    given = ten_views(content, size, ratio, keep_aspect).numpy()
    assert given.shape == (10, size, size, 3)
    assert given.dtype == np.float32
    # Within a level on average: the square begins at a whole pixel of the photograph.
    assert np.abs(given - expected).mean(axis=(1, 2, 3)).max() < 1
    np.testing.assert_array_equal(given[5:], given[:5, :, ::-1])
    # The views differ from one another by more than that.
    distances = np.abs(given[:, None] - given[None]).mean(axis=(2, 3, 4))
    assert distances[~np.eye(10, dtype=bool)].min() > 2


@pytest.mark.parametrize("keep_aspect", [True, False])
def test_the_fifth_view_is_the_centre_crop(keep_aspect):
    _, content = picture(300, 431)
    views = ten_views(content, 224, RATIO, keep_aspect).numpy()
    centre = centre_view(content, 224, RATIO, keep_aspect).numpy()
    distances = np.abs(views - centre).mean(axis=(1, 2, 3))
    assert distances[4] < 1
    assert distances.argmin() == 4


class TestStrength:
    @pytest.fixture(scope="class")
    def photograph(self):
        coarse = np.random.default_rng(0).integers(40, 215, (7, 7, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((70, 70), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        image.save(file, "PNG")
        return file.getvalue()

    @pytest.mark.parametrize("name", AUGMENTATIONS)
    def test_of_one_is_the_preset_itself(self, name):
        preset = AUGMENTATIONS[name]()
        assert preset.at_strength(1.0) is preset
        assert repr(preset.at_strength(0.5)) != repr(preset)  # views are told apart by it

    @pytest.mark.parametrize("name", AUGMENTATIONS)
    def test_of_zero_shows_a_square_photograph_as_it_is(self, name, photograph):
        none = AUGMENTATIONS[name]().at_strength(0.0)
        seeds = [tf.constant([seed, 1]) for seed in range(6)]
        views = [augmented_view(photograph, none, 32, seed).numpy() for seed in seeds]
        seen = [view if np.ptp(view - views[0]) < 1 else view[:, ::-1] for view in views]
        for view in seen:
            np.testing.assert_allclose(view, seen[0], atol=0.01)

    def test_areas_aspects_and_colours_grow_with_it(self):
        half, usual, more = (AUGMENTATIONS["gentle"]().at_strength(s) for s in (0.5, 1.0, 2.0))
        assert half.crop.area == pytest.approx((0.85, 1.0))
        assert more.crop.area == pytest.approx((0.4, 1.0))
        assert half.crop.aspect[1] ** 2 == pytest.approx(usual.crop.aspect[1])
        assert more.recolor.contrast == pytest.approx(2 * usual.recolor.contrast)
        far = AUGMENTATIONS["inception"]().at_strength(5.0)
        assert far.crop.area[0] == 0.08 and far.recolor.brightness == 1

    def test_noise_grows_with_it(self, photograph):
        def noise(strength):
            """The mean shift of a channel, over seeds."""
            recolor = AUGMENTATIONS["alexnet2012"]().at_strength(strength).recolor
            pixels = tf.fill((4, 4, 3), 128.0)
            seeds = [tf.constant([seed, 2]) for seed in range(40)]
            return np.std([recolor(pixels, seed).numpy().mean() for seed in seeds])

        assert noise(2.0) == pytest.approx(2 * noise(1.0), rel=1e-3)
