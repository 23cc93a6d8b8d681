"""Reading encoded images with TensorFlow ops only.

The same functions run eagerly, in a `tf.data` map and inside an exported SavedModel, where there is
no Python. Content decides the format, never a file's name:

* JPEG: baseline and progressive, gray, RGB, CMYK and YCCK. The accurate integer DCT gives the
  pixels that libjpeg gives by default, and so Pillow's (CMYK: within 1 level).
* PNG: every colour type and depth; 16 bits become 8 by dropping the low byte.
* GIF and WebP: the first frame. BMP: 1, 4, 8, 24 and 32 bits a pixel, not compressed.

Alpha (PNG, WebP) is composited on white, which is how a viewer shows it: what lies under a
transparent pixel is arbitrary, often black. Ignored are the transparent colour of a GIF or of a
gray PNG of less than 8 bits, and the fourth byte of a 32 bit BMP, which is seldom alpha.

EXIF orientation (tag 0x0112) is applied from a JPEG's APP1 segment, from a PNG's `eXIf` chunk ahead
of its pixels and from a WebP's `EXIF` chunk. An EXIF block that makes no sense is ignored.

Damaged and unknown content raises `tf.errors.InvalidArgumentError`.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from alexnet_keras.data.headers import (
    BMP,
    FORMATS,
    GIF,
    JPEG,
    JPEG_MAGIC,
    NOT_AN_IMAGE,
    PNG,
    UNKNOWN,
    WEBP,
    bmp_header,
    byte_values,
    first_frame,
    image_format,
    is_jpeg,
    rarely,
    refuse,
    require,
    same,
    stored_shape,
    traced_once,
)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".gif", ".bmp", ".webp")

# The decoder's own limit, in samples; here to say so before it fails.
_LARGEST_JPEG = 2**29

# The scales at which a JPEG can be decoded for less work: one by these.
_REDUCTIONS = (2, 4, 8)
# How many times the wanted pixels a reduced scale has to leave. At 1 the decoder's own averaging
# blurs: three times the difference, for a tenth less time.
_SPARE = 2

# Rows: EXIF orientation 0 (none) to 8. Columns: reverse the rows, reverse the columns, then
# transpose, which takes the stored pixels to what a person sees (EXIF 2.32, 4.6.4, tag 274).
_TURNS = (
    (0, 0, 0),
    (0, 0, 0),
    (0, 1, 0),
    (1, 1, 0),
    (1, 0, 0),
    (0, 0, 1),
    (1, 0, 1),
    (1, 1, 1),
    (0, 1, 1),
)


def image_shape(encoded: tf.Tensor | bytes) -> tuple[tf.Tensor, tf.Tensor]:
    """Scalar int32 height and width as a person sees the image, EXIF orientation applied.

    Read from headers alone, without decoding.

    Raises:
        tf.errors.InvalidArgumentError: unknown content or a damaged header.
    """
    encoded = tf.convert_to_tensor(encoded, tf.string)
    orientation = tf.cond(
        is_jpeg(encoded),
        lambda: _jpeg_orientation(encoded),
        lambda: _orientation_of_others(encoded),
    )
    shape = _seen_shape(stored_shape(encoded), tf.gather(_TURNS, orientation))
    return shape[0], shape[1]


def decode_image(encoded: tf.Tensor | bytes) -> tf.Tensor:
    """The image as uint8 `[height, width, 3]`, RGB, EXIF orientation applied.

    Raises:
        tf.errors.InvalidArgumentError: truncated, damaged or unknown content.
    """
    encoded = tf.convert_to_tensor(encoded, tf.string)
    return tf.cond(
        is_jpeg(encoded),
        lambda: _turn(_decode_jpeg(encoded), _jpeg_orientation(encoded)),
        lambda: _decode_others(encoded),
    )


@rarely
def _decode_others(encoded: tf.Tensor) -> tf.Tensor:
    stored = tf.switch_case(
        image_format(encoded) - PNG,
        [
            lambda: _decode_png(encoded),
            lambda: _decode_gif(encoded),
            lambda: _decode_bmp(encoded),
            lambda: _decode_webp(encoded),
        ],
        default=lambda: refuse(tf.zeros([0, 0, 3], tf.uint8)),
    )
    return _turn(stored, _orientation_of_others(encoded))


def decode_window(
    encoded: tf.Tensor | bytes,
    window: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    size: int | tuple[int, int],
) -> tf.Tensor:
    """A window of the image, resized (bilinear, antialiased).

    Of a JPEG only the window is decoded, and only it is resized and turned. A JPEG that does not
    end in its end marker (bytes follow it, or the file is cut) is decoded in full: the cropping
    decoder would not notice what is missing below the window.

    Where a half, a quarter or an eighth of a JPEG's scale leaves the window twice the pixels that
    are wanted on both sides, that scale is decoded, which JPEG allows for less work; Pillow's
    `thumbnail` leaves as many. Nothing is shifted. On photographs of 12 and 24 megapixels the
    pixels are .2 levels away from full decoding on average, 99% within 2.2, at any quality
    (`benchmarks/camera_photographs.py`); .5 and 3 where just twice the pixels are left.

    Args:
        encoded: scalar string, the content of an image file.
        window: maps scalar int32 height and width of the image as a person sees it to int32 `[4]`
            (top, left, height, width) inside it. Inside a graph it is traced more than once and
            run once.
        size: height and width of the result; one int for a square.

    Returns:
        float32 `[height, width, 3]`, RGB, 0 to 255.

    Raises:
        tf.errors.InvalidArgumentError: truncated, damaged or unknown content, or a window that
            does not lie inside the image.
    """
    encoded = tf.convert_to_tensor(encoded, tf.string)
    size = (size, size) if isinstance(size, int) else tuple(size)

    def from_jpeg() -> tf.Tensor:
        orientation = _jpeg_orientation(encoded)
        shape = tf.io.extract_jpeg_shape(encoded)[:2]
        turns = tf.gather(_TURNS, orientation)
        swapped = turns[2] == 1
        seen = _seen_shape(shape, turns)
        part = tf.cast(window(seen[0], seen[1]), tf.int32)
        # Undo the transposition, then the reversals.
        part = tf.where(swapped, tf.gather(part, [1, 0, 3, 2]), part)
        start, extent = part[:2], part[2:]
        start = tf.where(turns[:2] == 1, shape - start - extent, start)
        stored_size = tf.where(swapped, size[::-1], size)
        reduction = tf.reduce_min(extent // (_SPARE * stored_size))
        # Resizing treats rows and columns alike, so it may come before the turn: fewer pixels.
        resized = tf.cond(
            reduction < _REDUCTIONS[0],
            lambda: _resize(_window_of_jpeg(encoded, start, extent, shape), stored_size),
            lambda: _reduced_window(encoded, start, extent, shape, stored_size, reduction),
        )
        return _turn(resized, orientation)

    def from_others() -> tf.Tensor:
        image = _decode_others(encoded)
        shape = tf.shape(image)
        part = tf.cast(window(shape[0], shape[1]), tf.int32)
        return _resize(_crop(image, part[:2], part[2:]), size)

    result = tf.cond(is_jpeg(encoded), from_jpeg, from_others)
    return tf.ensure_shape(result, [*size, 3])


def why_unreadable(encoded: bytes) -> str | None:
    """Why `decode_image` would fail on this content, in words for a person; None if it would not.

    Never raises; may be called from several threads, which TensorFlow's decoders leave to run side
    by side. A JPEG is decoded at an eighth of its size: all of its entropy-coded data is still
    read, which is where truncation shows, and the rest of the work is saved.
    """
    try:
        if not encoded:
            return "empty file"
        # Most are JPEG, and a dozen ops one by one take longer than decoding a small photograph.
        is_jpeg = encoded.startswith(JPEG_MAGIC)
        kind = JPEG if is_jpeg else int(image_format(tf.constant(encoded)))
        if kind == UNKNOWN:
            known = _sniff(encoded)
            return f"{NOT_AN_IMAGE} (it is {known})" if known else NOT_AN_IMAGE
        try:
            if kind != JPEG:
                decode_image(encoded)
                return None
            height, width, channels = tf.io.extract_jpeg_shape(encoded).numpy().tolist()
            if height * width * channels >= _LARGEST_JPEG:
                return f"JPEG too large to decode: {width} x {height} pixels"
            tf.io.decode_jpeg(encoded, channels=3, ratio=8)
            return None
        except tf.errors.ResourceExhaustedError:
            return f"{FORMATS[kind]} too large for the memory"
        except (tf.errors.OpError, ValueError):
            state = "truncated" if _is_cut(encoded, kind) else "damaged"
            return f"{state} {FORMATS[kind]}"
    except Exception as error:  # a check of thousands of files goes on
        return f"could not be checked: {error}"


def whole_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    """The number of samples of a JPEG at an eighth of its size, for graphs: a quick check.

    Raises:
        tf.errors.OpError: it is none, or `why_unreadable` has something to say of it.
    """
    encoded = require(is_jpeg(encoded), "no JPEG", encoded)
    samples = tf.reduce_prod(tf.cast(tf.io.extract_jpeg_shape(encoded), tf.int64))
    encoded = require(samples < _LARGEST_JPEG, "JPEG too large to decode", encoded)
    return tf.size(tf.io.decode_jpeg(encoded, channels=3, ratio=8))


def _decode_jpeg(encoded: tf.Tensor, ratio: int = 1) -> tf.Tensor:
    return tf.io.decode_jpeg(encoded, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")


def _crop(image: tf.Tensor, start: tf.Tensor, extent: tf.Tensor) -> tf.Tensor:
    extent = require(tf.reduce_all(extent > 0), "the window is empty", extent)
    return tf.slice(image, tf.concat([start, [0]], 0), tf.concat([extent, [3]], 0))


def _window_of_jpeg(
    encoded: tf.Tensor, start: tf.Tensor, extent: tf.Tensor, shape: tf.Tensor, ratio: int = 1
) -> tf.Tensor:
    """The window's pixels exactly as in the whole image decoded at `ratio`, for less work.

    `start`, `extent` and `shape` are in pixels of that scale.
    """

    def crop() -> tf.Tensor:
        # The decoder interpolates subsampled chroma as if the image ended at the window's left and
        # right edges (up to 39 levels off there): decode two more columns on either side.
        left = tf.maximum(start[1] - 2, 0)
        right = tf.minimum(start[1] + extent[1] + 2, shape[1])
        wider = tf.io.decode_and_crop_jpeg(
            encoded,
            tf.stack([start[0], left, extent[0], right - left]),
            channels=3,
            ratio=ratio,
            dct_method="INTEGER_ACCURATE",
        )
        return _crop(wider, tf.stack([0, start[1] - left]), extent)

    return tf.cond(
        tf.strings.substr(encoded, -2, 2) == b"\xff\xd9",
        crop,
        lambda: _crop(_decode_jpeg(encoded, ratio), start, extent),
    )


@traced_once(
    tf.TensorSpec([], tf.string),
    *[tf.TensorSpec([2], tf.int32)] * 4,
    tf.TensorSpec([], tf.int32),
)
def _reduced_window(
    encoded: tf.Tensor,
    start: tf.Tensor,
    extent: tf.Tensor,
    shape: tf.Tensor,
    size: tf.Tensor,
    reduction: tf.Tensor,
) -> tf.Tensor:
    """The window of a JPEG resized from a half, a quarter or an eighth of its scale.

    The decoder makes one pixel of each `ratio` x `ratio` block from the image's top left corner.
    Edges of the window fall inside such pixels: they are decoded whole, and the resizing starts
    and ends where the window does.
    """
    inside = tf.reduce_all(start >= 0) & tf.reduce_all(start + extent <= shape)
    start = require(inside, "the window is not inside the image", start)

    def at(ratio: int) -> tf.Tensor:
        first = start // ratio
        count = -(-(start + extent) // ratio) - first
        pixels = _window_of_jpeg(encoded, first, count, -(-shape // ratio), ratio)
        offset = tf.cast(start % ratio, tf.float32) / ratio
        return _shrink(pixels, size, offset, tf.cast(extent, tf.float32) / ratio)

    index = tf.reduce_sum(tf.cast(reduction >= tf.constant(_REDUCTIONS), tf.int32)) - 1
    return tf.switch_case(index, [lambda ratio=ratio: at(ratio) for ratio in _REDUCTIONS])


def _decode_png(encoded: tf.Tensor) -> tf.Tensor:
    # Asked for four channels, TensorFlow 2.21 leaves gray of less than 8 bits at 0, 1, 2, ...
    depth_and_type = byte_values(encoded, 24, 2)
    coarse_gray = same(depth_and_type[1:], [0]) & tf.reduce_all(depth_and_type[:1] < 8)
    return tf.cond(
        coarse_gray,
        lambda: tf.io.decode_png(encoded, channels=3),
        lambda: _on_white(tf.io.decode_png(encoded, channels=4)),
    )


def _decode_gif(encoded: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_image(first_frame(encoded), channels=3, expand_animations=False)


def _decode_webp(encoded: tf.Tensor) -> tf.Tensor:
    # TensorFlow 2.21 allocates three channels for an animation without alpha and writes four, past
    # the end of the buffer. Setting the alpha flag (VP8X, byte 20, bit 4) makes it allocate four;
    # frames without alpha then come out opaque.
    flags = tf.cond(
        tf.strings.substr(tf.strings.join([encoded, b"\0" * 20]), 12, 4) == b"VP8X",
        lambda: tf.reduce_sum(byte_values(encoded, 20, 1)),
        lambda: 0,
    )
    animated = (flags // 2) % 2 == 1
    opaque = (flags // 16) % 2 == 0
    byte = tf.constant([bytes([value]) for value in range(256)])
    safe = tf.cond(
        animated & opaque,
        lambda: tf.strings.join(
            [
                tf.strings.substr(encoded, 0, 20),
                tf.gather(byte, flags + 16),
                tf.strings.substr(encoded, 21, tf.strings.length(encoded)),
            ]
        ),
        lambda: encoded,
    )
    image = tf.io.decode_image(safe, channels=0, expand_animations=False)
    return tf.cond(tf.shape(image)[2] == 4, lambda: _on_white(image), lambda: image)


def _on_white(image: tf.Tensor) -> tf.Tensor:
    """uint8 `[..., 4]` to `[..., 3]`: RGB with straight alpha over white, rounded to nearest."""
    colour, alpha = image[..., :3], image[..., 3:]

    def composite() -> tf.Tensor:
        # 255 * 255 + 127 is the most: 16 bits hold it, and halve the memory.
        weight = tf.cast(alpha, tf.uint16)
        mixed = tf.cast(colour, tf.uint16) * weight + 255 * (255 - weight)
        return tf.cast((mixed + 127) // 255, tf.uint8)

    return tf.cond(tf.reduce_all(alpha == 255), lambda: colour, composite)


def _decode_bmp(encoded: tf.Tensor) -> tf.Tensor:
    """TensorFlow's own decoder takes palette indices for gray levels and refuses 1 and 4 bits."""
    first, height, width, bits, row, palette, top_down = tf.unstack(bmp_header(encoded))
    data = tf.io.decode_raw(tf.strings.substr(encoded, first, row * height), tf.uint8)
    rows = tf.reshape(data, [height, row])

    def direct() -> tf.Tensor:
        step = bits // 8
        return tf.reshape(rows[:, : width * step], [height, width, step])[..., 2::-1]

    def indexed() -> tf.Tensor:
        entries = (first - palette) // 4
        colours = tf.io.decode_raw(tf.strings.substr(encoded, palette, entries * 4), tf.uint8)
        colours = tf.reshape(colours, [-1, 4])[:, 2::-1]
        shifts = tf.cast(tf.range(8 - bits, -1, -bits), tf.int32)  # leftmost pixel: highest bits
        mask = tf.bitwise.left_shift(1, tf.cast(bits, tf.int32)) - 1
        spread = tf.bitwise.right_shift(tf.cast(rows, tf.int32)[..., None], shifts)
        index = tf.reshape(tf.bitwise.bitwise_and(spread, mask), [height, -1])[:, :width]
        inside = tf.reduce_all(index < tf.shape(colours)[0])
        return tf.gather(colours, require(inside, "damaged BMP palette", index))

    image = tf.cond(bits <= 8, indexed, direct)
    return tf.cond(top_down == 1, lambda: image, lambda: image[::-1])


