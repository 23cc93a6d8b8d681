from __future__ import annotations

import errno
import fcntl
import inspect
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile

import ml_dtypes
import numpy as np
import pytest

import alexnet_keras
from alexnet_keras.errors import UserError
from alexnet_keras.training.checkpoints import MANIFEST, Checkpoints


def arrays_of(step):
    """Two megabytes that tell the step."""
    kernel = np.arange(1 << 19, dtype=np.float32) + step
    return {"conv1/kernel": kernel, "conv1/bias": np.full(7, step, np.int64)}


def assert_whole(checkpoint, step):
    assert checkpoint.step == step
    assert checkpoint.state == {"sum": step / 7}
    assert_equal(checkpoint.arrays, arrays_of(step))


def assert_equal(arrays, expected):
    """The same names, types, shapes and bytes."""
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        assert arrays[name].dtype == array.dtype
        assert arrays[name].shape == array.shape
        assert arrays[name].tobytes() == array.tobytes()


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


@pytest.fixture
def said():
    return []


@pytest.fixture
def open_checkpoints(tmp_path, said):
    opened = []

    def open_them(folder=tmp_path, **options):
        opened.append(Checkpoints(folder, say=said.append, **options))
        return opened[-1]

    yield open_them
    for checkpoints in opened:
        checkpoints.close()


class Gate:
    """Holds the writing thread where it writes the manifest, before any array."""

    def __init__(self, monkeypatch):
        self.reached, self.opened = threading.Event(), threading.Event()
        write = zipfile.ZipFile.writestr

        def hold(*arguments):
            self.reached.set()
            assert self.opened.wait(20)
            return write(*arguments)

        monkeypatch.setattr(zipfile.ZipFile, "writestr", hold)


# What comes back.


def test_arrays_of_every_kind_come_back_as_they_were(open_checkpoints):
    rng = np.random.default_rng(0)
    arrays = {
        "conv1/kernel": rng.normal(size=(3, 3, 4, 8)).astype(np.float32),
        "sgd/conv1/kernel/momentum": rng.normal(size=(5, 4)),
        "größe/層/ñ.npy": rng.normal(size=9).astype(np.float16),
        "../up": rng.normal(size=(2, 3)).astype(ml_dtypes.bfloat16),
        "eight": np.arange(5).astype(ml_dtypes.float8_e4m3fn),
        "iterations": np.array(1 << 60),
        "scale": np.array(0.1, ml_dtypes.bfloat16),
        "empty": np.zeros((0, 3), np.float32),
        "": np.array([True, False]),
        "bytes": np.arange(256, dtype=np.uint8),
        "big-endian": np.arange(4, dtype=">i4"),
        "transposed": rng.normal(size=(4, 6)).T,
        "strided": np.arange(20)[::-3],
        "not finite": np.array([np.nan, -np.inf, -0.0]),
        MANIFEST: np.arange(2),
    }
    checkpoints = open_checkpoints()
    checkpoints.save(7, arrays, {}, wait=True)
    assert_equal(checkpoints.latest().arrays, arrays)


def test_state_comes_back_exactly(open_checkpoints):
    rng = random.Random(0)
    sums = [math.ldexp(rng.random(), rng.randint(-1070, 1020)) for _ in range(1000)]
    state = {
        "sums": [*sums, 0.1 + 0.2, 5e-324, -0.0, math.inf, float(np.float64(1) / 3)],
        "seed": (1 << 80) + 1,
        "rows": [{"épòque": 1, "best": None, "done": True}],
    }
    checkpoints = open_checkpoints()
    checkpoints.save(1, {}, {**state, "loss": math.nan}, wait=True)
    found = checkpoints.latest().state
    assert math.isnan(found.pop("loss"))
    assert found == state
    assert math.copysign(1, found["sums"][-3]) == -1


