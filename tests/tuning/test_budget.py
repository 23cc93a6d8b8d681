from __future__ import annotations

import pytest

from alexnet_keras.tuning import Budget, OutOfTime
from alexnet_keras.tuning import budget as module


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def time(self):
        return self.now + 10**9


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(module, "time", found)
    return found


def test_it_is_over_when_little_is_left(tmp_path, clock):
    budget = Budget(tmp_path / "b.json", 100.0)
    budget.check()
    clock.now += 94
    budget.check()
    clock.now += 2
    assert budget.left() == pytest.approx(4)
    with pytest.raises(OutOfTime):
        budget.check()
    budget.extend(50)
    budget.check()


def test_what_was_spent_counts_the_next_time(tmp_path, clock):
    first = Budget(tmp_path / "b.json", 100.0, already=7.0)
    clock.now += 30
    first.close()
    clock.now += 5000  # nobody runs it
    again = Budget(tmp_path / "b.json", 100.0, already=2.0)
    assert again.spent == pytest.approx(39)
    assert again.left() == pytest.approx(61)


def test_a_killed_process_loses_seconds_only(tmp_path, clock):
    budget = Budget(tmp_path / "b.json", 100.0)
    for _ in range(20):
        clock.now += 1
        budget.left()
    assert Budget(tmp_path / "b.json", 100.0).spent >= 20 - module.INTERVAL - 1


def test_others_read_what_the_owner_writes(tmp_path, clock):
    owner = Budget(tmp_path / "b.json", 100.0)
    other = Budget(tmp_path / "b.json", None)
    clock.now += 40
    assert other.left() == pytest.approx(60)
    owner.extend(30)
    clock.now += 3
    assert (owner.left(), other.left()) == (pytest.approx(87), pytest.approx(57))
    other.close()
    assert Budget(tmp_path / "b.json", None).left() == pytest.approx(57)
    other.follow()
    assert other.left() == pytest.approx(87)
