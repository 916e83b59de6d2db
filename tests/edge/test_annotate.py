"""The annotated copies that `edge classify --annotate` writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.commands.annotate import Annotator, draw, plan_outputs


@dataclass(frozen=True)
class Face:
    """A face to draw, by default a happy one."""

    box: tuple[float, float, float, float]
    emotion: str = "happy"
    confidence: float = 0.93


def drawn(left: float, top: float) -> NDArray[np.uint8]:
    """A black picture with one face, 100 pixels wide and high."""
    return draw(np.zeros((200, 300, 3), np.uint8), [Face((left, top, left + 100, top + 100))])


@pytest.mark.parametrize("top", [-1.0, -40.0, -90.0])
def test_label_of_a_face_beyond_the_upper_edge_is_in_the_picture(top: float) -> None:
    """Its label is at the same position as that of a face just below the edge."""
    label = drawn(80, top)[:10, 85:150]
    assert label.any()
    assert (label == drawn(80, 0)[:10, 85:150]).all()


def test_label_is_above_the_face_if_there_is_room() -> None:
    """The label does not cover the face."""
    picture = drawn(80, 60)
    assert picture[50:60, 85:150].any()
    assert not picture[65:150, 85:150].any()


def test_names_in_use_get_the_next_free_number(tmp_path: Path) -> None:
    """Names are unique, even if a file already has the name that the number would produce."""
    names = ["a/x.png", "b/x-2.png", "c/x.png", "d/x.png", "e/x.webm", "f/x.mp4"]
    planned = plan_outputs([Path(name) for name in names], tmp_path)
    assert list(planned) == [Path(name) for name in names]
    assert [target.name for target in planned.values()] == [
        "x.png", "x-2.png", "x-3.png", "x-4.png", "x.mp4", "x-2.mp4"
    ]  # fmt: skip


def test_thousands_of_files_with_the_same_name_are_planned_quickly(tmp_path: Path) -> None:
    """Planning the names of many files with the same name takes linear time."""
    # Quadratic time would exceed the timeout of the test.
    planned = plan_outputs([Path(f"{number}/face.jpg") for number in range(20_000)], tmp_path)
    assert len(set(planned.values())) == 20_000


def test_copy_of_a_video_may_have_a_colon_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorders name files after the time of day."""
    monkeypatch.chdir(tmp_path)
    with Annotator(Path("12:30:00.mp4"), video_fps=25) as annotator:
        annotator.add(np.zeros((48, 64, 3), np.uint8), [])
    assert cv2.VideoCapture(str(tmp_path / "12:30:00.mp4")).isOpened()