def test_numpy_and_zipfile_can_read_the_file(open_checkpoints, tmp_path):
    open_checkpoints().save(3, arrays_of(3), {}, wait=True)
    with zipfile.ZipFile(tmp_path / "step-0000000003.npz") as archive:
        assert archive.testzip() is None
    with np.load(tmp_path / "step-0000000003.npz") as stored:
        assert set(stored) == {MANIFEST, *arrays_of(3)}
        assert_equal({name: stored[name] for name in arrays_of(3)}, arrays_of(3))


def test_arrays_may_change_once_save_has_returned(open_checkpoints, monkeypatch):
    checkpoints = open_checkpoints()
    arrays = {"a": np.arange(6.0), "b": np.arange(6.0).reshape(2, 3).T}
    for step in (1, 2):
        with monkeypatch.context() as patch:
            gate = Gate(patch)
            before = {name: array.copy() for name, array in arrays.items()}
            checkpoints.save(step, arrays, {})
            assert gate.reached.wait(20)
            for array in arrays.values():
                array += 100
            gate.opened.set()
            assert_equal(checkpoints.latest().arrays, before)


def test_what_is_saved_may_change_its_names_types_and_shapes(open_checkpoints):
    checkpoints = open_checkpoints()
    for step, array in enumerate([np.arange(6.0), np.arange(6, dtype="f4"), np.ones((2, 3), "f4")]):
        arrays = {"same": array, f"only {step}": array}
        checkpoints.save(step, arrays, {})
        assert_equal(checkpoints.latest().arrays, arrays)


@pytest.mark.parametrize(
    ("arrays", "state", "error"),
    [
        ({"a": np.array([{}])}, {}, "a holds object, neither numbers nor booleans"),
        ({"a": np.array(["text"])}, {}, "a holds <U4"),
        ({"a": np.zeros(2, [("x", "f4")])}, {}, "neither numbers nor booleans"),
        ({"a\0b": np.zeros(2)}, {}, "cannot be the name"),
        ({"a" * 70_000: np.zeros(2)}, {}, "cannot be the name"),
        ({"\udc80": np.zeros(2)}, {}, "surrogates not allowed"),
        ({}, {"rate": np.float32(1)}, "not JSON serializable"),
    ],
)
def test_what_cannot_be_stored_is_refused_at_once(open_checkpoints, tmp_path, arrays, state, error):
    with pytest.raises((TypeError, ValueError), match=error):
        open_checkpoints().save(1, arrays, state)
    assert names(tmp_path) == []


# Which files there are.


def test_an_empty_folder_has_no_checkpoint(open_checkpoints, tmp_path, said):
    assert open_checkpoints(tmp_path / "new" / "folder").latest() is None
    assert said == []


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept_by_number_and_other_files_let_be(open_checkpoints, tmp_path, keep):
    others = ["notes.txt", "step-1.npz", "step-0000000001.npz.bak", "step-0000000001.npy"]
    for name in others:
        (tmp_path / name).touch()
    checkpoints = open_checkpoints(keep=keep)
    steps = [8, 9, 10, 11, 9_999_999_999, 10_000_000_000]
    for step in steps:
        checkpoints.save(step, {"a": np.array(step)}, {})
    assert checkpoints.latest().step == 10_000_000_000
    assert names(tmp_path) == sorted([*others, *(f"step-{s:010d}.npz" for s in steps[-keep:])])


def test_a_step_may_be_saved_again_but_never_an_earlier_one(open_checkpoints, tmp_path):
    checkpoints = open_checkpoints()
    for state in ({"done": False}, {"done": True}):
        checkpoints.save(5, {}, state)
    assert checkpoints.latest().state == {"done": True}
    with pytest.raises(ValueError, match="step 4 comes after step 5"):
        checkpoints.save(4, {}, {})
    checkpoints.close()
    again = open_checkpoints()
    assert again.latest().step == 5
    with pytest.raises(ValueError, match="step 4 comes after step 5"):
        again.save(4, {}, {})
    assert names(tmp_path) == ["step-0000000005.npz"]


def test_nothing_is_kept_is_refused(tmp_path):
    with pytest.raises(ValueError, match="keep is 0"):
        Checkpoints(tmp_path, keep=0)


