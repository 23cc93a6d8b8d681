from __future__ import annotations

import io
import itertools
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from alexnet_keras.data.decoding import (
    IMAGE_SUFFIXES,
    decode_image,
    decode_window,
    image_shape,
    why_unreadable,
)

HEIGHT, WIDTH = 61, 94  # odd, unequal and no multiple of a JPEG block


def photo(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> Image.Image:
    """Smooth colour with fine noise and no symmetry: any wrong turn or crop shows."""
    y, x = np.mgrid[:height, :width]
    colour = np.stack(
        [127 + 100 * np.sin(x / 9 + y / 17), 127 + 100 * np.cos(x / 13 - y / 7), x * 255 / width],
        axis=-1,
    )
    noise = np.random.default_rng(seed).normal(0, 5, colour.shape)
    return Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8))


def with_alpha(image: Image.Image) -> Image.Image:
    alpha = np.linspace(0, 255, image.width).astype(np.uint8)
    image = image.convert("RGBA")
    image.putalpha(Image.fromarray(np.tile(alpha, (image.height, 1))))
    return image


def encode(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def pillow(encoded: bytes) -> np.ndarray:
    """int `[height, width, 3]` as Pillow reads it, on white, turned by its EXIF."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
    if image.has_transparency_data and image.format not in ("GIF", "BMP"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB")).astype(int)


def read(encoded: bytes) -> np.ndarray:
    return decode_image(encoded).numpy().astype(int)


def furthest(encoded: bytes) -> int:
    """The largest difference from Pillow, in levels; shapes have to be equal."""
    ours, theirs = read(encoded), pillow(encoded)
    assert ours.shape == theirs.shape
    assert tuple(int(side) for side in image_shape(encoded)) == theirs.shape[:2]
    return int(np.abs(ours - theirs).max())


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">HH", marker, len(content) + 2) + content


def tiff(orientation: int, order: str = "<", kind: int = 3) -> bytes:
    """A TIFF block with three tags, the orientation in the middle."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    entries = struct.pack(order + "HHII", 0x010F, 2, 4, 0)
    entries += struct.pack(order + "HHIHH", 0x0112, kind, 1, orientation, 0)
    entries += struct.pack(order + "HHIHH", 0x0128, 3, 1, 2, 0)
    return head + struct.pack(order + "H", 3) + entries + b"\0" * 4


def exif_segment(orientation: int, order: str = "<") -> bytes:
    return segment(0xFFE1, b"Exif\0\0" + tiff(orientation, order))


def with_segments(jpeg: bytes, *segments: bytes) -> bytes:
    """Directly after the start marker."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def png(
    samples: np.ndarray, depth: int, colour_type: int, *, interlaced=False, extra: bytes = b""
) -> bytes:
    """PNG written from the specification: 8 or 16 bit samples `[height, width, channels]`."""
    height, width, _ = samples.shape
    passes = [(0, 0, 1, 1)]
    if interlaced:  # Adam7: first row and column, row and column step
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2)]
        passes += [(0, 1, 2, 2), (1, 0, 2, 1)]
    data = b""
    for row, column, row_step, column_step in passes:
        part = samples[row::row_step, column::column_step]
        if part.size:
            lines = part.astype(">u2" if depth == 16 else "u1")
            data += b"".join(b"\0" + line.tobytes() for line in lines)

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, int(interlaced))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def cmyk() -> Image.Image:
    inks = np.asarray(photo().convert("CMYK")).copy()
    inks[..., 3] = np.linspace(0, 200, WIDTH)
    return Image.fromarray(inks, "CMYK")


def as_ycck(jpeg: bytes) -> bytes:
    """The same four channels declared YCCK: the Adobe segment's last byte, transform 2."""
    at = jpeg.index(b"Adobe") + 11
    return jpeg[:at] + b"\2" + jpeg[at + 1 :]


class TestJpegIsReadAsPillowReadsIt:
    @pytest.mark.parametrize("progressive", [False, True])
    @pytest.mark.parametrize("subsampling", [0, 1, 2])
    def test_rgb_to_the_last_bit(self, subsampling, progressive):
        options = {"quality": 90, "subsampling": subsampling, "progressive": progressive}
        assert furthest(encode(photo(), "JPEG", **options)) == 0

    def test_gray_to_the_last_bit(self):
        assert furthest(encode(photo().convert("L"), "JPEG")) == 0

    def test_cmyk_within_one_level(self):
        assert furthest(encode(cmyk(), "JPEG", quality=95)) <= 1

    def test_ycck_within_one_level(self):
        assert furthest(as_ycck(encode(cmyk(), "JPEG", quality=95))) <= 1

    def test_with_bytes_after_its_end(self):
        assert furthest(encode(photo(), "JPEG") + b"trailing bytes" * 50) == 0


class TestExif:
    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_every_orientation_in_both_byte_orders(self, orientation, order):
        encoded = with_segments(encode(photo(), "JPEG"), exif_segment(orientation, order))
        assert furthest(encoded) == 0

    def test_the_eight_orientations_are_eight_different_pictures(self):
        plain = encode(photo(48, 48), "JPEG")
        pictures = {
            read(with_segments(plain, exif_segment(orientation))).tobytes()
            for orientation in range(1, 9)
        }
        assert len(pictures) == 8

    @pytest.mark.parametrize(
        "before",
        [
            [segment(0xFFE1, b"http://ns.adobe.com/xap/1.0/\0" + b"<x/>" * 9000)],
            [segment(0xFFE2, b"ICC_PROFILE\0\1\1" + bytes(65000))] * 5,
            [segment(0xFFFE, b"a comment")],
            [b"\xff\xff\xff"],
        ],
        ids=["XMP", "ICC profile", "comment", "fill bytes"],
    )
    def test_is_found_behind_other_segments(self, before):
        jpeg = encode(photo(), "JPEG")  # starts with JFIF's own APP0
        assert furthest(with_segments(jpeg, *before, exif_segment(6))) == 0
        at = 2 + 2 + struct.unpack(">H", jpeg[4:6])[0]
        after_jfif = jpeg[:at] + b"".join(before) + exif_segment(6) + jpeg[at:]
        assert read(after_jfif).shape == (WIDTH, HEIGHT, 3)

    def test_as_pillow_writes_it(self):
        exif = Image.Exif()
        exif[0x0112] = 8
        for file_format in ("JPEG", "PNG", "WEBP"):
            encoded = encode(photo(), file_format, exif=exif)
            assert furthest(encoded) == 0
            assert read(encoded).shape == (WIDTH, HEIGHT, 3)

    @pytest.mark.parametrize(
        "block",
        [
            b"",
            b"II",
            b"XX*\0\x08\0\0\0" + tiff(6)[8:],
            tiff(0),
            tiff(9),
            tiff(6, kind=2),
            tiff(6)[:20],
            b"II*\0" + struct.pack("<I", 2**32 - 1) + tiff(6)[8:],
            b"MM\0*" + struct.pack(">I", 5000) + tiff(6, ">")[8:],
            b"II*\0" + struct.pack("<IH", 8, 65535),
        ],
        ids=lambda block: f"{len(block)} bytes",
    )
    def test_that_makes_no_sense_is_ignored(self, block):
        jpeg = encode(photo(), "JPEG")
        encoded = with_segments(jpeg, segment(0xFFE1, b"Exif\0\0" + block))
        np.testing.assert_array_equal(read(encoded), read(jpeg))

    def test_random_bytes_in_its_place_never_raise(self):
        jpeg, rng = encode(photo(16, 16), "JPEG"), np.random.default_rng(0)
        orient = tf.function(image_shape, input_signature=[tf.TensorSpec([], tf.string)])
        for _ in range(200):
            block = bytearray(tiff(6))
            for at in rng.integers(0, len(block), 3):
                block[at] = rng.integers(256)
            block = bytes(block[: rng.integers(len(block) + 1)])
            height, _ = orient(with_segments(jpeg, segment(0xFFE1, b"Exif\0\0" + block)))
            assert int(height) == 16


class TestPng:
    @pytest.mark.parametrize("mode", ["RGB", "L", "LA", "P", "RGBA", "1"])
    def test_of_every_mode_is_read_as_pillow_reads_it(self, mode):
        source = with_alpha(photo()) if mode in ("LA", "RGBA") else photo()
        # Alpha: Pillow's compositing rounds its own way.
        assert furthest(encode(source.convert(mode), "PNG")) <= (mode in ("LA", "RGBA"))

    def test_palette_with_a_transparent_entry_is_white_there(self):
        image = photo().convert("P")
        index = int(np.bincount(np.asarray(image).ravel()).argmax())
        encoded = encode(image, "PNG", transparency=index)
        assert furthest(encoded) == 0
        assert (read(encoded)[np.asarray(image) == index] == 255).all()

    def test_what_a_transparent_pixel_hides_does_not_show(self):
        image = with_alpha(photo())
        image.putalpha(0)
        assert (read(encode(image, "PNG")) == 255).all()

    @pytest.mark.parametrize("colour_type, channels", [(0, 1), (2, 3)])
    def test_sixteen_bits_lose_the_low_byte(self, colour_type, channels):
        samples = np.random.default_rng(0).integers(0, 2**16, (13, 17, channels))
        ours = read(png(samples, 16, colour_type))
        np.testing.assert_array_equal(ours, np.broadcast_to(samples >> 8, (13, 17, 3)))

    @pytest.mark.parametrize("depth", [8, 16])
    def test_interlaced(self, depth):
        samples = np.random.default_rng(0).integers(0, 2**depth, (13, 17, 3))
        ours = read(png(samples, depth, 2, interlaced=True))
        np.testing.assert_array_equal(ours, samples >> (depth - 8))


class TestGif:
    def test_is_read_as_pillow_reads_it(self):
        assert furthest(encode(photo(), "GIF")) == 0

    def test_an_animation_gives_its_first_frame(self):
        frames = [photo(seed=seed).rotate(30 * seed) for seed in range(1, 4)]
        encoded = encode(photo(), "GIF", save_all=True, append_images=frames)
        assert Image.open(io.BytesIO(encoded)).n_frames == 4
        assert furthest(encoded) == 0


class TestBmp:
    @pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
    def test_is_read_as_pillow_reads_it(self, mode):
        assert furthest(encode(photo().convert(mode), "BMP")) == 0

    def test_of_32_bits_gives_colour_without_the_fourth_byte(self):
        image = with_alpha(photo())
        np.testing.assert_array_equal(
            read(encode(image, "BMP")), np.asarray(image)[..., :3].astype(int)
        )

    def test_of_four_bits(self):
        rng = np.random.default_rng(0)
        index, palette = rng.integers(0, 16, (5, 7)), rng.integers(0, 256, (16, 4))
        rows = b""
        for line in index[::-1]:  # bottom row first, two pixels a byte, rows of 4 bytes
            digits = "".join(f"{value:x}" for value in line).ljust(8, "0")
            rows += bytes.fromhex(digits)
        info = struct.pack("<IiiHHIIiiII", 40, 7, 5, 1, 4, 0, len(rows), 0, 0, 16, 0)
        colours = palette.astype(np.uint8).tobytes()
        first = 14 + 40 + 64
        head = b"BM" + struct.pack("<IHHI", first + len(rows), 0, 0, first)
        encoded = head + info + colours + rows
        np.testing.assert_array_equal(read(encoded), palette[index][..., 2::-1])

    @pytest.mark.parametrize("mode", ["RGB", "P"])
    def test_with_the_top_row_first(self, mode):
        image = photo().convert(mode)
        encoded = bytearray(encode(image.transpose(Image.Transpose.FLIP_TOP_BOTTOM), "BMP"))
        encoded[22:26] = struct.pack("<i", -HEIGHT)
        assert furthest(bytes(encoded)) == 0
        np.testing.assert_array_equal(read(bytes(encoded)), np.asarray(image.convert("RGB")))

    def test_with_bytes_after_its_pixels(self):
        assert furthest(encode(photo(), "BMP") + b"\0\0") == 0

    def test_that_is_compressed_is_refused(self):
        encoded = bytearray(encode(photo().convert("P"), "BMP"))
        encoded[30] = 1  # RLE8
        with pytest.raises(tf.errors.InvalidArgumentError, match="not supported"):
            decode_image(bytes(encoded))


class TestWebp:
    @pytest.mark.parametrize("lossless", [False, True])
    def test_is_read_as_pillow_reads_it(self, lossless):
        assert furthest(encode(photo(), "WEBP", lossless=lossless)) == 0

    @pytest.mark.parametrize("lossless", [False, True])
    def test_with_alpha_is_composited_on_white(self, lossless):
        assert furthest(encode(with_alpha(photo()), "WEBP", lossless=lossless)) <= 1

    @pytest.mark.parametrize("alpha", [False, True])
    def test_an_animation_gives_its_first_frame(self, alpha):
        frames = [photo(seed=seed).rotate(30 * seed) for seed in range(1, 4)]
        first = with_alpha(photo()) if alpha else photo()
        encoded = encode(first, "WEBP", save_all=True, append_images=frames, lossless=True)
        assert Image.open(io.BytesIO(encoded)).n_frames == 4
        for _ in range(20):  # the decoder of TensorFlow 2.21 by itself would overrun its buffer
            assert furthest(encoded) <= alpha


ENCODED = {
    "baseline JPEG": encode(photo(), "JPEG"),
    "progressive JPEG": encode(photo(), "JPEG", progressive=True),
    "turned JPEG": with_segments(encode(photo(), "JPEG"), exif_segment(5)),
    "large JPEG": encode(photo(333, 517), "JPEG"),  # read at an eighth of its scale below
    "PNG": encode(photo(), "PNG"),
    "GIF": encode(photo(), "GIF"),
    "BMP": encode(photo(), "BMP"),
    "WebP": encode(photo(), "WEBP"),
    "lossless WebP": encode(photo(), "WEBP", lossless=True),
}


def centre(height, width):
    side = tf.minimum(height, width) - 10
    return tf.stack([(height - side) // 2, (width - side) // 2, side, side])


class TestWhatCannotBeRead:
    @pytest.mark.parametrize("name", ENCODED)
    def test_truncation_raises_and_is_reported(self, name):
        encoded = ENCODED[name]
        # A GIF may lack the one byte that says that no frame follows.
        for keep in (14, 40, 200, len(encoded) // 2, len(encoded) * 9 // 10, len(encoded) - 2):
            with pytest.raises(tf.errors.InvalidArgumentError):
                decode_image(encoded[:keep])
            with pytest.raises(tf.errors.InvalidArgumentError):
                decode_window(encoded[:keep], centre, 16)
            assert why_unreadable(encoded[:keep]) == f"truncated {name.split()[-1]}"

    def test_a_jpeg_cut_below_the_window_raises(self):
        def top(height, width):
            return tf.constant([0, 0, 8, 8])

        encoded = encode(photo(400, 60), "JPEG")
        decode_window(encoded, top, 8)
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode_window(encoded[: len(encoded) * 3 // 4], top, 8)

    @pytest.mark.parametrize("name", ENCODED)
    def test_a_good_file_has_no_reason(self, name):
        assert why_unreadable(ENCODED[name]) is None

    @pytest.mark.parametrize(
        "content, reason",
        [
            (b"", "empty file"),
            (b"\xff", "not a JPEG, PNG, GIF, BMP or WebP image"),
            (b"some text in a file", "not a JPEG, PNG, GIF, BMP or WebP image"),
            (b"<html>", "not a JPEG, PNG, GIF, BMP or WebP image (it is HTML, XML or SVG)"),
            (
                b"\0\0\0\x1cftypheic" + bytes(40),
                "not a JPEG, PNG, GIF, BMP or WebP image (it is HEIC)",
            ),
            (b"RIFF\x10\0\0\0WAVEfmt ", "not a JPEG, PNG, GIF, BMP or WebP image"),
            (b"\xff\xd8\xff\xe0" + bytes(50) + b"\xff\xd9", "damaged JPEG"),
        ],
    )
    def test_other_content_raises_and_is_named(self, content, reason):
        assert why_unreadable(content) == reason
        for attempt in (decode_image, image_shape, lambda e: decode_window(e, centre, 8)):
            with pytest.raises(tf.errors.InvalidArgumentError):
                attempt(content)

    def test_a_png_with_a_wrong_checksum_is_damaged(self):
        encoded = bytearray(ENCODED["PNG"])
        encoded[len(encoded) // 2] ^= 0xFF
        assert why_unreadable(bytes(encoded)) == "damaged PNG"

    def test_a_jpeg_beyond_the_decoder_is_named_before_it_is_decoded(self):
        encoded = bytearray(ENCODED["baseline JPEG"])
        at = encoded.index(b"\xff\xc0") + 5
        encoded[at : at + 4] = struct.pack(">HH", 30000, 30000)
        assert why_unreadable(bytes(encoded)).startswith("JPEG too large to decode: 30000 x 30000")

    def test_files_are_checked_from_several_threads(self):
        contents = list(itertools.islice(itertools.cycle([*ENCODED.values(), b"no"]), 90))
        with ThreadPoolExecutor(8) as pool:
            reasons = list(pool.map(why_unreadable, contents))
        assert [reason is None for reason in reasons] == [content != b"no" for content in contents]


def fixed(*part):
    return lambda height, width: tf.constant(part)


def pillow_window(encoded: bytes, part, size) -> np.ndarray:
    top, left, height, width = part
    whole = Image.fromarray(pillow(encoded).astype(np.uint8))
    window = whole.crop((left, top, left + width, top + height))
    return np.asarray(window.resize(size[::-1], Image.Resampling.BILINEAR)).astype(float)


class TestWindow:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize(
        "part, size",
        [((10, 3, 40, 29), (24, 13)), ((10, 3, 40, 29), (71, 90)), ((5, 21, 40, 30), (40, 30))],
        ids=["smaller", "larger", "as it is"],
    )
    def test_of_a_jpeg_equals_pillows_crop_and_resize(self, orientation, part, size):
        encoded = with_segments(encode(photo(), "JPEG"), exif_segment(orientation))
        ours = decode_window(encoded, fixed(*part), size).numpy()
        theirs = pillow_window(encoded, part, size)
        assert ours.dtype == np.float32 and ours.shape == theirs.shape
        # Pillow rounds to whole levels, between its two passes too.
        assert np.abs(ours - theirs).mean() < 0.5
        assert np.abs(ours - theirs).max() <= 1.5

    @pytest.mark.parametrize("name", ["PNG", "GIF", "BMP", "WebP"])
    def test_of_other_formats_equals_pillows_crop_and_resize(self, name):
        ours = decode_window(ENCODED[name], fixed(10, 3, 40, 29), (24, 13)).numpy()
        theirs = pillow_window(ENCODED[name], (10, 3, 40, 29), (24, 13))
        assert np.abs(ours - theirs).max() <= 1.5

    @pytest.mark.parametrize("options", [{"subsampling": 2}, {"progressive": True}])
    def test_has_the_whole_images_pixels_up_to_its_edges(self, options):
        encoded = encode(photo(), "JPEG", **options)
        whole, rng = read(encoded), np.random.default_rng(0)
        for _ in range(20):
            top, left = rng.integers(0, (HEIGHT - 24, WIDTH - 24))
            height, width = rng.integers(1, 25, 2)
            part = [int(value) for value in (top, left, height, width)]
            ours = decode_window(encoded, fixed(*part), (part[2], part[3]))
            np.testing.assert_array_equal(ours, whole[top : top + height, left : left + width])

    def test_is_asked_for_in_the_pixels_that_a_person_sees(self):
        seen = []

        def whole(height, width):
            seen.append((int(height), int(width)))
            return tf.stack([0, 0, height, width])

        decode_window(ENCODED["turned JPEG"], whole, 8)
        assert seen == [(WIDTH, HEIGHT)]

    @pytest.mark.parametrize("name", ["baseline JPEG", "turned JPEG", "PNG"])
    @pytest.mark.parametrize("part", [(-1, 0, 9, 9), (0, 0, 900, 9), (90, 90, 9, 9), (0, 0, 0, 5)])
    def test_outside_the_image_raises(self, name, part):
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode_window(ENCODED[name], fixed(*part), 8)

    def test_stays_within_0_and_255(self):
        white = encode(Image.new("RGB", (300, 200), "white"), "JPEG")
        values = decode_window(white, fixed(0, 0, 200, 299), 37).numpy()
        assert values.max() <= 255 and values.min() > 254.9


def blob(height: int, width: int, row: float, column: float, sigma: float) -> Image.Image:
    """A round light whose centre is known, in pixels from the upper left corner."""
    y, x = np.mgrid[:height, :width] + 0.5
    light = 230 * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * sigma**2))
    return Image.fromarray(np.round(np.stack([light] * 3, axis=-1)).astype(np.uint8))


def centroid(pixels: np.ndarray) -> np.ndarray:
    grid = np.mgrid[: pixels.shape[0], : pixels.shape[1]] + 0.5
    return (grid * pixels[..., 0]).sum((1, 2)) / pixels[..., 0].sum()


def pillow_reduced(encoded: bytes, part, size, ratio: int) -> np.ndarray:
    """Pillow's crop and resize of what it decodes at one `ratio`-th of the scale."""
    image = Image.open(io.BytesIO(encoded))
    image.draft(image.mode, (image.width // ratio, image.height // ratio))
    top, left, height, width = (edge / ratio for edge in part)
    edges = (int(left), int(top), int(np.ceil(left + width)), int(np.ceil(top + height)))
    box = (left - edges[0], top - edges[1], left + width - edges[0], top + height - edges[1])
    window = image.convert("RGB").crop(edges)
    return np.asarray(window.resize(size[::-1], Image.Resampling.BILINEAR, box=box)).astype(float)


def turned(image: Image.Image, orientation: int) -> Image.Image:
    image.getexif()[0x0112] = orientation
    return ImageOps.exif_transpose(image)


class TestReducedScale:
    SHAPE = (203, 333)

    def windows(self, ratio: int, size: tuple[int, int]) -> list[list[int]]:
        """Every corner, and random places: windows that are read at `ratio`."""
        rng = np.random.default_rng(ratio)
        parts = []
        for bottom, right in [(0, 0), (0, 1), (1, 0), (1, 1), *rng.random((6, 2))]:
            # Twice the pixels at this scale, not at the next.
            height, width = (int(rng.integers(2 * ratio * n, 4 * ratio * n)) for n in size)
            height, width = min(height, self.SHAPE[0]), min(width, self.SHAPE[1])
            top, left = (self.SHAPE[0] - height) * bottom, (self.SHAPE[1] - width) * right
            parts.append([int(top), int(left), height, width])
        return parts

    @pytest.mark.parametrize("ratio", [1, 2, 4, 8])
    @pytest.mark.parametrize(
        "options",
        [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2, "progressive": True}, "L"],
        ids=["4:4:4", "4:2:2", "4:2:0 progressive", "gray"],
    )
    def test_equals_pillows_crop_and_resize_of_that_scale(self, options, ratio):
        image = photo(*self.SHAPE)
        if options == "L":
            image, options = image.convert("L"), {}
        encoded, size = encode(image, "JPEG", **options), (11, 9)
        for part in self.windows(ratio, size):
            ours = decode_window(encoded, fixed(*part), size).numpy()
            theirs = pillow_reduced(encoded, part, size, ratio)
            assert np.abs(ours - theirs).mean() < 0.5
            assert np.abs(ours - theirs).max() <= 1.5

    @pytest.mark.parametrize("ratio", [2, 4, 8])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_of_a_turned_jpeg_is_turned(self, orientation, ratio):
        plain, size = encode(photo(*self.SHAPE), "JPEG"), (11, 9)
        encoded = with_segments(plain, exif_segment(orientation))
        for top, left, height, width in self.windows(ratio, size):
            # Where a person sees the window.
            mask = Image.new("L", self.SHAPE[::-1])
            mask.paste(255, (left, top, left + width, top + height))
            x, y, right, bottom = turned(mask, orientation).getbbox()
            ours = decode_window(
                encoded,
                fixed(y, x, bottom - y, right - x),
                size if orientation < 5 else size[::-1],
            ).numpy()
            stored = decode_window(plain, fixed(top, left, height, width), size).numpy()
            for channel in range(3):
                seen = turned(Image.fromarray(stored[..., channel]), orientation)
                np.testing.assert_array_equal(ours[..., channel], np.asarray(seen))

    @pytest.mark.parametrize("ratio", [1, 2, 4, 8])
    @pytest.mark.parametrize("shift", [0, 1, 3, 7, 10])
    def test_moves_nothing(self, shift, ratio):
        """A light stays where it is, wherever the window's edges fall in the decoder's blocks."""
        image, size = blob(361, 367, 171.3, 158.8, 20.0), (19, 17)
        height, width = (2 * ratio * n + shift for n in size)
        part = [171 - ratio * size[0] + shift, 168 - ratio * size[1] - shift, height, width]
        ours = decode_window(encode(image, "JPEG", quality=98), fixed(*part), size).numpy()
        exact = pillow_window(encode(image, "PNG"), part, size)
        np.testing.assert_allclose(centroid(ours), centroid(exact), atol=0.01)

    @pytest.mark.parametrize("orientation", [1, 6])
    def test_is_not_used_where_it_leaves_less_than_twice_the_pixels(self, orientation):
        encoded = with_segments(encode(photo(150, 150), "JPEG"), exif_segment(orientation))
        whole = decode_image(encoded)
        for height, width in [(4 * 30 - 1, 140), (140, 4 * 30 - 1)]:
            window = whole[7 : 7 + height, 3 : 3 + width]
            expected = tf.image.resize(window, (30, 30), antialias=True)
            ours = decode_window(encoded, fixed(7, 3, height, width), 30)
            # To the bit, but where the turn comes after the resizing.
            np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-3 * (orientation > 1))

    @pytest.mark.parametrize("ratio", [2, 4, 8])
    def test_of_a_file_with_bytes_after_its_end_is_the_same(self, ratio):
        encoded = encode(photo(*self.SHAPE), "JPEG", subsampling=1)
        for part in self.windows(ratio, (11, 9)):
            ours = decode_window(encoded + b"trailing", fixed(*part), (11, 9))
            np.testing.assert_array_equal(ours, decode_window(encoded, fixed(*part), (11, 9)))

    @pytest.mark.parametrize("ratio", [2, 4, 8])
    def test_of_cmyk_is_near_its_full_scale(self, ratio):
        inks = cmyk().resize((400, 300), Image.Resampling.BICUBIC)
        encoded, size = encode(inks, "JPEG", quality=95), (300 // 2 // ratio, 400 // 2 // ratio)
        ours = decode_window(encoded, fixed(0, 0, 300, 400), size).numpy()
        theirs = pillow_window(encoded, (0, 0, 300, 400), size)
        assert np.abs(ours - theirs).mean() < 1.5

    @pytest.mark.parametrize("ratio", [2, 4, 8])
    def test_of_a_cut_file_raises(self, ratio):
        encoded = encode(photo(*self.SHAPE), "JPEG")
        top_left = fixed(0, 0, 12 * ratio, 12 * ratio)
        decode_window(encoded, top_left, 6)
        for keep in (len(encoded) * 3 // 4, len(encoded) - 40):
            with pytest.raises(tf.errors.InvalidArgumentError):
                decode_window(encoded[:keep], top_left, 6)

    @pytest.mark.parametrize("part", [(-1, 0, 200, 200), (4, 0, 200, 200), (0, 134, 200, 200)])
    def test_outside_the_image_by_one_pixel_raises(self, part):
        encoded = encode(photo(*self.SHAPE), "JPEG")
        for size in (50, 25, 12):
            with pytest.raises(tf.errors.InvalidArgumentError, match="not inside"):
                decode_window(encoded, fixed(*part), size)


class Server(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, encoded):
        return tf.map_fn(
            lambda one: decode_window(one, centre, 20),
            encoded,
            fn_output_signature=tf.TensorSpec([20, 20, 3], tf.float32),
        )


class TestTheSamePixelsComeOut:
    def eager(self) -> np.ndarray:
        return np.stack([decode_window(one, centre, 20).numpy() for one in ENCODED.values()])

    def test_of_a_dataset(self):
        dataset = tf.data.Dataset.from_tensor_slices(list(ENCODED.values()))
        windows = dataset.map(lambda one: decode_window(one, centre, 20), num_parallel_calls=2)
        assert windows.element_spec.shape == (20, 20, 3)
        np.testing.assert_array_equal(np.stack(list(windows)), self.eager())
        for ours, encoded in zip(dataset.map(decode_image), ENCODED.values(), strict=True):
            np.testing.assert_array_equal(ours, decode_image(encoded))
        for ours, encoded in zip(dataset.map(image_shape), ENCODED.values(), strict=True):
            assert tuple(map(int, ours)) == pillow(encoded).shape[:2]

    def test_of_a_saved_model(self, tmp_path):
        tf.saved_model.save(Server(), str(tmp_path / "model"))
        loaded = tf.saved_model.load(str(tmp_path / "model"))
        np.testing.assert_array_equal(loaded(list(ENCODED.values())), self.eager())
        with pytest.raises(tf.errors.InvalidArgumentError):
            loaded([*ENCODED.values(), b"no image"])


def test_suffixes_are_lower_case_and_start_with_a_dot():
    assert {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp"} <= set(IMAGE_SUFFIXES)
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in IMAGE_SUFFIXES)
