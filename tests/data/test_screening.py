"""What can be read is kept, in order, and what cannot is told with its reason."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from alexnet_keras.data import Examples
from alexnet_keras.data.decoding import why_unreadable
from alexnet_keras.data.screening import screen
from alexnet_keras.data.threads import in_threads


def encoded(kind, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def test_the_readable_ones_of_all_formats_stay_in_order(tmp_path):
    whole = encoded("JPEG", 0)
    contents = {
        "a.jpg": whole,
        "b.png": encoded("PNG", 1),
        "c.jpg": whole[: len(whole) // 2],
        "d.gif": encoded("GIF", 2),
        "e.jpg": None,
        "g.png": whole,  # by its content a JPEG
        "h.jpg": b"",
        "i.bmp": encoded("BMP", 3)[:-100],
        "j.jpg": encoded("JPEG", 4),
        "k.txt": b"<html>",
    }
    for name, content in contents.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    examples = Examples(
        "mixed", ("a",), list(contents), [0] * len(contents), [tmp_path / name for name in contents]
    )
    seen = []
    kept, skipped = screen(examples, advance=lambda: seen.append(1))
    assert len(seen) == len(contents)
    assert list(kept.keys) == ["a.jpg", "b.png", "d.gif", "g.png", "j.jpg"]
    reasons = {bad.key: bad.reason for bad in skipped}
    assert list(reasons) == ["c.jpg", "e.jpg", "h.jpg", "i.bmp", "k.txt"]
    assert reasons["c.jpg"] == "truncated JPEG"
    assert "No such file" in reasons["e.jpg"]
    assert reasons["h.jpg"] == "empty file"
    assert reasons["i.bmp"] == "truncated BMP"
    assert "HTML" in reasons["k.txt"]


def test_the_quick_check_of_jpegs_finds_what_the_thorough_one_finds():
    rng = np.random.default_rng(5)
    contents = []
    for number in range(150):
        damaged = bytearray(encoded("JPEG", number))
        for place in rng.integers(0, len(damaged), 1 + number % 4):
            damaged[place] = rng.integers(256)
        contents.append(bytes(damaged[: rng.integers(2, len(damaged))] if number % 3 else damaged))
    names = [str(number) for number in range(150)]
    kept, skipped = screen(Examples("damaged", ("a",), names, [0] * 150, contents))
    reasons = {n: why_unreadable(c) for n, c in zip(names, contents, strict=True)}
    assert list(kept.keys) == [name for name in names if reasons[name] is None]
    assert {bad.key: bad.reason for bad in skipped} == {n: r for n, r in reasons.items() if r}
    assert 5 < len(kept) < 145


def test_where_all_can_be_read_they_are_the_same(tmp_path):
    examples = Examples("whole", ("a",), ["0"], [0], [encoded("JPEG", 0)])
    kept, skipped = screen(examples)
    assert kept is examples and skipped == []


def test_threads_give_their_findings_in_order():
    assert list(in_threads(lambda index: index**2, 100, threads=3)) == [i**2 for i in range(100)]
    assert list(in_threads(lambda index: index, 0, threads=3)) == []
