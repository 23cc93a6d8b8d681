from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy.fft import idctn
from scipy.sparse.csgraph import connected_components

from alexnet_keras.data import Examples, prepare_splits, split
from alexnet_keras.data.near_duplicates import (
    MOST_BITS,
    NO_HASH,
    close_pairs,
    duplicate_groups,
    find_groups,
    perceptual_hashes,
)


def picture(seed, size=(120, 96)):
    """Soft blobs of random colours: as few details as a photograph has at first glance."""
    blobs = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(blobs).resize(size, Image.Resampling.BICUBIC)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def examples(contents, keys=None, labels=None):
    keys = [f"{i:04d}" for i in range(len(contents))] if keys is None else keys
    labels = np.zeros(len(keys), int) if labels is None else labels
    return Examples("some", ("a", "b"), keys, labels, contents)


def hash_of(image, **options):
    return perceptual_hashes(examples([encoded(image, **options)]))[0]


COPIES = {
    "quality": lambda image: encoded(image, "JPEG", quality=40),
    "half the size": lambda image: encoded(image.resize((60, 48)), "JPEG", quality=90),
    "brightness": lambda image: encoded(ImageEnhance.Brightness(image).enhance(0.85)),
    "gray": lambda image: encoded(image.convert("L"), "WEBP", quality=90),
    "cropped": lambda image: encoded(image.crop((1, 1, 119, 95)), "JPEG", quality=90),
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_copies_are_found_and_other_pictures_are_not(copy):
    pictures = [picture(seed) for seed in range(30)]
    whole = examples([encoded(image, "JPEG", quality=95) for image in pictures])
    (originals, copies) = find_groups([whole, examples([copy(image) for image in pictures])])
    assert list(originals) == list(range(30))
    assert list(copies) == list(range(30))


def test_the_hash_is_that_of_the_cosine_transform():
    thumbnail = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    angles = np.pi / 32 * (np.arange(32) + 0.5) * np.arange(8)[:, None]
    low = np.cos(angles) @ thumbnail.astype(np.float64) @ np.cos(angles).T
    bits = "".join("01"[above] for above in (low > np.median(low)).ravel().astype(int))
    assert hash_of(Image.fromarray(thumbnail)) == int(bits, 2)


def test_pictures_are_seen_upright():
    upright = picture(1)
    turned = upright.transpose(Image.Transpose.ROTATE_90)  # counterclockwise; 6 turns it back
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("PNG", "JPEG", "WEBP"):
        assert np.bitwise_count(hash_of(turned, kind=kind, exif=exif) ^ hash_of(upright)) <= 2
        assert np.bitwise_count(hash_of(turned, kind=kind) ^ hash_of(upright)) > MOST_BITS


def test_transparent_pixels_are_white():
    seen, hidden = picture(1), picture(2)
    mask = Image.new("L", seen.size, 0)
    mask.paste(255, (20, 20, 90, 60))
    on_white = Image.composite(seen, Image.new("RGB", seen.size, "white"), mask)
    transparent = Image.composite(seen, hidden, mask)
    transparent.putalpha(mask)
    assert hash_of(transparent) == hash_of(on_white)


def test_flat_and_unreadable_images_belong_to_no_group():
    flat = [encoded(Image.new("RGB", (40, 30), colour)) for colour in ("white", "black", "gray")]
    faint = np.full((64, 64), 200, np.uint8) + np.random.default_rng(0).integers(0, 2, (64, 64))
    flat += [flat[0], encoded(Image.fromarray(faint.astype(np.uint8)), "JPEG"), b"no image", b""]
    several = examples([*flat, encoded(picture(0)), encoded(picture(0), "JPEG")])
    hashes = perceptual_hashes(several)
    assert list(hashes == NO_HASH) == [True] * 7 + [False] * 2
    assert list(find_groups([several])[0]) == [0, 1, 2, 3, 4, 5, 6, 7, 7]


def test_a_file_that_is_not_there_has_no_hash(tmp_path):
    (tmp_path / "there.png").write_bytes(encoded(picture(0)))
    files = examples([tmp_path / "there.png", tmp_path / "gone.png"])
    assert list(perceptual_hashes(files) == NO_HASH) == [False, True]


def test_equal_hashes_of_pictures_that_differ_in_detail_are_no_near_duplicates():
    rng = np.random.default_rng(0)
    low = rng.normal(0, 150, (8, 8))  # the same for both; all other frequencies are stronger

    def detailed():
        frequencies = rng.normal(0, 40, (32, 32))
        frequencies[:8, :8] = low
        frequencies[0, 0] = 32 * 128
        pixels = idctn(frequencies, norm="ortho")
        return encoded(Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8)))

    several = examples([detailed(), detailed()])
    hashes = perceptual_hashes(several)
    assert np.bitwise_count(hashes[0] ^ hashes[1]) <= MOST_BITS
    assert list(duplicate_groups(hashes)) == [0, 0]
    assert list(find_groups([several])[0]) == [0, 1]


