from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from alexnet_keras.data import centre_view
from alexnet_keras.serving.reading import (
    EXAMPLE_KEY,
    Limits,
    read_examples,
    read_images,
)
from served_model import SIDE, animated_gif, picture

SMALL = Limits(encoded_bytes=200_000, pixels=40_000, scans=12)


def view(encoded):
    return centre_view(encoded, SIDE, 256 / 224)


@tf.function(input_signature=[tf.TensorSpec((None,), tf.string)], autograph=False)
def read(images):
    return read_images(images, view, SIDE, SMALL)._asdict()


@tf.function(input_signature=[tf.TensorSpec((None,), tf.string)], autograph=False)
def read_from_examples(examples):
    found = read_examples(examples, lambda images: read_images(images, view, SIDE, SMALL))
    return found._asdict()


def errors_of(*images):
    return [error.decode() for error in read(tf.constant(images, tf.string))["errors"].numpy()]


def example(**features):
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def of_bytes(*values):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def png_that_says(width, height):
    """The header of a PNG, with no pixel after it."""

    def chunk(name, content):
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def webp_that_says(width, height):
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunk = b"VP8X" + struct.pack("<I", 10) + bytes(4) + sides
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


class TestABadImage:
    GOOD = picture(seed=1)

    @pytest.mark.parametrize(
        ("bad", "reason"),
        [
            (b"", "no bytes"),
            (b"hello", "not a JPEG, PNG, GIF, BMP or WebP image"),
            (GOOD[: len(GOOD) // 2], "damaged JPEG"),
            (b"\xff\xd8\xff" + bytes(40), "damaged JPEG"),
            (picture("PNG")[:60], "damaged PNG"),
            (b"BM" + bytes(60), "damaged BMP"),
            (b"GIF89a" + bytes(3), "damaged GIF"),
            (b"RIFF\x04\0\0\0WEBP", "damaged WebP"),
            (GOOD + bytes(200_000), f"{len(GOOD) + 200_000} bytes; send at most 200000"),
            (picture(size=(300, 200)), "300 x 200 pixels; send at most 40000 of them"),
            (png_that_says(3, 70_000), "70000 x 3 pixels; send at most 40000 of them"),
            (webp_that_says(16_384, 16_384), "16384 x 16384 pixels; send at most 40000 of them"),
        ],
        ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
    )
    def test_is_told_of_and_the_others_are_read(self, bad, reason):
        images = [self.GOOD, bad, picture("PNG", seed=2)]
        found = read(tf.constant(images))
        assert [error.decode() for error in found["errors"].numpy()] == ["", reason, ""]
        assert found["places"].numpy().tolist() == [0, 2]
        expected = np.stack([view(images[0]), view(images[2])])
        np.testing.assert_array_equal(found["pixels"], expected)

    def test_alone_leaves_an_image_of_zeros_for_no_place(self):
        found = read(tf.constant([b"hello"]))
        assert found["places"].numpy().tolist() == [1]
        assert found["pixels"].shape == (1, SIDE, SIDE, 3)
        assert not np.any(found["pixels"])

    def test_a_batch_of_none_is_answered_with_none(self):
        found = read(tf.constant([], tf.string))
        assert found["errors"].shape == (0,)
        assert found["places"].numpy().tolist() == [0]


class TestEveryFormatsSize:
    """What is read from the header is the size that the decoder gives."""

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
    def test_is_known_before_it_is_decoded(self, kind):
        fits, too_large = picture(kind, size=(99, 101)), picture(kind, size=(401, 101))
        assert errors_of(fits, too_large) == ["", "401 x 101 pixels; send at most 40000 of them"]

    def test_of_a_webp_without_loss_too(self):
        image = picture("WEBP", size=(301, 201), lossless=True)
        assert errors_of(image) == ["301 x 201 pixels; send at most 40000 of them"]


class TestABomb:
    def test_of_many_frames_costs_one(self):
        bomb = animated_gif(60, 150)
        assert len(bomb) < SMALL.encoded_bytes
        found = read(tf.constant([bomb]))
        assert found["errors"].numpy().tolist() == [b""]
        first = Image.open(io.BytesIO(bomb)).convert("RGB")
        file = io.BytesIO()
        first.save(file, "PNG")
        np.testing.assert_array_equal(found["pixels"][0], view(file.getvalue()))

    def test_of_many_scans_is_refused(self):
        progressive = picture(progressive=True)
        assert errors_of(progressive) == [""]
        # One scan over and over, as a decoder would take it.
        last = progressive.rindex(b"\xff\xda")
        bomb = progressive[:last] + progressive[last:-2] * 20 + b"\xff\xd9"
        assert errors_of(bomb) == ["JPEG of more than 12 scans; save it anew"]

    def test_of_blocks_that_hold_nothing_is_refused(self):
        bomb = b"GIF89a" + bytes(7) + b"\x21\xfe" + b"\x01\x20" * 40_000
        assert errors_of(bomb + picture("GIF")[13:]) == ["damaged GIF"]

    def test_of_many_images_is_cut(self):
        limits = Limits(images=2)
        found = read_images(tf.constant([picture()] * 4), view, SIDE, limits)
        assert found.pixels.shape[0] == 2
        assert [error.decode() for error in found.errors.numpy()] == [
            *["", ""],
            *["more than 2 images; send fewer at a time"] * 2,
        ]


def test_what_follows_a_jpeg_is_not_counted_as_scans():
    trailer = np.random.default_rng(0).bytes(2**16).replace(b"\0", b"\xff\xda")
    assert trailer.count(b"\xff\xda") > 100
    assert errors_of(picture() + trailer) == [""]


def test_limits_are_at_least_one_and_may_be_large():
    with pytest.raises(ValueError, match="pixels=0 is not at least 1"):
        Limits(pixels=0)
    huge = Limits(encoded_bytes=2**40, pixels=2**40)
    assert read_images(tf.constant([picture()]), view, SIDE, huge).errors.numpy().tolist() == [b""]


class TestExamples:
    def test_are_read_and_bad_ones_told_of(self):
        good, other = picture(seed=1), picture("PNG", seed=2)
        examples = [
            example(**{EXAMPLE_KEY: of_bytes(good), "image/class/label": of_bytes(b"x")}),
            b"\xff\xff\xff",
            example(other=of_bytes(good)),
            example(**{EXAMPLE_KEY: of_bytes(good, good)}),
            example(**{EXAMPLE_KEY: tf.train.Feature(int64_list=tf.train.Int64List(value=[1]))}),
            example(**{EXAMPLE_KEY: of_bytes(b"hello")}),
            example(**{EXAMPLE_KEY: of_bytes(good[:300])}),
            example(**{EXAMPLE_KEY: of_bytes(other)}),
        ]
        found = read_from_examples(tf.constant(examples))
        none = f"no tf.Example with one {EXAMPLE_KEY}".encode()
        no_image = b"not a JPEG, PNG, GIF, BMP or WebP image"
        assert found["errors"].numpy().tolist() == [
            *(b"", none, none, none, none),
            *(no_image, b"damaged JPEG", b""),
        ]
        np.testing.assert_array_equal(found["pixels"], np.stack([view(good), view(other)]))

    def test_with_a_length_that_is_damaged_are_refused(self):
        # tf.io.parse_example dies of it.
        whole = bytearray(example(**{EXAMPLE_KEY: of_bytes(picture(size=(300, 400)))}))
        at = whole.index(b"\xff\xd8\xff") - 2
        whole[at : at + 2] = b"\xd6\xff"
        found = read_from_examples(tf.constant([bytes(whole)]))
        assert found["errors"][0] == f"no tf.Example with one {EXAMPLE_KEY}".encode()


def test_photographs_are_turned_as_their_exif_says():
    upright = Image.open(io.BytesIO(picture("PNG", size=(90, 120))))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it
    file = io.BytesIO()
    upright.rotate(90, expand=True).save(file, "PNG", exif=exif)
    found = read(tf.constant([file.getvalue(), picture("PNG", size=(90, 120))]))["pixels"]
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)