def _orientation_of_others(encoded: tf.Tensor) -> tf.Tensor:
    """Scalar int32 1 to 8, the EXIF orientation; 1 where none is to be had. Never raises."""
    kind = image_format(encoded)
    return tf.case(
        [
            (
                kind == PNG,
                lambda: _tiff_orientation(_chunk(encoded, 8, b"eXIf", b"IDAT", riff=False)),
            ),
            (kind == WEBP, lambda: _webp_orientation(encoded)),
        ],
        default=lambda: tf.constant(1),
    )


def _jpeg_orientation(encoded: tf.Tensor) -> tf.Tensor:
    # Most files on the web: one JFIF segment of 16 bytes, then a table. They hold no EXIF.
    head = tf.strings.join([tf.strings.substr(encoded, 2, 20), b"\0" * 20])
    jfif_alone = (tf.strings.substr(head, 0, 4) == b"\xff\xe0\0\x10") & (
        tf.strings.substr(head, 18, 2) == b"\xff\xdb"
    )
    return tf.cond(jfif_alone, lambda: 1, lambda: _orientation_among_segments(encoded))


@rarely
def _orientation_among_segments(encoded: tf.Tensor) -> tf.Tensor:
    """Walks the application and comment segments, which come first; EXIF is one of them."""
    size = tf.strings.length(encoded)

    def more(at: tf.Tensor, exif: tf.Tensor) -> tf.Tensor:
        return ~exif & (at + 4 <= size)

    def step(at: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        head = tf.strings.substr(encoded, at, 10)
        pair = tf.io.decode_raw(tf.strings.substr(head, 0, 4), tf.uint16, little_endian=False)
        marker, length = tf.unstack(tf.cast(pair, tf.int32), 2)
        exif = (marker == 0xFFE1) & (tf.strings.substr(head, 4, 6) == b"Exif\0\0")
        # The first table or frame header ends the walk; 0xFFFF is one fill byte.
        forward = tf.where(marker < 0xFFE0, size, tf.where(marker == 0xFFFF, 1, length + 2))
        return tf.where(exif, at, at + forward), exif

    at, exif = tf.while_loop(more, step, (2, tf.constant(False)), maximum_iterations=256)

    def read() -> tf.Tensor:
        length = tf.tensordot(byte_values(encoded, at + 2, 2), [256, 1], 1)
        return _tiff_orientation(tf.strings.substr(encoded, at + 10, tf.maximum(length - 8, 0)))

    return tf.cond(exif, read, lambda: tf.constant(1))


def _webp_orientation(encoded: tf.Tensor) -> tf.Tensor:
    exif = _chunk(encoded, 12, b"EXIF", b"", riff=True)
    # Some writers keep JPEG's prefix.
    prefixed = tf.strings.substr(exif, 0, 6) == b"Exif\0\0"
    start = tf.where(prefixed, 6, 0)
    return _tiff_orientation(tf.strings.substr(exif, start, tf.strings.length(exif)))


def _chunk(encoded: tf.Tensor, start: int, name: bytes, last: bytes, *, riff: bool) -> tf.Tensor:
    """Content of the first chunk called `name`, or an empty string; looks no further than `last`.

    PNG: size (big-endian), name, content, checksum. RIFF: name, size (little-endian), content,
    padded to an even size.
    """
    total = tf.strings.length(encoded)
    name_at, size_at, content_at = (0, 4, 8) if riff else (4, 0, 8)

    def content_size(at: tf.Tensor) -> tf.Tensor:
        word = tf.io.decode_raw(
            tf.strings.substr(encoded, at + size_at, 4), tf.int32, little_endian=riff
        )[0]
        return tf.clip_by_value(word, 0, total)

    def called(at: tf.Tensor, what: bytes) -> tf.Tensor:
        return tf.strings.substr(encoded, at + name_at, 4) == what

    def more(at: tf.Tensor) -> tf.Tensor:
        # Not `&`: eagerly both sides would be read, one of them past the end.
        return tf.cond(
            at + content_at <= total,
            lambda: ~(called(at, name) | called(at, last)),
            lambda: False,
        )

    def step(at: tf.Tensor) -> tuple[tf.Tensor]:
        size = content_size(at)
        return (at + content_at + size + (size % 2 if riff else 4),)

    (at,) = tf.while_loop(more, step, (start,), maximum_iterations=4096)
    found = tf.cond(at + content_at <= total, lambda: called(at, name), lambda: False)
    return tf.cond(
        found,
        lambda: tf.strings.substr(encoded, at + content_at, content_size(at)),
        lambda: b"",
    )


@rarely
def _tiff_orientation(tiff: tf.Tensor) -> tf.Tensor:
    """Tag 0x0112 of the first directory of a TIFF block, 1 if it is missing or makes no sense."""
    head = byte_values(tiff, 0, 8)
    order = tf.strings.substr(tiff, 0, 4)
    big = order == b"MM\0*"

    def number(value: tf.Tensor) -> tf.Tensor:
        """Unsigned numbers from int32 bytes in the last axis, saturating."""
        value = tf.where(big, value, tf.reverse(value, [-1]))
        weights = 256 ** tf.range(tf.shape(value)[-1] - 1, -1, -1, dtype=tf.int64)
        total = tf.reduce_sum(tf.cast(value, tf.int64) * weights, axis=-1)
        return tf.cast(tf.minimum(total, 2**31 - 1), tf.int32)

    def read() -> tf.Tensor:
        # Of a directory that lies outside the block, nothing is left: no tag is found.
        directory = tf.minimum(number(head[4:]), tf.strings.length(tiff))
        count = tf.reduce_sum(number(byte_values(tiff, directory, 2)[None]))
        entries = byte_values(tiff, directory + 2, 12 * count)
        entries = tf.reshape(entries[: tf.size(entries) // 12 * 12], [-1, 12])
        is_tag = (number(entries[:, :2]) == 0x0112) & (number(entries[:, 2:4]) == 3)
        values = tf.boolean_mask(number(entries[:, 8:10]), is_tag)
        value = tf.reduce_sum(values[:1])
        return tf.where((value >= 1) & (value <= 8), value, 1)

    known = (big | (order == b"II*\0")) & (tf.size(head) == 8)
    return tf.cond(known, read, lambda: tf.constant(1))


def _seen_shape(stored: tf.Tensor, turns: tf.Tensor) -> tf.Tensor:
    """Stored height and width, exchanged where `turns`, a row of `_TURNS`, transposes."""
    return tf.where(turns[2] == 1, stored[::-1], stored)


def _turn(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Stored pixels `[height, width, 3]` to what a person sees."""

    def turned() -> tf.Tensor:
        rows, columns, swapped = tf.unstack(tf.gather(_TURNS, orientation))
        reversed_ = tf.reverse(image, tf.boolean_mask([0, 1], tf.stack([rows, columns]) == 1))
        return tf.transpose(reversed_, tf.where(swapped == 1, [1, 0, 2], [0, 1, 2]))

    result = tf.cond(orientation == 1, lambda: image, turned)
    return tf.ensure_shape(result, [None, None, 3])


def _resize(image: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    # Where nothing shrinks, both kernels interpolate alike and the plain one is several times
    # faster.
    shape = tf.shape(image)[:2]
    return tf.cond(
        tf.reduce_all(shape <= size),
        lambda: tf.image.resize(image, size),
        lambda: _shrink(image, size, tf.zeros([2]), tf.cast(shape, tf.float32)),
    )


def _shrink(image: tf.Tensor, size: tf.Tensor, start: tf.Tensor, extent: tf.Tensor) -> tf.Tensor:
    """`image` from `start`, over `extent` (float32, in pixels), resized to `size`, antialiased.

    For the whole image the same to the bit as `tf.image.resize(image, size, antialias=True)`. That
    works on three channels at a time; here whole rows of samples are the channels, and then,
    transposed, whole columns: several times faster.
    """
    scale = tf.cast(size, tf.float32) / extent

    def along(axis: int, lines: tf.Tensor) -> tf.Tensor:
        """`[lines, samples]` to `[size[axis], samples]`."""
        count, samples = tf.unstack(tf.shape(lines))
        resized = tf.raw_ops.ScaleAndTranslate(
            images=tf.reshape(lines, [1, count, 1, samples]),
            size=[size[axis], 1],
            scale=[scale[axis], 1.0],
            translation=[-start[axis] * scale[axis], 0.0],
            kernel_type="triangle",
            antialias=True,
        )
        return tf.reshape(resized, [size[axis], samples])

    height, width, channels = tf.unstack(tf.shape(image))
    rows = along(0, tf.reshape(image, [height, width * channels]))
    columns = along(1, tf.reshape(tf.transpose(rows), [width, channels * size[0]]))
    pixels = tf.transpose(tf.reshape(columns, [size[1] * channels, size[0]]))
    # The weights sum to 1 only to within rounding.
    return tf.clip_by_value(tf.reshape(pixels, [size[0], size[1], channels]), 0.0, 255.0)


def _is_cut(encoded: bytes, kind: int) -> bool:
    """Whether the file's own end is missing."""
    if kind == JPEG:  # the last scan has no end marker after it
        return encoded.rfind(b"\xff\xd9") <= encoded.rfind(b"\xff\xda")
    if kind == PNG:
        return b"IEND\xaeB`\x82" not in encoded
    if kind == GIF:
        return not encoded.rstrip(b"\0").endswith(b";")
    if kind == BMP:
        return len(encoded) < max(54, int.from_bytes(encoded[2:6], "little"))
    return len(encoded) < 8 + int.from_bytes(encoded[4:8], "little")


def _sniff(encoded: bytes) -> str | None:
    """The name of a format that people do put into image folders."""
    if encoded[4:8] == b"ftyp":
        brand = encoded[8:12]
        if brand in (b"avif", b"avis"):
            return "AVIF"
        if brand in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
            return "HEIC"
        return "a video or another MP4 file"
    starts = {
        b"II*\0": "TIFF",
        b"MM\0*": "TIFF",
        b"\xff\x0a": "JPEG XL",
        b"\0\0\0\x0cJXL ": "JPEG XL",
        b"\0\0\0\x0cjP  ": "JPEG 2000",
        b"8BPS": "Photoshop",
        b"%PDF": "PDF",
        b"<": "HTML, XML or SVG",
        b"PK\x03\x04": "a zip archive",
    }
    return next((name for magic, name in starts.items() if encoded.startswith(magic)), None)
