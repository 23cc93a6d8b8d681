from __future__ import annotations

import base64
import re
from dataclasses import replace

import numpy as np
import pytest

from alexnet_keras.viewing import ConfusedClasses, Mistake, render_report, write_report
from alexnet_keras.viewing.report import (
    class_accuracies,
    confused_pairs,
    format_bytes,
    format_percent,
    format_seconds,
    format_short,
)
from report_page import CONFUSION, EVIL, NAMES, Page, epochs, example_report, jpeg, no_nonsense

NAN = float("nan")


def test_the_headline_gives_the_accuracy_with_its_wilson_interval():
    page = Page(render_report(example_report()))
    # 85.5 to 90.2: statsmodels' proportion_confint(648, 736, method="wilson").
    assert (
        "88.0% (85.5 to 90.2) of 736 photographs that no choice has seen are labelled right"
        in page.text
    )
    assert "tf_flowers could not be reached: drawn_flowers was used." in page.text


def test_the_page_loads_nothing_and_runs_nothing():
    html = render_report(example_report())
    page = Page(html)
    assert not page.all("script") + page.all("link") + page.all("iframe")
    targets = [
        attributes[key]
        for _, attributes in page.elements
        for key in ("src", "href", "xlink:href")
        if key in attributes
    ]
    inside = ("#", "data:image/jpeg;base64,")
    assert targets and all(target.startswith(inside) for target in targets)
    assert "@import" not in html
    assert set(re.findall(r"url\((.)", html)) <= {"#"}


def test_images_are_inside_unchanged():
    sources = [image["src"] for image in Page(render_report(example_report())).all("img")]
    held = [base64.b64decode(source.partition(",")[2]) for source in sources]
    assert held == [jpeg(), jpeg(10)]


def test_ids_are_unique_and_every_reference_finds_its_target():
    page = Page(render_report(example_report()))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(page.all("svg")) > 2
    assert len(ids) == len(set(ids))
    references = {
        found
        for _, attributes in page.elements
        for value in attributes.values()
        for found in re.findall(r"^#(.+)|url\(#([^)]+)\)", value or "")
    }
    assert references and {a or b for a, b in references} <= set(ids)


def test_text_from_outside_never_becomes_markup():
    report = example_report(
        title=EVIL,
        metrics={"dataset": EVIL, "weights": EVIL, "seconds": {EVIL: 5}},
        notes=[EVIL],
        class_names=[EVIL, "roses", "</svg><b>"],
        history=[{**row, "phase": EVIL} for row in epochs(30)],
        mistakes=[Mistake(jpeg(), EVIL, EVIL, EVIL, 0.5)],
        layers=[{**row, "name": EVIL, "trained_in": [EVIL]} for row in example_report().layers],
        config={EVIL: [EVIL, {EVIL: EVIL}]},
        examples=[(jpeg(), EVIL)],
    )
    page = Page(render_report(report))
    assert not page.all("script")
    assert not any("alert" in key for _, attributes in page.elements for key in attributes)
    # Title twice, dataset, weights, note, phases, classes, mistake, layers, configuration, ...
    assert page.text.count(EVIL) > 20


def test_file_names_of_any_characters_are_written(tmp_path):
    name = "x" * 300 + "\udcff\x07\u202e.jpg"
    path = tmp_path / "report.html"
    write_report(example_report(mistakes=[Mistake(jpeg(), name, "daisy", "roses", 0.9)]), path)
    text = path.read_text(encoding="utf-8")
    assert "x" * 300 + r"\udcff\x07\u202e.jpg" in text
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail(self, target):
        raise OSError("no")

    monkeypatch.setattr(type(path), "replace", fail)
    with pytest.raises(OSError, match="no"):
        write_report(example_report(), path)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_classes_are_sorted_by_accuracy_and_one_without_photographs_has_none():
    confusion = np.array([[9, 1, 0], [0, 0, 0], [2, 0, 2]])
    rows = class_accuracies(confusion, NAMES)
    assert [(row.name, row.right, row.count) for row in rows] == [
        ("tulips", 2, 4),
        ("daisy", 9, 10),
        ("roses", 0, 0),
    ]
    assert rows[0].accuracy == 0.5 and np.isnan(rows[2].accuracy)
    page = Page(render_report(example_report(confusion=confusion)))
    assert "roses – no image" in page.text
    assert "nan" not in page.text