def test_a_save_waits_for_the_one_before_it(open_checkpoints, tmp_path, monkeypatch):
    gate = Gate(monkeypatch)
    checkpoints = open_checkpoints()
    checkpoints.save(1, arrays_of(1), {})
    assert gate.reached.wait(20)
    assert names(tmp_path) == [".step-0000000001.npz.part"]
    second = threading.Thread(target=checkpoints.save, args=(2, arrays_of(2), {}))
    second.start()
    second.join(0.1)
    assert second.is_alive()
    gate.opened.set()
    second.join(20)
    checkpoints.wait()
    assert names(tmp_path) == ["step-0000000001.npz", "step-0000000002.npz"]


def test_a_wait_that_was_interrupted_goes_on_before_the_next_save(
    open_checkpoints, tmp_path, monkeypatch
):
    def interrupt(*_):
        raise KeyboardInterrupt

    gate = Gate(monkeypatch)
    checkpoints = open_checkpoints()
    checkpoints.save(1, arrays_of(1), {})
    assert gate.reached.wait(20)
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt):
            checkpoints.wait()
    finally:
        signal.signal(signal.SIGALRM, before)
    second = threading.Thread(target=checkpoints.save, args=(2, arrays_of(2), {}))
    second.start()
    second.join(0.1)
    gate.opened.set()
    second.join(20)
    checkpoints.wait()
    for step in (1, 2):
        with np.load(tmp_path / f"step-{step:010d}.npz") as stored:
            assert_equal({name: stored[name] for name in arrays_of(step)}, arrays_of(step))


def test_data_reach_the_disk_before_the_name_and_the_name_before_older_ones_go(
    open_checkpoints, tmp_path, monkeypatch
):
    checkpoints = open_checkpoints(keep=1)
    checkpoints.save(1, {}, {}, wait=True)
    sync, seen = os.fsync, []

    def record(descriptor):
        sync(descriptor)
        seen.append((os.readlink(f"/proc/self/fd/{descriptor}"), names(tmp_path)))

    monkeypatch.setattr(os, "fsync", record)
    checkpoints.save(2, {}, {}, wait=True)
    first, second, part = "step-0000000001.npz", "step-0000000002.npz", ".step-0000000002.npz.part"
    assert seen == [(str(tmp_path / part), [part, first]), (str(tmp_path), [first, second])]
    assert names(tmp_path) == [second]


def test_the_parts_that_a_killed_run_left_are_removed(open_checkpoints, tmp_path):
    for name in (".step-0000000004.npz.part", ".step-10000000000.npz.part", ".other.part"):
        (tmp_path / name).write_bytes(b"torn")
    open_checkpoints()
    assert names(tmp_path) == [".other.part"]


# Damaged files.


@pytest.fixture
def two_small(open_checkpoints, tmp_path):
    """Checkpoints of steps 1 and 2, and the bytes and content of the second."""
    checkpoints = open_checkpoints()
    arrays = {"a/kernel": np.float32([0.5, -1.5, 3]), "b": np.array(0.1, ml_dtypes.bfloat16)}
    checkpoints.save(1, arrays, {})
    checkpoints.save(2, arrays, {"sum": 0.1}, wait=True)
    path = tmp_path / "step-0000000002.npz"
    return checkpoints, path, path.read_bytes(), arrays


def test_every_flipped_bit_is_found_or_changes_nothing(two_small, said):
    checkpoints, path, whole, arrays = two_small
    bits = random.Random(0).sample(range(8 * len(whole)), 1000)
    harmless = 0
    for bit in bits:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        said.clear()
        found = checkpoints.latest()
        if found.step == 2:
            harmless += 1
            assert (found.state, said) == ({"sum": 0.1}, [])
        else:
            assert (found.step, len(said)) == (1, 1)
            assert str(path) in said[0] and "older one of step 1" in said[0]
        assert_equal(found.arrays, arrays)
    # Times, permissions and versions of the zip format.
    assert harmless < len(bits) / 3


