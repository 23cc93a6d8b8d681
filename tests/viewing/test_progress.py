from __future__ import annotations

import io
import math

import pytest

from alexnet_keras.viewing import progress
from alexnet_keras.viewing.progress import Progress, Silent, final_line

BATCH = 64
ROW = {
    "phase": "training",
    "epoch": 3,
    "loss": 1.23456,
    "accuracy": 0.5012,
    "top5": 0.8,
    "stop_loss": 1.5,
    "stop_accuracy": 0.4321,
    "stop_top5": 0.7,
    "learning_rate": 0.01,
    "seconds": 75.0,
}


class Clock:
    """`time`, as far as it is used, standing still until told."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


class Screen(io.StringIO):
    """A terminal or a log."""

    def __init__(self, terminal):
        super().__init__()
        self._terminal = terminal

    def isatty(self):
        return self._terminal

    @property
    def shown(self):
        """What a terminal shows: each line as it was last written over."""
        lines = []
        for line in self.getvalue().split("\n"):
            seen = ""
            for text in line.split("\r"):
                erased = text.endswith("\x1b[K")
                text = text.removesuffix("\x1b[K")
                seen = text if erased else text + seen[len(text) :]
            lines.append(seen)
        return lines


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def train(shown, clock, steps, seconds, first=1, of=1000):
    for step in range(first, first + steps):
        clock.now += seconds
        shown.training(step, of, "1/2", 6.908, 0.0123)


def test_a_line_tells_step_speed_time_left_loss_and_top_1(clock):
    screen = Screen(terminal=True)
    train(Progress(BATCH, screen), clock, steps=4, seconds=1.0)
    # 64 images a second, and 996 steps of a second each.
    assert screen.shown == [
        "epoch 1/2  step 4/1,000  64 images/s  16 min 36 s left  loss 6.908  top-1 1.2%"
    ]


def test_before_there_is_a_speed_none_is_told(clock):
    screen = Screen(terminal=False)
    train(Progress(BATCH, screen), clock, steps=1, seconds=1.0)
    assert screen.getvalue() == "epoch 1/2  step 1/1,000  loss 6.908  top-1 1.2%\n"


def test_on_a_terminal_a_shorter_line_leaves_nothing_of_a_longer(clock):
    screen = Screen(terminal=True)
    shown = Progress(BATCH, screen)
    train(shown, clock, steps=2, seconds=1.0)
    clock.now += 1
    shown.measuring("ten crops", 1, 2)
    assert screen.shown == ["ten crops  1/2 batches"]


def test_a_terminal_is_written_to_twice_a_second_and_a_log_twice_a_minute(clock):
    terminal, log = Screen(terminal=True), Screen(terminal=False)
    for screen in (terminal, log):
        train(Progress(BATCH, screen), clock, steps=480, seconds=0.125)  # a minute
    assert terminal.getvalue().count("\r") == 120
    assert "\n" not in terminal.getvalue()
    lines = log.getvalue().splitlines()
    assert [line.split("  ")[1] for line in lines] == ["step 1/1,000", "step 241/1,000"]
    assert "\r" not in log.getvalue() and "\x1b" not in log.getvalue()


def test_the_speed_follows_what_changes_and_smooths_what_does_not(clock):
    screen = Screen(terminal=True)
    shown = Progress(BATCH, screen)
    train(shown, clock, steps=10, seconds=1.0)
    train(shown, clock, steps=1, seconds=2.0, first=11)
    # By hand: a fifth of 32 and four fifths of 64.
    assert "  58 images/s" in screen.shown[0]
    train(shown, clock, steps=30, seconds=2.0, first=12)
    assert "  32 images/s" in screen.shown[0]


def test_time_that_was_not_training_slows_nothing(clock):
    screen = Screen(terminal=True)
    shown = Progress(BATCH, screen)
    train(shown, clock, steps=3, seconds=1.0)
    clock.now += 500
    shown.measuring("watched photographs, epoch 1", 7, 7)
    train(shown, clock, steps=2, seconds=1.0, first=4)
    clock.now += 500
    shown.epoch(ROW)
    train(shown, clock, steps=2, seconds=1.0, first=6)
    assert "  64 images/s" in screen.shown[-1]


def test_a_resumed_run_reckons_from_where_it_goes_on(clock):
    screen = Screen(terminal=True)
    train(Progress(BATCH, screen), clock, steps=2, seconds=1.0, first=901)
    assert "step 902/1,000  64 images/s  1 min 38 s left" in screen.shown[0]


def test_an_epoch_leaves_a_line(clock):
    line = "epoch 3: loss 1.2346, top-1 50.1%; watched: loss 1.5000, top-1 43.2%; rate 0.01; 1 min "
    for terminal in (True, False):
        screen = Screen(terminal)
        shown = Progress(BATCH, screen)
        shown.epoch(ROW)
        clock.now += 60
        shown.measuring("centre crop", 1, 9)
        assert screen.shown[0] == line + "15 s"
        assert screen.shown[1] == "centre crop  1/9 batches"


def test_an_epoch_without_watched_photographs_tells_of_none(clock):
    screen = Screen(terminal=False)
    nothing = dict.fromkeys(("stop_loss", "stop_accuracy", "stop_top5"), math.nan)
    Progress(BATCH, screen).epoch({**ROW, **nothing})
    assert screen.getvalue() == "epoch 3: loss 1.2346, top-1 50.1%; rate 0.01; 1 min 15 s\n"


def test_silence(capsys):
    shown = Silent()
    shown.training(1, 2, "1/1", 0.0, 0.0)
    shown.measuring("centre crop", 1, 2)
    shown.epoch(ROW)
    assert capsys.readouterr() == ("", "")


METRICS = {
    "dataset": "imagenet2012",
    "val_images": 50_000,
    "val_top1": 0.5712,
    "val_top5": 0.8019,
    "epochs": 90,
    "train_images": 1_281_167,
    "early_stopping_images": 25_623,
    "seed": 4,
    "seconds_training": 7380.0,
}
CONFIG = {
    "options": {"plan": {"variant": "paper", "preset": "paper"}, "devices": 8},
    "machine": "x86_64, 96 CPUs",
    "packages": {"alexnet-keras": "0.1.0", "tensorflow": "2.21.0", "keras": "3.15.1"},
}


def test_the_final_line_says_all_that_a_reader_elsewhere_needs():
    assert final_line(METRICS, CONFIG) == (
        "AlexNet paper on imagenet2012: top-1 57.1%, top-5 80.2% (centre crop) of 50,000 "
        "photographs after 90 epochs of 1,255,544 from random weights, preset paper, seed 4, "
        "2 h 03 min on 8 device(s) of x86_64, 96 CPUs; alexnet-keras 0.1.0, TensorFlow 2.21.0, "
        "Keras 3.15.1."
    )


def test_the_final_line_tells_both_ways_of_cropping():
    metrics = METRICS | {"val_top1_ten_crop": 0.593, "val_top5_ten_crop": 0.818}
    assert (
        "top-1 57.1%, top-5 80.2% (centre crop); top-1 59.3%, top-5 81.8% (ten crops) of 50,000"
        in final_line(metrics, CONFIG)
    )


def test_the_final_line_has_no_top_5_where_there_are_few_classes():
    metrics = {name: value for name, value in METRICS.items() if name != "val_top5"}
    assert ": top-1 57.1% (centre crop) of" in final_line(metrics, CONFIG)
