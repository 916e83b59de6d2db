"""The HTML report: complete in one file, readable, and right about what it shows."""

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
    """The references and the visible words of a page."""

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
    """Every picture is inside the file, and nothing is fetched from anywhere."""
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


def test_report_shows_the_figures(faces: FaceSet, make_predictor: Callable[..., Predictor]) -> None:
    """Accuracy with its interval, accuracy without leaked images, agreement and each class are there to read."""
    predictors = {"int8": make_predictor(faces, {0: "sad", 7: "fear"}), "float": make_predictor(faces)}
    words = Page(html_report(SUBJECT, evaluate(faces, predictors, leaked=np.array([0])), faces)).words
    for expected in (
        "models/<default>", "14 images of the test split of archive.zip",
        "int8: accuracy 85.7 % 95 % interval 60.1 % to 96.0 %", "without near-duplicates of training images 92.3 %",
        "float: accuracy 100.0 %", "int8 and float give the same answer to 85.7 %", "surprise 1.000 1.000 1.000 2 2",
    ):  # fmt: skip
        assert expected in words


def test_same_evaluation_gives_the_same_report(faces: FaceSet, make_predictor: Callable[..., Predictor]) -> None:
    """Reports can be compared: nothing in them depends on the day."""
    evaluation = evaluate(faces, {"int8": make_predictor(faces, {0: "sad"})})
    assert html_report(SUBJECT, evaluation, faces) == html_report(SUBJECT, evaluation, faces)


def test_model_without_mistakes(faces: FaceSet, make_predictor: Callable[..., Predictor]) -> None:
    """A perfect model has a report too, on a single image as well."""
    one = faces.take(np.array([3]))
    assert "100.0 %" in html_report(SUBJECT, evaluate(one, {"float": make_predictor(faces)}), one)
