"""What `--annotate` draws onto a picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.commands.annotate import draw


@dataclass(frozen=True)
class Face:
    """A happy face."""

    box: tuple[float, float, float, float]
    emotion: str = "happy"
    confidence: float = 0.93


def drawn(left: float, top: float) -> NDArray[np.uint8]:
    """A black picture with one face, 100 pixels wide and high."""
    return draw(np.zeros((200, 300, 3), np.uint8), [Face((left, top, left + 100, top + 100))])


@pytest.mark.parametrize("top", [-1.0, -40.0, -90.0])
def test_label_of_a_face_that_reaches_over_the_upper_edge_is_in_the_picture(top: float) -> None:
    """It stands where that of a face just below the edge does."""
    label = drawn(80, top)[:10, 85:150]
    assert label.any()
    assert (label == drawn(80, 0)[:10, 85:150]).all()


def test_label_stands_above_the_face_where_there_is_room() -> None:
    """It hides nothing of the face."""
    picture = drawn(80, 60)
    assert picture[50:60, 85:150].any()
    assert not picture[65:150, 85:150].any()
