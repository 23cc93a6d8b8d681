"""What the first bytes of an encoded image say: its format and its size, before it is decoded.

TensorFlow ops only, as in `decoding`: they run eagerly, in a `tf.data` map and in an exported
graph.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WebP")
JPEG, PNG, GIF, BMP, WEBP = range(len(FORMATS))
UNKNOWN = len(FORMATS)
JPEG_MAGIC = b"\xff\xd8\xff"
NOT_AN_IMAGE = "not a JPEG, PNG, GIF, BMP or WebP image"

# Blocks of a GIF that are walked through for its first frame, at most and at least. They hold up to
# 255 bytes and encoders fill them: of bytes, half as many may be in a block on average.
_GIF_BLOCKS = (2**10, 2**16)


def traced_once(*signature: tf.TensorSpec) -> Callable[[Callable], Callable]:
    """Called instead of built in: graphs do not grow by what few images need."""
    return tf.function(
        input_signature=signature, autograph=False, experimental_attributes={"_noinline": True}
    )


rarely = traced_once(tf.TensorSpec([], tf.string))


def is_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    return tf.strings.substr(encoded, 0, 3) == JPEG_MAGIC


def image_format(encoded: tf.Tensor) -> tf.Tensor:
    """Index into `FORMATS` by the first bytes; `UNKNOWN` if none fits. Never raises.

    Strings of any shape; int32 of the same shape.
    """
    # Padded, because a substring that starts after the end is an error.
    head = tf.strings.join([tf.strings.substr(encoded, 0, 12), b"\0" * 12])

    def starts(magic: bytes, at: int = 0) -> tf.Tensor:
        return tf.strings.substr(head, at, len(magic)) == magic

    matches = [
        is_jpeg(encoded),
        starts(b"\x89PNG\r\n\x1a\n"),
        starts(b"GIF87a") | starts(b"GIF89a"),
        starts(b"BM"),
        starts(b"RIFF") & starts(b"WEBP", 8),
        tf.ones_like(is_jpeg(encoded)),
    ]
    return tf.argmax(tf.cast(tf.stack(matches), tf.int32), output_type=tf.int32)


def stored_shape(encoded: tf.Tensor) -> tf.Tensor:
    """int32 `[2]`, height and width in pixels as they are stored, of an animation's first frame.

    Raises:
        tf.errors.InvalidArgumentError: unknown content or a damaged header.
    """
    return tf.cond(
        is_jpeg(encoded),
        lambda: tf.io.extract_jpeg_shape(encoded)[:2],
        lambda: _shape_of_others(encoded),
    )


@rarely
def _shape_of_others(encoded: tf.Tensor) -> tf.Tensor:
    return tf.switch_case(
        image_format(encoded) - PNG,
        [
            lambda: _png_shape(encoded),
            lambda: _first_frame(encoded)[1],
            lambda: tf.cast(bmp_header(encoded)[1:3], tf.int32),
            lambda: _webp_shape(encoded),
        ],
        default=lambda: refuse(tf.zeros([2], tf.int32)),
    )


def more_scans_than(encoded: tf.Tensor, most: int) -> tf.Tensor:
    """Whether a JPEG has more than so many scans, those of a thumbnail within it included.

    Each scan of a progressive JPEG is a pass over all of its pixels, and may take a few bytes.
    """
    # A scan header says its length, 6 and 2 for each component, and their number: without both
    # the two bytes of its marker would be found by chance in what follows the image.
    scans = [
        tf.size(tf.raw_ops.StringSplitV2(input=[encoded], sep=header, maxsplit=most + 1).values) - 1
        for header in (bytes([0xFF, 0xDA, 0, 6 + 2 * count, count]) for count in (1, 2, 3, 4))
    ]
    return tf.add_n(scans) > most


def first_frame(encoded: tf.Tensor) -> tf.Tensor:
    """A GIF without its later frames, which TensorFlow would decode too and throw away.

    What has no first frame, or not all of it, stays as it is.
    """
    return _first_frame(encoded)[0]


@rarely
def _first_frame(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """A GIF without its later frames, and height and width of the first; (0, 0) if there is none.

    GIF89a, appendix A: a header, perhaps a table of colours, then extensions (0x21) and images
    (0x2C), each with a chain of blocks that say their size and end with an empty one.
    """
    content = tf.io.decode_raw(encoded, tf.uint8)
    total = tf.size(content)

    def byte(at: tf.Tensor) -> tf.Tensor:
        return tf.cast(content[tf.minimum(at, total - 1)], tf.int32)

    def table(flags: tf.Tensor) -> tf.Tensor:
        return tf.where(flags >= 128, 3 * tf.bitwise.left_shift(2, flags % 8), 0)

    def more(at: tf.Tensor, chained: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
        return (at < total) & (chained | (image < 0))

    def step(at: tf.Tensor, chained: tf.Tensor, image: tf.Tensor) -> tuple[tf.Tensor, ...]:
        value = byte(at)
        begins = ~chained & (value == 0x2C)
        extends = ~chained & (value == 0x21)
        length = tf.where(begins, 11 + table(byte(at + 9)), tf.where(extends, 2, total))
        return (
            at + tf.where(chained, value + 1, length),
            tf.where(chained, value != 0, begins | extends),
            tf.where(begins, at, image),
        )

    at, chained, image = tf.while_loop(
        more,
        step,
        (13 + table(byte(10)), tf.constant(False), tf.constant(-1)),
        maximum_iterations=tf.minimum(_GIF_BLOCKS[0] + total // 128, _GIF_BLOCKS[1]),
    )
    at = require((at >= total) | ~chained, "GIF with too many blocks", at)
    whole = (image >= 0) & ~chained & (at <= total)
    cut = tf.cond(
        whole,
        lambda: tf.strings.join([tf.strings.substr(encoded, 0, at), b";"]),
        lambda: encoded,
    )
    width, height = (byte(image + i) + 256 * byte(image + i + 1) for i in (5, 7))
    return cut, tf.where(image >= 0, tf.stack([height, width]), 0)


def _png_shape(encoded: tf.Tensor) -> tf.Tensor:
    header = byte_values(encoded, 12, 12)
    header = require(tf.size(header) == 12, "truncated PNG", header)
    sides = tf.linalg.matvec(tf.reshape(header[4:], [2, 4]), [1 << 24, 1 << 16, 1 << 8, 1])
    return sides[::-1]  # IHDR has the width first


def _webp_shape(encoded: tf.Tensor) -> tf.Tensor:
    """RFC 9649: VP8X has both sides less 1 in 24 bits, VP8 in 14 bits, VP8L less 1 in 14 bits."""
    b = byte_values(encoded, 20, 10)
    b = require(tf.size(b) == 10, "truncated WebP", b)
    kind = tf.strings.substr(encoded, 12, 4)
    extended = 1 + tf.stack([b[7] + 256 * b[8] + 65536 * b[9], b[4] + 256 * b[5] + 65536 * b[6]])
    lossy = tf.stack([b[8] + 256 * b[9], b[6] + 256 * b[7]]) % 16384
    bits = b[1] + 256 * b[2] + 65536 * b[3]
    lossless = 1 + tf.stack([bits // 16384 % 1024 + 1024 * (b[4] % 16), bits % 16384])
    kind_is = [kind == b"VP8X", kind == b"VP8 ", kind == b"VP8L"]
    kind_is[0] = require(tf.reduce_any(kind_is), "WebP of an unknown kind", kind_is[0])
    return tf.where(kind_is[0], extended, tf.where(kind_is[1], lossy, lossless))


def bmp_header(encoded: tf.Tensor) -> tf.Tensor:
    """int64 `[7]`: first pixel byte, height, width, bits a pixel, bytes a row, palette, top-down.

    The palette is given by its first byte. Raises unless all pixels are there.
    """
    fixed = tf.strings.substr(encoded, 0, 54)
    fixed = require(tf.strings.length(fixed) == 54, "truncated BMP", fixed)
    words = tf.cast(tf.io.decode_raw(tf.strings.substr(fixed, 10, 24), tf.int32), tf.int64)
    first, size, width, height, compression = (words[i] for i in (0, 1, 2, 3, 5))
    bits = tf.cast(tf.io.decode_raw(tf.strings.substr(fixed, 28, 2), tf.uint16)[0], tf.int64)
    # 3 and 6 say that colour masks follow, which 32 bit files mostly use to say plain BGR(A).
    masks = byte_values(encoded, 54, 12)
    bgr = tf.concat([[0, 0, 255, 0], [0, 255, 0, 0], [255, 0, 0, 0]], 0)
    plain = (compression == 0) | (
        ((compression == 3) | (compression == 6)) & (bits == 32) & same(masks, bgr)
    )
    known = tf.reduce_any(bits == tf.constant([1, 4, 8, 24, 32], tf.int64))
    sane = (size >= 40) & (width > 0) & (width < 65536) & (height != 0) & (tf.abs(height) < 65536)
    row = (width * bits + 31) // 32 * 4
    end = first + row * tf.abs(height)
    header = tf.stack(
        [first, tf.abs(height), width, bits, row, size + 14, tf.cast(height < 0, tf.int64)]
    )
    header = require(known & plain, "BMP compression or pixel format not supported", header)
    header = require(sane & (first >= 54), "damaged BMP header", header)
    whole = end <= tf.cast(tf.strings.length(encoded), tf.int64)
    return require(whole, "truncated BMP", header)


def refuse(placeholder: tf.Tensor) -> tf.Tensor:
    with tf.control_dependencies([tf.debugging.Assert(False, [NOT_AN_IMAGE])]):
        return tf.identity(placeholder)


def require(condition: tf.Tensor, message: str, value: tf.Tensor) -> tf.Tensor:
    with tf.control_dependencies([tf.debugging.Assert(condition, [message])]):
        return tf.identity(value)


def byte_values(encoded: tf.Tensor, at: tf.Tensor | int, count: tf.Tensor | int) -> tf.Tensor:
    """int32 `[<= count]`: the bytes from `at`, fewer at the end, none after it."""
    at = tf.minimum(at, tf.strings.length(encoded))
    return tf.cast(tf.io.decode_raw(tf.strings.substr(encoded, at, count), tf.uint8), tf.int32)


def same(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    return tf.cond(tf.size(a) == tf.size(b), lambda: tf.reduce_all(a == b), lambda: False)
