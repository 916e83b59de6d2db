"""HTML report: self-contained, with correct contents."""

from __future__ import annotations

import base64
from collections.abc import Callable
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import cv2
import numpy as np
import pytest

from trainer.data import FaceSet
from trainer.evaluate import Subject, evaluate
from trainer.report import html_report
from trainer.targets import Predictor

SUBJECT = Subject("models/<default>", "archive.zip", "test")


class Page(HTMLParser):
    """References and visible text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.references: list[str] = []
        self.words = ""
        self.feed(html)
        self.words = " ".join(self.words.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.references += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "data"}]

    def handle_data(self, data: str) -> None:
        self.words += f" {data}"


@pytest.fixture
def faces(make_faces: Callable[..., FaceSet]) -> FaceSet:
    """Two images of each emotion."""
    return make_faces([0, 1, 2, 3, 4, 5, 6] * 2)


def test_report_is_one_file(faces: FaceSet, make_predictor: Callable[..., Predictor]) -> None:
    """All images are embedded, and nothing is loaded from elsewhere."""
    html = html_report(SUBJECT, evaluate(faces, {"int8": make_predictor(faces, {0: "sad"})}), faces)
    page = Page(html)
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert "url(" not in html
    pictures = [reference.split(",", 1) for reference in page.references]
    assert [head for head, _ in pictures] == ["data:image/svg+xml;base64"] * 3 + ["data:image/png;base64"]
    for _, data in pictures[:3]:
        assert ET.fromstring(base64.b64decode(data)).tag.endswith("svg")  # noqa: S314 - our own picture
    mistakes = cv2.imdecode(np.frombuffer(base64.b64decode(pictures[3][1]), np.uint8), cv2.IMREAD_COLOR)
    assert mistakes is not None
    assert mistakes.std() > 10


def test_report_contains_the_metrics(faces: FaceSet, make_predictor: Callable[..., Predictor]) -> None:
    """The report contains accuracy with interval, accuracy without leaked images, agreement and per-class metrics."""
    predictors = {"int8": make_predictor(faces, {0: "sad", 7: "fear"}), "float": make_predictor(faces)}
    words = Page(html_report(SUBJECT, evaluate(faces, predictors, leaked=np.array([0])), faces)).words
    for expected in (
        "models/<default>", "14 images of the test split of archive.zip",
        "int8: top-1 accuracy 85.7 % 95 % interval 60.1 % to 96.0 %",
        "without near-duplicates of training images 92.3 %", "float: top-1 accuracy 100.0 %",
        "int8 and float agree on 85.7 %", "surprise 1.000 1.000 1.000 2 2",
    ):  # fmt: skip
        assert expected in words


def test_reports_are_reproducible(faces: FaceSet, make_predictor: Callable[..., Predictor]) -> None:
    """Reports are reproducible."""
    evaluation = evaluate(faces, {"int8": make_predictor(faces, {0: "sad"})})
    assert html_report(SUBJECT, evaluation, faces) == html_report(SUBJECT, evaluation, faces)


def test_report_of_a_model_without_errors(faces: FaceSet, make_predictor: Callable[..., Predictor]) -> None:
    """A model without errors has a report, also on a single image."""
    one = faces.take(np.array([3]))
    assert "100.0 %" in html_report(SUBJECT, evaluate(one, {"float": make_predictor(faces)}), one)