def test_confused_pairs_come_most_often_first_with_truth_before_answer():
    pairs = confused_pairs(CONFUSION, NAMES)
    assert [(p.truth, p.predicted, p.count, p.total) for p in pairs] == [
        ("roses", "tulips", 5, 25),
        ("tulips", "daisy", 3, 10),
        ("daisy", "roses", 1, 10),
        ("daisy", "tulips", 1, 10),
    ]


def cells(html: str) -> dict[tuple[float, float], str]:
    """Tooltip of each cell of the confusion matrix by its place: top, left."""
    svg = re.search(r'<svg class="confusion.*?</svg>', html, re.DOTALL)[0]
    found = re.findall(r'<path d="M([\d.]+) ([\d.]+)h[^"]*"><title>([^<]*)', svg)
    return {(float(top), float(left)): title for left, top, title in found}


def test_the_rows_of_the_heat_map_are_true_classes_and_its_columns_answers():
    found = cells(render_report(example_report()))
    tops = sorted({top for top, _ in found})
    lefts = sorted({left for _, left in found})
    assert found[tops[1], lefts[2]] == "roses: 5 of 25 taken for tulips"
    assert found[tops[2], lefts[0]] == "tulips: 3 of 10 taken for daisy"
    assert found[tops[2], lefts[2]] == "tulips: 7 of 10 labelled right"
    assert len(found) == np.count_nonzero(CONFUSION)


def test_two_hundred_classes_stay_small_and_keep_every_cell():
    classes = 200
    generator = np.random.default_rng(0)
    sparse = 25 * np.eye(classes, dtype=int)
    sparse[generator.integers(0, classes, 600), generator.integers(0, classes, 600)] += 1
    names = [f"class number {i}" for i in range(classes)]
    html = render_report(example_report(class_names=names, confusion=sparse))
    assert len(cells(html)) == np.count_nonzero(sparse)
    assert len(html) < 500_000
    dense = generator.integers(1, 5, (classes, classes))
    html = render_report(example_report(class_names=names, confusion=dense))
    svg = re.search(r'<svg class="confusion.*?</svg>', html, re.DOTALL)[0]
    assert len(re.findall(r"M[\d.]+ ", svg)) == classes**2
    assert len(html) < 1_500_000
    assert "point at a cell" not in html


@pytest.mark.parametrize(
    "history",
    [
        [],
        epochs(1),
        [{"phase": "head", "epoch": 1, "loss": NAN, "stop_loss": float("inf")}],
        [{}, {"epoch": None, "loss": None}, {"loss": 1.0}],
        [*epochs(2), {"phase": "$\\broken{$", "epoch": 3, "loss": NAN, "stop_accuracy": 0.5}],
    ],
    ids=["none", "one epoch", "no finite value", "missing keys", "gap"],
)
def test_incomplete_histories_render(history):
    page = Page(render_report(example_report(history=history)))
    assert "Which class is taken for which" in page.text
    assert not re.search(r"\b(nan|inf|None)\b", page.text)
    assert not any("nan" in attributes.get("d", "") for attributes in page.all("path"))


def test_the_best_epoch_named_is_that_of_the_lowest_early_stopping_loss():
    history = [
        {"phase": "a", "epoch": i + 1, "loss": 1, "stop_loss": loss}
        for i, loss in enumerate([0.9, NAN, 0.25, 0.5])
    ]
    assert (
        "lowest early-stopping loss: 0.25 after epoch 3"
        in Page(render_report(example_report(history=history))).text
    )


def test_both_phases_and_both_curves_are_told():
    text = Page(render_report(example_report())).text
    assert "1 head , 4 epochs 2 fine-tune from conv3 , 3 epochs" in text
    assert "early-stopping part training" in text


def test_a_run_without_mistakes_says_so():
    perfect = np.diag([3, 4, 5])
    text = Page(render_report(example_report(mistakes=[], confusion=perfect))).text
    assert "No photograph was labelled wrongly." in text
    assert "No class was taken for another." in text


def test_mistakes_without_pictures_are_still_counted():
    text = Page(render_report(example_report(mistakes=[]))).text
    assert "10 photographs were labelled wrongly; no pictures of them were kept." in text


def test_unknown_metrics_are_dashes():
    report = example_report(
        metrics={"val_top1": NAN, "seconds": {"x": NAN}}, layers=[], config={}, examples=[]
    )
    page = Page(render_report(report))
    assert "No accuracy was measured." in page.text
    assert "Validation photographs –" in page.text
    assert "nan" not in page.text


