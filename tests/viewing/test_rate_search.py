"""What the page shows of a learning-rate range test, and that it shows nothing without one."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from alexnet_keras.training import RateSearch
from alexnet_keras.viewing import render_report
from alexnet_keras.viewing.rate_search import rate_curve
from report_page import EVIL, Page, example_report, no_nonsense

NAN = float("nan")


def example_search(count: int = 61) -> RateSearch:
    rates = np.geomspace(1e-6, 1, count)
    smoothed = 1.6 - 1 / (1 + np.exp(-2 * np.log10(rates / 1e-3))) + (rates / 0.1) ** 3
    losses = smoothed + 0.05 * np.random.default_rng(0).normal(size=count)
    return RateSearch("head", rates, losses, smoothed, chosen=float(rates[count // 2]))


def test_the_chosen_rate_is_told_with_its_source():
    page = Page(render_report(example_report(rate_searches=[example_search()])))
    assert "Before the phase head , the rate grew from 1e-06 to 1, batch by batch" in page.text
    assert "the marked one between, 0.001, was taken" in page.text
    assert "Smith 2017" in page.text
    assert {"href": "#rate"} in page.all("a")


def test_the_axis_is_logarithmic_and_the_mark_halfway_between_its_ends():
    svg = str(rate_curve(example_search()))
    left, right = (float(x) for x in ends(svg))
    mark = re.search(r'<path d="M ([\d.]+) [\d.]+ \nL \1 ', svg)
    # A thousandth is the middle of a millionth and one, as powers.
    assert float(mark[1]) == pytest.approx((left + right) / 2, abs=0.1)
    assert all(f">{label}<" in svg for label in ("1e-06", "0.0001", "0.01", "1", "0.001"))


def ends(svg: str) -> tuple[str, str]:
    """Where the smoothed curve begins, across, and where its figure's ground line ends."""
    ground = re.search(
        r'<path d="M ([\d.]+) ([\d.]+) \nL ([\d.]+) \2 \n"', svg[svg.index("patch_") :]
    )
    return ground[1], ground[3]


def test_losses_of_a_net_that_comes_apart_do_not_press_the_others_flat():
    search = example_search()
    assert max(search.smoothed) > 1000
    labels = re.findall(r">([\d.]+)<", str(rate_curve(search)))
    assert max(map(float, labels)) < 3


@pytest.mark.parametrize(
    "search",
    [
        RateSearch("head", [], [], [], NAN),
        RateSearch("head", [0.01], [1.0], [1.0], 0.01),
        RateSearch("head", [0.002, 0.004], [1.0, 2.0], [1.0, 1.5], 0.003),
        RateSearch("head", [0.002, 0.004], [NAN, NAN], [NAN, NAN], NAN),
        RateSearch("head", [0, -1, NAN, None], [1, 1, 1, 1], [1, 1, 1, 1], 0.0),
        RateSearch("head", [1e-4, 1e-3, 1e-2], [2, float("inf"), NAN], [2, 1, NAN], 1e-3),
        RateSearch("head", [1e-4, 1e-3], [2, 1], [2, 1], 5.0),
        RateSearch("head", [1e-3, 1e-3], [0, 0], [0, 0], 1e-3),
        RateSearch("$\\broken{$", [1e-3, 1e-2], [0, 0], [0, 0], 1e-3),
    ],
    ids=["none", "one", "between", "NaN", "no rate", "gap", "outside", "flat", "name"],
)
def test_incomplete_searches_leave_the_page_whole(search):
    no_nonsense(render_report(example_report(rate_searches=[search])))


def test_a_search_without_a_choice_says_so():
    search = replace(example_search(), chosen=NAN)
    assert (
        "none between was taken" in Page(render_report(example_report(rate_searches=[search]))).text
    )


def test_a_loss_is_asked_for_each_rate():
    with pytest.raises(ValueError, match="2 rates, 1 losses and 2 smoothed losses"):
        RateSearch("head", [0.1, 0.2], [1.0], [1.0, 1.0], 0.1)


def test_the_name_of_the_phase_never_becomes_markup():
    search = replace(example_search(), phase=EVIL)
    page = Page(render_report(example_report(rate_searches=[search])))
    assert not page.all("script") and EVIL in page.text


def test_a_page_without_a_search_says_nothing_of_one():
    html = render_report(example_report())
    assert 'id="rate"' not in html and "Smith" not in html
