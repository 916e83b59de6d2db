"""The simulated camera."""

from __future__ import annotations

import time

import pytest

from edge.detect import create_detector
from edge.errors import RuntimeMissing
from edge.source import open_source
from edge.source.demo import DemoSource, _find, _Scene


def test_frames_arrive_at_the_rate_of_a_camera() -> None:
    """The source delivers 25 frames per second of 640x360 pixels, with increasing times."""
    started_s = time.monotonic()
    with open_source("demo") as source:
        frames = [source.read(1.0) for _ in range(6)]
    assert time.monotonic() - started_s >= 5 / 25
    for frame in frames:
        assert frame is not None
        assert (frame.width_px, frame.height_px) == (640, 360)
    times = [frame.time_s for frame in frames if frame]
    assert times == sorted(set(times))


def test_frames_that_are_not_read_in_time_are_dropped_and_counted() -> None:
    """A slow reader gets the newest frame, as from a camera, and the number of dropped ones."""
    with open_source("demo") as source:
        first = source.read(1.0)
        dropped_before = source.dropped
        time.sleep(0.3)
        second = source.read(1.0)
        assert first is not None
        assert second is not None
        assert second.index - first.index - 1 == source.dropped - dropped_before >= 5


def test_waiting_for_a_frame_ends_at_the_timeout() -> None:
    """A read ends at its timeout, so that the agent can stop between two frames."""
    with open_source("demo") as source:
        assert any(source.read(0.001) is None for _ in range(100))  # except while a frame is due


def test_each_scene_begins_without_a_face_and_ends_with_one() -> None:
    """Faces come and go, so that emotions start and end in the demo."""
    detector = create_detector()
    with DemoSource() as source:
        seen = [len(detector.detect(source._render(position_s))) for position_s in (0.1, 4, 7.9, 8.1, 12, 15.9, 16.1)]
    assert seen == [0, 1, 1, 0, 1, 1, 0]


def test_missing_photographs_are_an_error_with_a_remedy() -> None:
    """Without the extra `demo`, the error names the install command."""
    with pytest.raises(RuntimeMissing, match=r"pip install 'edge-emotion\[demo\]'"):
        _find(_Scene("no-such-package", "a.jpg", (0, 0), (0, 0), 1))
    with pytest.raises(RuntimeMissing, match=r"matplotlib provides gone\.jpg"):
        _find(_Scene("matplotlib", "gone.jpg", (0, 0), (0, 0), 1))
