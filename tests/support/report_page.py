"""A report with a bit of everything, and a page as a browser would find it."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from alexnet_keras.viewing import Mistake, Report

NAMES = ["daisy", "roses", "tulips"]
CONFUSION = np.array([[8, 1, 1], [0, 20, 5], [3, 0, 7]])
EVIL = "<script>alert('x')</script>\"&"
VOID = {"meta", "img", "br", "link", "input", "hr", "wbr"}


class Page(HTMLParser):
    """What a browser would find: elements with attributes, text, and whether tags are balanced."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, f"never closed: {self._open}"
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open and self._open[-1] == tag, f"</{tag}> closes {self._open[-1:]}"
        self._open.pop()

    def handle_data(self, data):
        if "style" not in self._open:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def jpeg(shade: int = 90) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (shade, 40, 200)).save(file, "JPEG")
    return file.getvalue()


def epochs(count: int, phase: str = "head", first: int = 1) -> list[dict]:
    return [
        {
            "phase": phase,
            "epoch": first + i,
            "loss": 1 / (first + i),
            "accuracy": 0.5,
            "stop_loss": 1.5 - 0.1 * i,
            "stop_accuracy": 0.6,
            "learning_rate": 0.01,
            "seconds": 61.0,
        }
        for i in range(count)
    ]


def example_report(**changes) -> Report:
    report = Report(
        title="Fine-tuning AlexNet on tf_flowers",
        metrics={
            "dataset": "tf_flowers",
            "weights": "trunk.npz",
            "train_images": 2934,
            "val_images": 736,
            "images_skipped": 3,
            "classes": 3,
            "val_top1": 648 / 736,
            "seconds_total": 1043.0,
            "seconds": {"training": 990.0, "evaluation": 14.0},
        },
        notes=["tf_flowers could not be reached: drawn_flowers was used."],
        class_names=NAMES,
        confusion=CONFUSION,
        history=epochs(4) + epochs(3, "fine-tune from conv3", first=5),
        mistakes=[Mistake(jpeg(), "roses/12.jpg", "roses", "tulips", 0.987)],
        layers=[
            {
                "name": name,
                "kind": kind,
                "output_shape": shape,
                "parameters": parameters,
                "bytes": 4 * parameters,
                "multiply_adds": multiply_adds,
                "trained_in": trained_in,
            }
            for name, kind, shape, parameters, multiply_adds, trained_in in (
                ("conv1", "Conv2D", "55 x 55 x 96", 34_944, 105_415_200, []),
                ("conv3", "Conv2D", "13 x 13 x 384", 885_120, None, ["fine-tune from conv3"]),
                ("fc8", "Dense", "3", 12_291, 12_288, ["head", "fine-tune from conv3"]),
            )
        ],
        config={"options": {"seed": 0, "data_dir": None, "phases": [{"rates": {"fc8": 0.01}}]}},
        examples=[(jpeg(10), "daisy")],
    )
    return replace(report, **changes)


def no_nonsense(html: str) -> None:
    """Asserts that the page is whole and shows no value that is none, in words or in figures."""
    page = Page(html)
    assert not re.search(r"\b(nan|inf|None)\b", page.text)
    for _, attributes in page.elements:
        drawn = " ".join(attributes.get(key, "") for key in ("d", "x", "y", "style"))
        assert not re.search(r"\b(nan|inf)\b", drawn)