def by_brute_force(hashes, most_bits):
    """The first example of each one's group, from all distances."""
    near = np.bitwise_count(hashes[:, None] ^ hashes) <= most_bits
    near &= (hashes != NO_HASH)[:, None] & (hashes != NO_HASH)
    _, which = connected_components(near, directed=False)
    _, firsts = np.unique(which, return_index=True)
    return firsts[which]


def crowded(seed, count=400):
    """Hashes at every small distance from one another, equal ones and missing ones among them."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(1, 2**64, count // 4, dtype=np.uint64)[rng.integers(0, count // 4, count)]
    for index in range(count):
        for bit in rng.choice(64, rng.integers(0, 9), replace=False):
            hashes[index] ^= np.uint64(1 << int(bit))
    hashes[rng.integers(0, count, 9)] = NO_HASH
    return hashes


@pytest.mark.parametrize("most_bits", [0, 1, 2, 5, 6, 11])
@pytest.mark.parametrize("seed", range(5))
def test_the_search_finds_the_groups_that_all_distances_give(seed, most_bits):
    hashes = crowded(seed)
    expected = by_brute_force(hashes, most_bits)
    assert 9 < len(np.unique(expected)) < len(hashes)
    np.testing.assert_array_equal(duplicate_groups(hashes, most_bits), expected)


def test_only_pairs_that_are_near_come_out_of_the_search():
    hashes = crowded(0)
    for first, second in close_pairs(hashes, 6):
        assert (np.bitwise_count(hashes[first] ^ hashes[second]) <= 6).all()
        assert (hashes[first] != NO_HASH).all()
        assert len(first) == len(second) <= len(hashes)


def test_no_photographs_have_no_groups():
    assert duplicate_groups(np.zeros(0, np.uint64)).shape == (0,)


def test_only_what_is_confirmed_is_joined():
    hashes = np.array([5, 5, 7, 2**60], np.uint64)
    assert list(duplicate_groups(hashes)) == [0, 0, 0, 0]
    assert list(duplicate_groups(hashes, 1)) == [0, 0, 0, 3]
    assert list(duplicate_groups(hashes, 1, alike=lambda one, other: other != 1)) == [0, 1, 0, 3]


KEYS = [f"{'ab'[i % 2]}/{i}.jpg" for i in range(1500)]


def keyed(keys):
    return examples([b"x"] * len(keys), keys, [i % 2 for i in range(len(keys))])


@pytest.mark.parametrize("seed", range(10))
def test_a_group_stays_on_the_side_of_its_alphabetically_first_key(seed):
    rng = np.random.default_rng(seed)
    groups = np.arange(len(KEYS))
    grouped = rng.permutation(len(KEYS))[:600]
    groups[grouped] = grouped[np.repeat(np.arange(200), 3)]  # 200 groups of three
    before, after = split(keyed(KEYS)), split(keyed(KEYS), groups=groups)
    sides = {}
    for name in ("train", "stopping", "validation"):
        for key in getattr(before, name).keys:
            sides[key] = name
    found = {}
    for name in ("train", "stopping", "validation"):
        for key in getattr(after, name).keys:
            found[key] = name
    expected = {key: sides[key] for key in KEYS}
    for members in grouped.reshape(200, 3):
        first = min(KEYS[i] for i in members)
        expected |= {KEYS[i]: sides[first] for i in members}
    assert found == expected
    assert found != sides  # some had to move, and no single one did


def test_groups_of_one_change_nothing():
    plain, grouped = split(keyed(KEYS)), split(keyed(KEYS), groups=np.arange(len(KEYS))[::-1])
    for name in ("train", "stopping", "validation"):
        assert getattr(plain, name).fingerprint() == getattr(grouped, name).fingerprint()


@pytest.fixture
def folder(tmp_path):
    """Forty pictures of two classes; copies of some, within a class and across."""

    def write(path, image, **options):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / path, **options)

    for i in range(20):
        write(f"photos/daisy/{i:02d}.png", picture(i))
        write(f"photos/tulip/{i:02d}.png", picture(100 + i))
    for i in range(6):
        write(f"photos/daisy/copy{i}.jpg", picture(3), quality=50 + 5 * i)
    write("photos/tulip/contrary.jpg", picture(5), quality=70)
    write("val/daisy/known.jpg", picture(7), quality=70)
    write("val/daisy/new.png", picture(200))
    write("val/tulip/new.png", picture(201))
    return tmp_path


def prepare(folder, **options):
    said, listed = [], folder / "near_duplicates.txt"
    splits, _ = prepare_splits(
        "auto",
        folder / "photos",
        say=said.append,
        near_duplicates_path=listed,
        verbose=0,
        **options,
    )
    return splits, said, [line.split("\t") for line in listed.read_text().splitlines()]


def test_groups_are_told_listed_and_kept_together(folder):
    splits, said, listed = prepare(folder)
    assert said == [
        "9 of 47 photographs are near-duplicates of others, in 2 groups; each group is kept on one "
        "side.",
        "1 group of near-duplicates holds photographs of different classes, so that labels "
        "contradict each other; the first has daisy/05.png (daisy) and tulip/contrary.jpg (tulip).",
    ]
    copies = [f"daisy/copy{i}.jpg" for i in range(6)]
    assert [row[3] for row in listed] == [
        "daisy/03.png",
        *copies,
        "daisy/05.png",
        "tulip/contrary.jpg",
    ]
    assert [row[0] for row in listed] == ["1"] * 7 + ["2"] * 2
    assert [row[2] for row in listed] == ["daisy"] * 8 + ["tulip"]
    for group in ("1", "2"):
        assert len({row[1] for row in listed if row[0] == group}) == 1
    for _, part, _, key in listed:
        assert key in getattr(splits, part).keys


def test_near_duplicates_across_given_parts_are_told_and_not_moved(folder):
    splits, said, listed = prepare(folder, val_dir=folder / "val")
    assert splits.validation.keys == ("daisy/known.jpg", "daisy/new.png", "tulip/new.png")
    assert len(splits.train) + len(splits.stopping) == 47
    assert said[0].endswith("in 3 groups; what was split of each group is kept on one side.")
    assert said[1] == (
        "1 group of near-duplicates stands in more than one of the parts as they were given; 1 of "
        "3 validation photographs have their like in another part, so the figures look better than "
        "they are."
    )
    assert [row for row in listed if row[0] == "3"] == [
        ["3", "train" if "daisy/07.png" in splits.train.keys else "stopping", "daisy"]
        + ["daisy/07.png"],
        ["3", "validation", "daisy", "daisy/known.jpg"],
    ]


def test_where_every_part_was_given_nothing_is_said_to_be_kept(tmp_path):
    for part, first in (("train", 0), ("val", 0), ("test", 20)):
        for i, name in enumerate(("daisy", "tulip")):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            picture(first + 10 * i).save(tmp_path / "photos" / part / name / f"{part}.png")
    _, said, listed = prepare(tmp_path)
    assert said == [
        "4 of 6 photographs are near-duplicates of others, in 2 groups.",
        "2 groups of near-duplicates stand in more than one of the parts as they were given; 0 of "
        "2 validation photographs have their like in another part.",
    ]
    assert [row[1] for row in listed] == ["train", "stopping"] * 2


def test_nothing_is_said_where_no_picture_comes_twice(folder):
    for path in [*folder.glob("photos/daisy/copy*"), folder / "photos/tulip/contrary.jpg"]:
        path.unlink()
    _, said, listed = prepare(folder)
    assert (said, listed) == ([], [])


@pytest.mark.real_data
def test_copies_of_real_photographs_are_found_and_few_others(flower_photos):
    files = sorted(flower_photos.rglob("*.jpg"))[::5]
    whole = Examples("flowers", ("all",), [str(file) for file in files], [0] * len(files), files)
    chosen = range(0, len(files), 12)
    copies = []
    for index in chosen:
        with Image.open(files[index]) as image:
            smaller = image.convert("RGB").resize((image.width // 2, image.height // 2))
        copies.append(encoded(smaller, "JPEG", quality=50))
    originals, found = find_groups([whole, examples(copies)])
    np.testing.assert_array_equal(found, originals[chosen])
    assert len(np.unique(originals)) > 0.99 * len(files)
