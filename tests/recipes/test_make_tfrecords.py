"""The recipe as a user runs it, and as the machine kills it."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from make_tfrecords import main

SHARDS = 12


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "photos"
    rng = np.random.default_rng(0)
    for name in ("daisy", "tulip"):
        (folder / name).mkdir(parents=True)
        for i in range(150):
            pixels = rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.jpg")
    whole = (folder / "daisy" / "0.jpg").read_bytes()
    (folder / "daisy" / "torn.jpg").write_bytes(whole[: len(whole) // 2])
    return folder


def command(repository, photographs, output):
    return [
        sys.executable,
        repository / "recipes" / "make_tfrecords.py",
        *("--data-dir", photographs, "--output", output),
        *("--shards", str(SHARDS), "--resize", "64"),
    ]


@pytest.fixture(scope="module")
def uninterrupted(photographs, tmp_path_factory, request):
    output = tmp_path_factory.mktemp("whole") / "records"
    # In this process, which saves starting another.
    arguments = command(request.config.rootpath, photographs, output)[2:]
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return output, done.stdout


def test_the_last_line_says_what_was_made(uninterrupted):
    output, printed = uninterrupted
    last = printed.splitlines()[-1]
    assert f"300 images in {SHARDS} shards" in last and str(output) in last
    assert "1 unreadable left out, listed in skipped.txt" in last
    assert (output / "skipped.txt").read_text() == "daisy/torn.jpg\ttruncated JPEG\n"


def test_killed_and_started_again_it_leaves_the_same_bytes(
    repository, photographs, uninterrupted, tmp_path
):
    output = tmp_path / "records"
    for moment in (".train-00000*.part", ".train-00007*.part"):
        process = subprocess.Popen(
            command(repository, photographs, output),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not list(output.glob(moment)):
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.001)
        process.kill()
        process.wait()
        kept = {path: path.stat().st_mtime_ns for path in output.glob("train-*.tfrecord")}
        assert len(kept) < SHARDS
    arguments = command(repository, photographs, output)[2:]
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    listed = {path.name for path in output.iterdir()}
    assert listed == {path.name for path in uninterrupted[0].iterdir()}
    for name in listed:
        assert (output / name).read_bytes() == (uninterrupted[0] / name).read_bytes(), name
    # A shard that got its name but not its line in the manifest is the only one made twice.
    assert sum(path.stat().st_mtime_ns != when for path, when in kept.items()) <= 1


def test_verify_finds_a_changed_byte(uninterrupted, tmp_path):
    output, _ = uninterrupted
    done = CliRunner().invoke(main, ["--output", str(output), "--verify"])
    assert (done.exit_code, f"All {SHARDS + 1} files" in done.output) == (0, True)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in output.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    shard = copy / f"train-00004-of-{SHARDS:05d}.tfrecord"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    done = CliRunner().invoke(main, ["--output", str(copy), "--verify"])
    assert done.exit_code == 2
    assert f"Error: 1 of {SHARDS + 1} files" in done.output and shard.name in done.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--output", "{tmp}/out"], "--data-dir, or --verify"),
        (["--data-dir", "{photos}"], "--output"),
        (
            ["--data-dir", "x", "--output", "y", "--shards", "2", "--shard-megabytes", "3"],
            "either --shards or --shard-megabytes",
        ),
        (["--data-dir", "{tmp}/nowhere", "--output", "{tmp}/out"], "no folder"),
        (["--data-dir", "{photos}", "--output", "{tmp}/file/out"], "cannot be written to"),
        (["--data-dir", "{photos}", "--output", "{photos}/out"], "inside the photographs"),
        (["--output", "{photos}", "--verify"], "manifest.json cannot be used"),
        (["--data-dir", "{photos}", "--output", "{tmp}", "--resize", "8"], "32<=x<=4096"),
    ],
)
def test_a_users_mistake_is_one_sentence_and_exit_code_2(arguments, words, photographs, tmp_path):
    (tmp_path / "file").write_text("in the way")
    filled = [a.format(photos=photographs, tmp=tmp_path) for a in arguments]
    done = CliRunner().invoke(main, filled)
    assert done.exit_code == 2
    assert words in done.output
    assert not (photographs / "out").exists()
