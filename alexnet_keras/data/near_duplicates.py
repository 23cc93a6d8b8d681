"""Photographs that show the same picture, though their files differ.

A perceptual hash of 64 bits finds candidates among all photographs, and thumbnails confirm them.

The two thresholds are from 2,934 photographs of tf_flowers and 1,318 of Stanford Cars, of which 600
were compared with copies of themselves: JPEG quality 50 and 30, half and three quarters of the
size, brightness times 1.1 and .85, PNG, and 2% or 4% of both sides cropped. Of the copies by
quality, size, brightness and format all are found, of the crops 97.5% (2%) and 75.8% (4%). Among
the nine million pairs of different files 21 are found, all of which show the same picture by eye:
the same file twice, other colours, another crop. The hash alone finds the same 21, and eleven more
at 8 bits: six of them are different pictures, with correlations of .65 to .80.

Pictures that are all alike, such as digits by hand, come this close without being copies: of
scikit-learn's 1,797 digits a quarter is grouped, 64 of them in one chain. Mirrored or turned copies
are not found.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import imagehash
import numpy as np
from PIL import Image, ImageOps

from alexnet_keras.data.examples import Examples
from alexnet_keras.data.threads import in_threads

#: bits of 64 that the hashes of near-duplicates may differ in
MOST_BITS = 6
#: correlation of the thumbnails of near-duplicates, at least
LEAST_CORRELATION = 0.85
#: the hash of an image that has none; no other is 0, for half of its bits are set
NO_HASH = np.uint64(0)

#: pixels of a thumbnail's side, from which `imagehash.phash` takes the 8 x 8 lowest frequencies
_SIDE = 32
#: standard deviation of a thumbnail, in levels of 255, below which its hash is of noise only
_FLAT = 2.0


def find_groups(
    parts: Sequence[Examples], advance: Callable[[], None] = lambda: None
) -> list[np.ndarray]:
    """Groups of near-duplicates among all photographs of all `parts`.

    Args:
        advance: called once for each example, for a progress bar.

    Returns:
        For each part int64 (examples,), the groups' numbers as in `duplicate_groups`; the examples
        are counted through all parts.
    """
    hashes = np.concatenate([perceptual_hashes(examples, advance=advance) for examples in parts])
    starts = np.cumsum([0, *map(len, parts)])

    @lru_cache(maxsize=1024)
    def seen(number: int) -> np.ndarray | None:
        which = int(np.searchsorted(starts, number, side="right")) - 1
        return _thumbnail(parts[which], number - int(starts[which]))

    def alike(one: int, other: int) -> bool:
        first, second = seen(one), seen(other)
        if first is None or second is None:
            return False
        return np.corrcoef(first.ravel(), second.ravel())[0, 1] >= LEAST_CORRELATION

    return np.split(duplicate_groups(hashes, alike=alike), starts[1:-1])


def perceptual_hashes(
    examples: Examples, threads: int = 2, advance: Callable[[], None] = lambda: None
) -> np.ndarray:
    """The perceptual hash of each photograph, by the discrete cosine transform.

    Each bit tells whether one of the 8 x 8 lowest frequencies of a gray thumbnail of 32 x 32 pixels
    is above their median, see `imagehash.phash`. As in `decoding.py`, EXIF orientation is applied
    and transparent pixels are white.

    Args:
        threads: files read and decoded at a time.
        advance: called once for each example, for a progress bar.

    Returns:
        uint64 (examples,); `NO_HASH` for an image of one colour, whose hash would be that of all
        others, and for one that Pillow cannot read.
    """

    def hash_of(index: int) -> np.uint64:
        thumbnail = _thumbnail(examples, index)
        if thumbnail is None or thumbnail.std() < _FLAT:
            return NO_HASH
        bits = imagehash.phash(Image.fromarray(thumbnail)).hash
        return np.packbits(bits).view(">u8")[0]

    hashes = np.full(len(examples), NO_HASH)
    # What Pillow warns of (a large image, an odd EXIF block) is no matter here.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        for index, found in enumerate(in_threads(hash_of, len(examples), threads)):
            hashes[index] = found
            advance()
    return hashes


def duplicate_groups(
    hashes: np.ndarray,
    most_bits: int = MOST_BITS,
    alike: Callable[[int, int], bool] = lambda one, other: True,
) -> np.ndarray:
    """Which examples belong together: those that a chain of near-duplicates connects.

    Args:
        hashes: uint64 (examples,), as `perceptual_hashes` gives them.
        most_bits: bits that the hashes of near-duplicates differ in, at most.
        alike: confirms two examples, by their numbers, as near-duplicates. Of examples with equal
            hashes the first alone is asked about for the others.

    Returns:
        int64 (examples,): for each the number of the first example of its group, its own if it is
        by itself.
    """
    groups = np.arange(len(hashes))
    for first, second in close_pairs(hashes, most_bits):
        apart = groups[first] != groups[second]
        for one, other in zip(first[apart].tolist(), second[apart].tolist(), strict=True):
            low, high = sorted((groups[one], groups[other]))
            if low != high and alike(one, other):
                groups[groups == high] = low
    return groups


def close_pairs(hashes: np.ndarray, most_bits: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of examples whose hashes differ in `most_bits` at most, some at a time.

    Hashes that differ in fewer bits than they have parts agree in one part at least, so only those
    that do are compared. Examples with equal hashes are paired with the first of them, which stands
    for all; a pair may come more than once, and an example may be paired with itself.

    Args:
        hashes: uint64 (examples,); examples with `NO_HASH` are in no pair.
        most_bits: 0 to 63.

    Yields:
        Two arrays, int64 (pairs,), with at most as many pairs as there are examples.
    """
    known = np.flatnonzero(hashes != NO_HASH)
    values, firsts, which = np.unique(hashes[known], return_index=True, return_inverse=True)
    stands = known[firsts]
    yield stands[which], known
    parts = most_bits + 1
    for part in range(parts):
        # Every so many bits, since neighbouring frequencies have more in common than others.
        mask = np.uint64(sum(1 << bit for bit in range(part, 64, parts)))
        order = np.argsort(values & mask, kind="stable")
        ordered = values[order]
        agreed = ordered & mask
        place = np.arange(len(order))
        for step in range(1, len(order)):
            place = place[: np.searchsorted(place, len(order) - step)]
            place = place[agreed[place] == agreed[place + step]]
            if not len(place):
                break
            differing = np.bitwise_count(ordered[place] ^ ordered[place + step])
            near = place[differing <= most_bits]
            if len(near):
                yield stands[order[near]], stands[order[near + step]]


def _thumbnail(examples: Examples, index: int) -> np.ndarray | None:
    """uint8 (32, 32), gray levels, or None where the image cannot be read by Pillow."""
    try:
        with Image.open(io.BytesIO(examples.read(index))) as image:
            # Of a JPEG, brightness alone, at a reduced scale that leaves twice the pixels.
            image.draft("L", (2 * _SIDE, 2 * _SIDE))
            if image.has_transparency_data and image.format != "GIF":
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            small = image.convert("L").resize(
                (_SIDE, _SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0
            )
            return np.asarray(ImageOps.exif_transpose(small))
    except Exception:  # Pillow's readers raise many kinds; TensorFlow has found the image readable
        return None