def test_the_network_adds_up_by_phase_and_leaves_open_what_is_unknown():
    text = Page(render_report(example_report())).text
    assert "932,355 parameters in 3.56 MiB" in text  # 34,944 + 885,120 + 12,291, 4 bytes each
    assert "Total 932,355 3.56 MiB 105 M 12.3 k 897 k" in text
    assert "conv3 Conv2D 13 x 13 x 384 885,120 3.38 MiB –" in text


def test_the_time_that_no_phase_took_is_shown():
    text = Page(render_report(example_report())).text
    assert "training 16 min 30 s evaluation 14.0 s everything else 39.0 s" in text


def test_configuration_reads_as_json_has_it():
    text = Page(render_report(example_report())).text
    assert "seed 0 data_dir null phases rates fc8 0.01" in text


def test_a_confusion_matrix_of_other_classes_is_refused():
    with pytest.raises(ValueError, match=r"3 classes.*received \(2, 2\)"):
        example_report(confusion=np.eye(2))


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (format_short(1_135_256_096), "1.14 G"),
        (format_short(999_700), "1 M"),
        (format_short(512), "512"),
        (format_bytes(4 * 37_752_832), "144 MiB"),
        (format_bytes(1023), "1023 B"),
        (format_seconds(59.97), "1 min 00 s"),
        (format_seconds(3599.6), "1 h 00 min"),
        (format_seconds(8.31), "8.3 s"),
        (format_percent(None), "–"),
        (format_percent(0.88125), "88.1%"),
    ],
)
def test_quantities_are_written_for_people(shown, expected):
    assert shown == expected


def test_a_run_from_scratch_says_watched_and_shows_ten_crops():
    report = example_report(stops_early=False)
    report.metrics.update(
        early_stopping_images=60, val_top1_ten_crop=0.891, val_top5_ten_crop=0.995
    )
    text = Page(render_report(report)).text
    assert "only watched" in text
    assert "Watched loss" in text
    assert "lowest watched loss" in text
    assert "early" not in text.lower()
    assert "Ten crops 89.1% top-1; top-5 99.5%" in text


def test_without_a_watched_part_nothing_is_said_of_one():
    history = [{"phase": "training", "epoch": 1, "loss": 1.0, "stop_loss": float("nan")}]
    report = example_report(stops_early=False, history=history)
    report.metrics["early_stopping_images"] = 0
    text = Page(render_report(report)).text
    assert "only watched" not in text
    assert "watched part" not in text


def example_pair(first: str = "roses", second: str = "tulips") -> ConfusedClasses:
    mistakes = [
        Mistake(jpeg(20 + i), f"{i}.jpg", truth, taken, 0.95 - 0.1 * i)
        for i, (truth, taken) in enumerate([(first, second), (second, first)])
    ]
    return ConfusedClasses(
        first, second, 5, 1, mistakes, [jpeg(100), jpeg(101)], [jpeg(200), jpeg(201)]
    )


def test_confused_classes_are_shown_beside_what_they_were_learned_from():
    page = Page(render_report(example_report(confused=[example_pair()])))
    assert (
        "roses and tulips 6 mistakes "
        "5 photographs of roses taken for tulips , 1 the other way round "
        "roses → tulips 95.0% tulips → roses 85.0% roses as trained on tulips as trained on"
        in page.text
    )
    shown = [image for image in page.all("img") if "raining photograph" in image["alt"]]
    assert [image["alt"].split()[-1] for image in shown] == ["roses"] * 2 + ["tulips"] * 2
    held = [base64.b64decode(image["src"].partition(",")[2]) for image in shown]
    assert held == [jpeg(100), jpeg(101), jpeg(200), jpeg(201)]
    assert {"href": "#twins"} in page.all("a")


def test_names_of_confused_classes_and_of_their_photographs_never_become_markup():
    pair = example_pair(EVIL, EVIL)
    evil = replace(pair, mistakes=[replace(pair.mistakes[0], name=EVIL)])
    page = Page(render_report(example_report(confused=[evil])))
    assert not page.all("script")
    assert not any("alert" in key for _, attributes in page.elements for key in attributes)
    assert page.text.count(EVIL) >= 8


def test_confused_classes_without_pictures_or_probabilities_leave_the_page_whole():
    unsure = [replace(mistake, probability=NAN) for mistake in example_pair().mistakes]
    bare = replace(example_pair(), mistakes=[], first_trained=[], second_trained=[])
    pairs = [replace(example_pair(), mistakes=unsure), bare]
    no_nonsense(render_report(example_report(confused=pairs)))


def test_a_page_without_pairs_has_no_place_for_them():
    html = render_report(example_report())
    assert 'id="twins"' not in html and "#twins" not in html
    assert "as trained on" not in html