def test_a_file_cut_off_anywhere_is_passed_over(two_small, said):
    checkpoints, path, whole, _ = two_small
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        said.clear()
        assert checkpoints.latest().step == 1
        assert len(said) == 1 and str(path) in said[0] and "torn or damaged" in said[0]


def changed(path, change=lambda manifest: None, drop=None, add=None, append=("", b"")):
    """Writes a checkpoint anew, its manifest or its members changed."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist() if name != drop}
    if MANIFEST in members:
        manifest = json.loads(members[MANIFEST])
        change(manifest)
        members[MANIFEST] = json.dumps(manifest).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**members, **(add or {})}.items():
            archive.writestr(name, content + append[1] * (name == append[0]))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda p: p.write_bytes(b""), "torn or damaged"),
        (lambda p: p.write_bytes(random.Random(0).randbytes(5000)), "torn or damaged"),
        (lambda p: np.savez(p, a=np.ones(3)), "it is no checkpoint"),
        (lambda p: (p.unlink(), p.mkdir()), "reading it failed: Is a directory"),
        (lambda p: p.write_bytes(p.with_name("step-0000000001.npz").read_bytes()), "of step 1"),
        (lambda p: changed(p, lambda m: m.update(format=2)), "format 2, and this .* reads 1"),
        (lambda p: changed(p, drop="b.npy"), "too many or too few"),
        (lambda p: changed(p, drop=MANIFEST), "it is no checkpoint"),
        (lambda p: changed(p, add={"c.npy": b""}), "too many or too few"),
        (lambda p: changed(p, lambda m: m["arrays"].pop("b")), "too many or too few"),
        (lambda p: changed(p, append=("b.npy", b"\0")), "b.npy is too long"),
        (
            lambda p: changed(p, lambda m: m["arrays"]["a/kernel"].update(shape=[3, 1])),
            f"a/kernel.npy is not what {MANIFEST} says",
        ),
        (
            lambda p: changed(p, lambda m: m["arrays"]["b"].update(dtype="float32")),
            f"b.npy is not what {MANIFEST} says",
        ),
        (
            lambda p: changed(p, lambda m: m["arrays"]["a/kernel"].update(shape=[1 << 50])),
            f"a/kernel.npy is not what {MANIFEST} says",
        ),
    ],
)
def test_a_file_that_is_no_whole_checkpoint_is_passed_over(two_small, said, damage, reason):
    checkpoints, path, *_ = two_small
    damage(path)
    assert checkpoints.latest().step == 1
    (sentence,) = said
    assert re.fullmatch(rf"The checkpoint {path} cannot be used \(.*{reason}.*\); .*", sentence)


def test_no_run_starts_anew_over_damaged_checkpoints(two_small, tmp_path, said):
    checkpoints, path, *_ = two_small
    path.write_bytes(b"")
    (tmp_path / "step-0000000001.npz").write_bytes(b"PK")
    with pytest.raises(UserError) as caught:
        checkpoints.latest()
    for part in (str(tmp_path), "step-0000000001.npz: ", "step-0000000002.npz: ", "move them away"):
        assert part in str(caught.value)
    assert said == []
    assert names(tmp_path) == ["step-0000000001.npz", "step-0000000002.npz"]


def test_damaged_files_take_no_place_of_whole_ones(open_checkpoints, tmp_path):
    checkpoints = open_checkpoints(keep=3)
    for step in (10, 20, 30):
        checkpoints.save(step, {}, {})
    checkpoints.close()
    for step in (20, 30):
        (tmp_path / f"step-{step:010d}.npz").write_bytes(b"")
    checkpoints = open_checkpoints()
    assert checkpoints.latest().step == 10
    left = {}
    for step in (15, 25, 30, 31):
        checkpoints.save(step, {}, {}, wait=True)
        left[step] = [int(name[5:15]) for name in names(tmp_path)]
    assert left == {15: [10, 15, 20, 30], 25: [15, 25, 30], 30: [25, 30], 31: [30, 31]}
    assert checkpoints.latest().step == 31


# Killed runs. They are processes that need neither TensorFlow nor the seconds it takes to load.

PRELUDE = f"""
import json, os, resource, signal, sys, types
from pathlib import Path
import numpy as np
for name, folder in (("alexnet_keras", "."), ("alexnet_keras.training", "training")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [os.path.join({os.path.dirname(alexnet_keras.__file__)!r}, folder)]
from alexnet_keras.errors import UserError
from alexnet_keras.training.checkpoints import Checkpoints

{inspect.getsource(arrays_of)}
folder = Path(sys.argv[1])
print("ready", flush=True)
"""

SAVE_WITHOUT_END = """
with Checkpoints(folder) as checkpoints:
    found = checkpoints.latest()
    step = found.step if found else 0
    while True:
        step += 1
        checkpoints.save(step, arrays_of(step), {"sum": step / 7})
        checkpoints.wait()
        print(step, flush=True)
"""

# Every operation on the folder raises an event before it happens (PEP 578).
DIE_BEFORE_AN_OPERATION = """
left = int(sys.argv[2])
armed = False

def hook(event, arguments):
    global left
    if armed and event in ("open", "os.rename", "os.remove", "os.listdir", "os.scandir"):
        if str(folder) in str(arguments[0]):
            left -= 1
            if left == 0:
                print(event, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
with Checkpoints(folder) as checkpoints:
    for step in (1, 2):
        checkpoints.save(step, arrays_of(step), {"sum": step / 7}, wait=True)
    armed = True
    checkpoints.save(3, arrays_of(3), {"sum": 3 / 7}, wait=True)
    armed = False
"""


def start(script, *arguments):
    command = [sys.executable, "-c", PRELUDE + script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def assert_usable(folder, at_least, most=3):
    """All files but parts are whole, by NumPy; two at least, once there were so many."""
    paths = sorted(folder.glob("step-*.npz"))
    assert min(at_least, 2) <= len(paths) <= most
    for path in paths:
        step = int(path.name[5:15])
        with np.load(path) as stored:
            assert json.loads(stored[MANIFEST])["state"] == {"sum": step / 7}
            assert_equal({name: stored[name] for name in arrays_of(0)}, arrays_of(step))
    with Checkpoints(folder, say=pytest.fail) as checkpoints:
        found = checkpoints.latest()
    assert not list(folder.glob(".step*"))
    if found is None:
        assert at_least == 0
        return 0
    assert found.step >= at_least
    assert_whole(found, found.step)
    return found.step


def test_a_run_killed_at_random_moments_loses_nothing_that_was_saved(tmp_path):
    rng = random.Random()
    newest = parts = 0
    for turn in range(20):
        # Each run may be killed right before it removes an older one, and so may the next.
        most = max(len(list(tmp_path.glob("step-*.npz"))) + 1, 3)
        with start(SAVE_WITHOUT_END, tmp_path) as run:
            for _ in range(rng.choice([1, 2, 2, 3])):
                run.stdout.readline()
            if turn % 2:
                time.sleep(rng.uniform(0, 0.05))
            else:
                while not list(tmp_path.glob(".step*.part")):
                    time.sleep(0.0005)
                time.sleep(rng.uniform(0, 0.003))
            run.kill()
            reported = [int(line) for line in run.stdout if line.strip().isdecimal()]
        parts += len(list(tmp_path.glob(".step*.part")))
        newest = assert_usable(tmp_path, at_least=max([newest, *reported]), most=most)
    assert newest > 10
    assert parts > 2  # else none was killed while it was writing


def test_a_run_killed_before_any_operation_on_its_folder_loses_nothing(tmp_path):
    events, newest = [], []
    while not events or events[-1]:
        folder = tmp_path / str(len(events))
        with start(DIE_BEFORE_AN_OPERATION, folder, len(events) + 1) as run:
            events.append(run.stdout.read().removeprefix("ready\n").strip())
        newest.append(assert_usable(folder, at_least=2))
    assert events[:2] == ["open", "os.rename"] and "os.remove" in events
    assert newest == [2, 2] + [3] * (len(events) - 2)


# Two runs.


def test_a_second_run_is_refused_while_the_first_is_there(open_checkpoints, tmp_path):
    first = open_checkpoints()
    with pytest.raises(UserError, match=rf"process {os.getpid()} on .*{tmp_path}.*another folder"):
        open_checkpoints()
    first.close()
    open_checkpoints().save(1, {}, {}, wait=True)


def test_the_lock_lasts_until_the_last_write_has_ended(open_checkpoints, tmp_path, monkeypatch):
    gate = Gate(monkeypatch)
    first = open_checkpoints()
    first.save(1, {}, {})
    assert gate.reached.wait(20)
    closing = threading.Thread(target=first.close)
    closing.start()
    closing.join(0.1)
    with pytest.raises(UserError, match="Another run"):
        open_checkpoints()
    gate.opened.set()
    closing.join(20)
    assert open_checkpoints().latest().step == 1


def test_the_lock_of_another_process_ends_when_that_is_killed(open_checkpoints, tmp_path):
    with start(SAVE_WITHOUT_END, tmp_path) as run:
        for _ in range(2):
            run.stdout.readline()
        (tmp_path / ".step-0000000000.npz.part").touch()
        with pytest.raises(UserError, match=rf"process {run.pid} on "):
            open_checkpoints()
        assert (tmp_path / ".step-0000000000.npz.part").exists()
        run.kill()
    open_checkpoints()


def test_a_file_system_without_locks_is_told_of(open_checkpoints, tmp_path, said, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", fail)
    open_checkpoints().save(1, {}, {}, wait=True)
    (sentence,) = said
    assert f"{tmp_path} cannot be locked (No locks available); see to it" in sentence


def test_a_folder_that_cannot_be_made_is_the_users_matter(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/folder cannot be written to \(Not a directory\)"):
        Checkpoints(tmp_path / "file" / "folder")


# Writes that fail.


def assert_goes_on_after_space_is_made(checkpoints, folder, said, use_up, make_space):
    """One sentence when space runs out and one when it is back; the last good one is kept."""
    kept = ["step-0000000001.npz"]
    checkpoints.save(1, arrays_of(1), {"sum": 1 / 7}, wait=True)
    use_up()
    for step in (2, 3):
        checkpoints.save(step, arrays_of(step), {"sum": step / 7})
    with pytest.raises(UserError, match="of step 3 was not written.*continues from step 1"):
        checkpoints.wait()
    with pytest.raises(UserError, match="of step 4 .*make space there and give the same command"):
        checkpoints.save(4, arrays_of(4), {}, wait=True)
    assert_whole(checkpoints.latest(), 1)
    assert names(folder) == kept
    (sentence,) = said
    for part in ("step 2 ", str(folder), "2,097,", "of step 1, is kept", "goes on", "tries again"):
        assert part in sentence
    make_space()
    for step in (4, 5):
        checkpoints.save(step, arrays_of(step), {"sum": step / 7})
    checkpoints.wait()
    assert_whole(checkpoints.latest(), 5)
    assert said[1:] == [f"Checkpoints are written to {folder} again; the newest is of step 4."]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_ends_no_run_and_loses_no_checkpoint(small_disk, open_checkpoints, said):
    folder, filler = small_disk / "run", small_disk / "filler"

    def fill():
        with pytest.raises(OSError, match="No space left"), filler.open("wb", 0) as file:
            while True:
                file.write(bytes(1 << 20))
        os.truncate(filler, filler.stat().st_size - (1 << 20))

    assert_goes_on_after_space_is_made(open_checkpoints(folder), folder, said, fill, filler.unlink)


LIMIT_THE_SIZE_OF_FILES = """
import inspect, pytest
said = []
limit = lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
checkpoints = Checkpoints(folder, say=said.append)
assert_goes_on_after_space_is_made(
    checkpoints, folder, said, lambda: limit(1 << 20), lambda: limit(resource.RLIM_INFINITY)
)
assert "File too large" in said[0]
"""


def test_a_limit_on_the_size_of_files_is_a_full_disk_too(tmp_path):
    functions = (assert_equal, assert_whole, names, assert_goes_on_after_space_is_made)
    sources = "import pytest\n" + "\n".join(map(inspect.getsource, functions))
    with start(sources + LIMIT_THE_SIZE_OF_FILES, tmp_path) as run:
        run.communicate()
    assert run.returncode == 0


def test_a_folder_that_went_away_is_named_and_training_goes_on(open_checkpoints, tmp_path, said):
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    checkpoints = open_checkpoints(folder)
    folder.rename(elsewhere)
    with pytest.raises(UserError, match="step 1 was not written"):
        checkpoints.save(1, {}, {}, wait=True)
    assert said == []
    for step in (1, 2):
        checkpoints.save(step, {}, {})
    with pytest.raises(UserError, match=r"mend that .*there is no earlier one to continue from"):
        checkpoints.wait()
    (sentence,) = said
    assert f"writing to {folder} failed (No such file or directory)" in sentence
    assert "there is none before it, training goes on" in sentence
    elsewhere.rename(folder)
    checkpoints.save(3, {}, {}, wait=True)
    assert "again; the newest is of step 3" in said[1]


def test_each_change_of_trouble_is_told(open_checkpoints, tmp_path, said, monkeypatch):
    checkpoints = open_checkpoints()
    codes = iter([errno.EIO, errno.EIO, errno.ENOSPC, errno.ENOSPC, errno.EIO])

    def fail(_):
        raise OSError(code := next(codes), os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        for step in range(5):
            checkpoints.save(step, arrays_of(step), {})
        with pytest.raises(UserError, match="Input/output error"):
            checkpoints.wait()
        assert names(tmp_path) == []
    causes = [sentence.split("(")[1].split(";")[0].split(")")[0] for sentence in said]
    assert causes == ["Input/output error", "No space left on device", "Input/output error"]


def test_older_ones_that_cannot_be_removed_are_told_of_once(open_checkpoints, tmp_path, said):
    checkpoints = open_checkpoints()
    (tmp_path / "step-0000000001.npz").mkdir()
    for step in (2, 3, 4, 5):
        checkpoints.save(step, {}, {})
    checkpoints.wait()
    (sentence,) = said
    assert f"Older checkpoints in {tmp_path} cannot be removed (Is a directory)" in sentence
    assert names(tmp_path) == [f"step-000000000{step}.npz" for step in (1, 4, 5)]


def test_a_bug_in_the_writing_thread_comes_out_at_the_next_call(open_checkpoints, monkeypatch):
    checkpoints = open_checkpoints()

    def fail(*_):
        raise ZeroDivisionError("a bug")

    for call in (checkpoints.wait, checkpoints.latest, lambda: checkpoints.save(2, {}, {})):
        with monkeypatch.context() as patch:
            patch.setattr(zipfile.ZipFile, "writestr", fail)
            checkpoints.save(1, {}, {})
            with pytest.raises(ZeroDivisionError, match="a bug"):
                call()


def test_leaving_raises_what_failed_but_hides_no_other_error(tmp_path):
    def failed(folder):
        checkpoints = Checkpoints(folder, say=lambda _: None)
        folder.rename(tmp_path / f"{folder.name} is elsewhere")
        checkpoints.save(1, {}, {})
        return checkpoints

    with pytest.raises(UserError, match="was not written"), failed(tmp_path / "a"):
        pass
    with pytest.raises(KeyError, match="another"), failed(tmp_path / "b"):
        raise KeyError("another")


def test_leaving_waits_for_the_last_save(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, arrays_of(1), {"sum": 1 / 7})
    with Checkpoints(tmp_path) as checkpoints:
        assert_whole(checkpoints.latest(), 1)
