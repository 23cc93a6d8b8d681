"""The page of a search, read back as a browser would."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from alexnet_keras.tuning import REASONS, Finalist, Found, Outcome, Scores
from alexnet_keras.viewing import SearchReport, TrialProgress, gather_search_report, tell_found
from alexnet_keras.viewing.search_figures import (
    TrialLine,
    accuracy_over_time,
    parallel_coordinates,
)
from alexnet_keras.viewing.search_report import render_search_report
from report_page import Page


def outcomes(count=40):
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        settings = {
            "head": ("bilinear", "pooled <b>")[number % 2],
            "head_rate": float(10 ** rng.uniform(-4, -2)),
            "image_size": int(rng.choice([192, 256])),
            "views": 4,
        }
        if number % 2:
            settings["hidden_units"] = int(rng.choice([256, 512]))
        found.append(
            Outcome(
                trial=str(number),
                settings=settings,
                status="completed",
                accuracy=0.8 + 0.1 * (number % 2 == 0) + float(rng.uniform(0, 0.02)),
                loss=0.3,
                began=20.0 * number,
                ended=20.0 * number + 18,
            )
        )
    failed = {"trial": "98", "settings": {"head": "fc"}, "status": "failed", "ended": 900.0}
    stopped = {"trial": "99", "settings": {"head": "fc"}, "status": "stopped", "ended": 901.0}
    return [*found, Outcome(**failed, reason="out of <memory>"), Outcome(**stopped)]


def found(trials, order=(2, 0, 4), folds=2):
    finalists = [
        Finalist(
            trials[place],
            {"head": "bilinear"},
            tuple(Scores(0.9 - rank / 100 + fold / 500, 0.3) for fold in range(folds)),
        )
        for rank, place in enumerate(order)
    ]
    default = next((one for one in finalists if one.outcome.trial == "0"), None)
    return Found(trials, finalists, default, 1180.0, None)


def report(**options):
    given = {
        "dataset": "my <photographs>",
        "weights": "trunk.npz",
        "search": "bayesian",
        "notes": ["Going on after 3 trials and 60 s."],
        "fold_sizes": [459, 480, 498],
        "kept": 563,
    }
    result = options.pop("result", None) or found(outcomes())
    return gather_search_report(result, **{**given, **options})


def page(given: SearchReport) -> Page:
    return Page(render_search_report(given))


def test_the_page_says_what_was_found():
    text = page(report()).text
    assert "Fine-tuning settings for my <photographs>" in text
    assert "The settings that were found label 90.1% right of 978 photographs" in text
    assert "that trials were not measured on" in text and "(2 of 2 further folds)" in text
    assert "The default settings label 89.1% of them right." in text
    assert "The 563 photographs kept for the reported figure were not looked at" in text
    assert "42" in text and "40 completed, 1 stopped at the end of the time, 1 failed" in text
    assert "19 min 40 s" in text
    assert "Going on after 3 trials" in text
    for name, reason in REASONS.items():
        assert name.replace("_", " ") in text and reason[:40] in text


def test_failures_stand_with_their_reasons():
    assert "out of <memory>" in page(report()).text
    calm = [one for one in outcomes() if one.status != "failed"]
    assert "Failures" not in page(report(result=found(calm))).text


def test_the_default_may_be_the_best_or_have_failed():
    text = page(report(result=found(outcomes(), order=(0, 2)))).text
    assert "They are the default settings: no trial was clearly better." in text
    text = page(report(result=found(outcomes(), order=(2, 4)))).text
    assert "The default settings have no score." in text


def test_finals_that_had_no_time_are_told_as_such():
    text = page(report(result=found(outcomes(), folds=0))).text
    assert "of the 459 photographs that trials were measured on" in text


def test_importance_stands_by_the_most_important():
    text = page(report()).text
    assert "A random forest fitted to some trials foretells" in text
    assert text.index("How much each choice matters") < text.index("random forest")
    few = [*outcomes(5)]
    assert "Too few whole trials to tell" in page(report(result=found(few))).text


def test_trials_of_a_share_of_the_epochs_are_told_as_such():
    assert "Hyperband gave" not in page(report()).text
    some = [replace(one, epochs=0.1 if int(one.trial) % 2 else 1.0) for one in outcomes()]
    text = page(report(result=found(some))).text
    assert "Hyperband gave 21 of the trials a share of the epochs only" in text
    assert "Epochs" in text and "10%" in text


def test_of_equal_trials_the_first_stands_for_the_time_it_took():
    trials = outcomes()
    for number in (9, 30):
        trials[number] = replace(trials[number], accuracy=0.95, loss=1 / number)
    text = page(report(result=found(trials))).text
    assert "Trial 9 was the first as good as any, after 3.3 minutes." in text  # 20 s each


def test_one_trial_is_a_page_too():
    alone = outcomes(1)[:1]
    text = page(report(result=found(alone, order=(0,), folds=0))).text
    assert "No two trials differ." in text


class TestParallelCoordinates:
    @pytest.fixture
    def lines(self):
        return [
            TrialLine(one.trial, one.settings, one.accuracy, one.ended / 60, one.trial == "0")
            for one in outcomes()
            if one.accuracy is not None
        ]

    def test_each_trial_is_a_line_with_a_point_on_each_axis(self, lines):
        svg = str(parallel_coordinates(lines, list(REASONS)))
        assert svg.count("<polyline") == len(lines) == 40
        # head, hidden_units, head_rate and image_size differ; views do not; and the accuracy.
        assert svg.count('class="name"') == 5
        points = [part.split('"')[0].split() for part in svg.split('points="')[1:]]
        assert {len(line) for line in points} == {5}
        assert svg.count('class="default"') == 1 and svg.count('class="good"') == 4

    def test_better_trials_end_higher(self, lines):
        svg = str(parallel_coordinates(lines, list(REASONS)))
        ends = {}
        for part in svg.split('points="')[1:]:
            name = part.split("<title>trial ")[1].split(":")[0]
            ends[name] = float(part.split('"')[0].split()[-1].split(",")[1])
        ranked = sorted(lines, key=lambda line: line.accuracy)
        heights = [ends[line.name] for line in ranked]
        assert heights == sorted(heights, reverse=True)

    def test_a_choice_that_was_not_active_falls_below(self, lines):
        svg = str(parallel_coordinates(lines, ["head", "hidden_units"]))
        lowest = 0
        for part in svg.split('points="')[1:]:
            heights = [float(point.split(",")[1]) for point in part.split('"')[0].split()]
            inactive = "hidden_units" not in part.split("</title>")[0]
            assert (heights[1] == max(heights) and heights[1] > 300) == inactive
            lowest += inactive
        assert lowest == 20

    def test_names_are_escaped(self, lines):
        svg = str(parallel_coordinates(lines, list(REASONS)))
        assert "<b>" not in svg and "pooled &lt;b&gt;" in svg


def test_accuracy_over_time_has_a_curve_or_says_that_there_is_none():
    assert "nothing was recorded" in str(accuracy_over_time([]))
    svg = str(accuracy_over_time([TrialLine("0", {}, 0.5, 1.0, True), TrialLine("1", {}, 0.6, 2)]))
    assert "default" in svg and "nothing was recorded" not in svg


def test_the_console_tells_of_each_trial(capsys):
    progress = TrialProgress(20)
    for one in outcomes(3):
        progress.tell(one)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("trial    0  ") and "best" in lines[0]
    assert "out of <memory>" in lines[3] and "failed" in lines[3]
    assert "min left" in lines[2]
    TrialProgress(20, outcomes(3)).tell(outcomes(1)[1])
    best = max(one.accuracy or 0 for one in outcomes(3))
    assert f"best {best:.1%}" in capsys.readouterr().out


def test_the_console_tells_what_was_found(capsys, tmp_path):
    search = {"trials": 60, "trial": "12", "accuracy": 0.921, "default_accuracy": 0.914, "folds": 4}
    tell_found({"search": {**search, "others": [{}] * 4}}, tmp_path)
    said = capsys.readouterr().out
    assert "Of 60 trials the best, number 12, has 92.1%, the default's 91.4%" in said
    assert (
        "over 4 folds of photographs that trials were not measured on, the best there of 5" in said
    )
    assert f"--settings {tmp_path / 'best.json'}" in said
