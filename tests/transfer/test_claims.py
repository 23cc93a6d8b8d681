from __future__ import annotations

import hashlib
import signal

from alexnet_keras.transfer.claims import Claims


def hashes(count):
    return [hashlib.sha256(bytes([number])).digest() for number in range(count)]


def test_a_key_is_one_processes_until_it_lets_go(tmp_path, claimer):
    path, keys = tmp_path / "set.claims", hashes(5)
    theirs = claimer(path, keys[:3])
    claims = Claims(path)
    assert claims.take(keys).tolist() == [False] * 3 + [True] * 2
    theirs.stdin.write(f"{keys[1].hex()}\n")
    theirs.stdin.flush()
    assert theirs.stdout.readline() == "released\n"
    assert claims.take(keys).tolist() == [False, True, False, True, True]
    theirs.send_signal(signal.SIGKILL)
    theirs.wait()
    assert claims.take(keys).all()
    claims.release(keys[:1])
    claimer(path, keys[:1])
    assert claims.take(keys).tolist() == [False] + [True] * 4
    claims.release()
    claimer(path, keys[1:3])
    claims.close()
    claimer(path, keys[3:])


def test_without_locks_everything_is_ours(tmp_path, monkeypatch):
    def lockf(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.lockf", lockf)
    assert Claims(tmp_path / "set.claims").take(hashes(3)).all()
