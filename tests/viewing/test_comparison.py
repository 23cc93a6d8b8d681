"""What the page shows of two nets beside each other, and that it shows nothing without them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from alexnet_keras.viewing import Comparison, TrainedNet, render_report
from alexnet_keras.viewing.comparison import accuracy_after, comparison_curve
from report_page import EVIL, Page, example_report, no_nonsense

NAN = float("nan")


def rows(accuracies, seconds=10.0, losses=None):
    losses = [1 - accuracy for accuracy in accuracies] if losses is None else losses
    return [
        {"epoch": i + 1, "seconds": seconds, "stop_accuracy": accuracy, "stop_loss": loss}
        for i, (accuracy, loss) in enumerate(zip(accuracies, losses, strict=True))
    ]


def example_comparison(**changes) -> Comparison:
    pretrained = TrainedNet("imagenet", rows([0.7, 0.8, 0.85]), 0.88, 648, 32.0)
    scratch = TrainedNet("none (random)", rows([0.2, 0.4, 0.5, 0.6, 0.7]), 0.71, 523, 55.0)
    return Comparison(
        **{
            "pretrained": pretrained,
            "scratch": scratch,
            "difference": 0.17,
            "low": 0.134,
            "high": 0.206,
            **changes,
        }
    )


def test_both_nets_are_told_after_the_same_time_and_in_the_end():
    text = Page(render_report(example_report(comparison=example_comparison()))).text
    assert "where the first run had ended, after 32.0 s" in text
    assert "imagenet 85.0% 88.0% 648 right 32.0 s" in text
    assert "none (random) 50.0% 71.0% 523 right 55.0 s" in text
    assert (
        "In the end imagenet is 17.0 points above none (random) (95% interval 13.4 to 20.6, by "
        "bootstrap over the same photographs)." in text
    )


def test_a_difference_that_may_be_chance_is_said_to_be():
    comparison = example_comparison(difference=-0.01, low=-0.04, high=0.02)
    text = Page(render_report(example_report(comparison=comparison))).text
    # Told in the direction of the sentence.
    assert "imagenet is 1.0 points below none (random) (95% interval −2.0 to 4.0" in text
    assert "it holds 0, so that chance alone may be the reason" in text


@pytest.mark.parametrize(
    ("seconds", "expected"), [(9.9, NAN), (10, 0.2), (35, 0.5), (40, 0.6), (1e9, 0.6), (NAN, NAN)]
)
def test_the_accuracy_after_a_time_is_that_of_the_best_loss_so_far(seconds, expected):
    net = TrainedNet("x", rows([0.2, 0.4, 0.5, 0.6, 0.7], losses=[5, 4, 3, 2, 9]), 0, 0, 50)
    assert accuracy_after(net, seconds) == pytest.approx(expected, nan_ok=True)


def test_without_losses_the_last_epoch_counts_and_gaps_are_passed_over():
    net = TrainedNet("x", rows([0.2, 0.4, NAN], losses=[NAN] * 3), 0, 0, 30)
    assert accuracy_after(net, 100) == 0.4


def test_the_run_had_ended_when_it_says_or_with_its_last_epoch():
    assert example_comparison().same_time == 32
    unknown = TrainedNet("imagenet", rows([0.7, 0.8, 0.85]), 0.88, 648, NAN)
    assert example_comparison(pretrained=unknown).same_time == 30
    nothing = TrainedNet("imagenet", [], NAN, NAN, NAN)
    assert np.isnan(example_comparison(pretrained=nothing).same_time)


def places(svg: str, shown: str) -> list[float]:
    """Places across of the points of the curve that is drawn in a colour."""
    markers = re.findall(r'<use [^>]*x="([\d.]+)" y="[\d.]+"[^>]*style="[^"]*' + shown, svg)
    return [float(place) for place in markers]


def test_epochs_stand_where_they_ended_and_the_line_at_the_end_of_the_first_run():
    svg = str(comparison_curve(example_comparison()))
    pretrained, scratch = places(svg, r"var\(--right\)"), places(svg, r"var\(--ink\)")
    assert len(pretrained) == 3 and len(scratch) == 5
    assert np.allclose(np.diff(scratch), scratch[1] - scratch[0])  # ten seconds each
    assert scratch[:3] == pytest.approx(pretrained)
    line = re.search(r'<path d="M ([\d.]+) [\d.]+ \nL \1 ', svg)
    step = scratch[1] - scratch[0]
    assert float(line[1]) == pytest.approx(pretrained[-1] + 0.2 * step, abs=0.1)
    assert "same time" in svg


@pytest.mark.parametrize(
    "comparison",
    [
        example_comparison(difference=NAN, low=NAN, high=NAN),
        example_comparison(low=NAN),
        example_comparison(pretrained=TrainedNet("imagenet", [], NAN, NAN, NAN)),
        Comparison(TrainedNet("a", [], NAN, NAN, NAN), TrainedNet("b", [], 0, 0, 0), 0, 0, 0),
        example_comparison(scratch=TrainedNet("b", [{}, {"seconds": None}], 0.1, 3, float("inf"))),
        example_comparison(scratch=TrainedNet("b", rows([0.5, NAN, 0.6], NAN), 0.1, 3, 9)),
        example_comparison(pretrained=TrainedNet("a", rows([0.9] * 5, 9000), 0.9, 3, 45000)),
    ],
    ids=["difference", "low", "pretrained", "all", "keys", "seconds", "hours"],
)
def test_unknown_figures_leave_the_page_whole(comparison):
    no_nonsense(render_report(example_report(comparison=comparison)))


def test_names_of_nets_never_become_markup():
    nets = [TrainedNet(EVIL, rows([0.5, 0.6]), 0.5, 5, 20.0)] * 2
    page = Page(render_report(example_report(comparison=Comparison(*nets, 0.1, 0.0, 0.2))))
    assert not page.all("script")
    assert page.text.count(EVIL) == 6  # legend, table, sentence


def test_a_page_without_a_second_net_says_nothing_of_one():
    html = render_report(example_report())
    assert 'id="worth"' not in html and "same time" not in Page(html).text
