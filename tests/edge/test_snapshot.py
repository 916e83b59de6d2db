"""Encoding of snapshots."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.domain import Frame
from edge.snapshot import MAX_BYTES, as_jpeg


def frame_of(image_bgr: NDArray[np.uint8]) -> Frame:
    """A frame with this image."""
    return Frame(image_bgr, 0, time_s=0.0, mono_s=0.0)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((640, 480), (640, 480)),
        ((3840, 2160), (640, 360)),
        ((720, 1280), (360, 640)),
        ((9, 4000), (1, 640)),
    ],
)
def test_the_longer_side_is_limited(size: tuple[int, int], expected: tuple[int, int]) -> None:
    """The longer side has at most 640 pixels, and the aspect ratio is kept."""
    width, height = size
    jpeg, *jpeg_size = as_jpeg(frame_of(np.zeros((height, width, 3), np.uint8)))
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert (picture.shape[1], picture.shape[0]) == tuple(jpeg_size) == expected


def test_the_file_size_is_limited() -> None:
    """Noise, which compresses badly, is encoded at a lower quality so that the message does not get larger."""
    noise = np.random.default_rng(1).integers(0, 256, (480, 640, 3), np.uint8)
    jpeg, _, _ = as_jpeg(frame_of(noise))
    assert len(jpeg) <= MAX_BYTES
