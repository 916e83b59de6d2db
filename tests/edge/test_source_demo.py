"""The filmed photographs: a camera for people who have none at hand."""

from __future__ import annotations

import time

import pytest

from edge.detect import create_detector
from edge.errors import RuntimeMissing
from edge.source import open_source
from edge.source.demo import DemoSource, _find, _Scene


def test_frames_come_at_the_pace_of_a_camera() -> None:
    """25 frames a second of 640x360 pixels, as from a small webcam, with a steady clock."""
    started_s = time.monotonic()
    with open_source("demo") as source:
        frames = [source.read(1.0) for _ in range(6)]
    assert time.monotonic() - started_s >= 5 / 25
    for frame in frames:
        assert frame is not None
        assert (frame.width_px, frame.height_px) == (640, 360)
    times = [frame.time_s for frame in frames if frame]
    assert times == sorted(set(times))


def test_frames_that_come_too_late_are_dropped_and_counted() -> None:
    """A slow reader sees the present, as with a camera, and how much it missed."""
    with open_source("demo") as source:
        first = source.read(1.0)
        missed = source.dropped
        time.sleep(0.3)
        second = source.read(1.0)
        assert first is not None
        assert second is not None
        assert second.index - first.index - 1 == source.dropped - missed >= 5


def test_nobody_waits_longer_than_asked() -> None:
    """The agent can stop between two frames."""
    with open_source("demo") as source:
        assert any(source.read(0.001) is None for _ in range(100))  # not while a frame is due


def test_each_scene_begins_without_a_face_and_ends_with_one() -> None:
    """The demo shows emotions that begin and end, not one that lasts for ever."""
    detector = create_detector()
    with DemoSource() as source:
        seen = [len(detector.detect(source._picture(position_s))) for position_s in (0.1, 4, 7.9, 8.1, 12, 15.9, 16.1)]
    assert seen == [0, 1, 1, 0, 1, 1, 0]


def test_missing_photographs_are_told_with_a_remedy() -> None:
    """Without the extra `demo`, the error says how to get it."""
    with pytest.raises(RuntimeMissing, match=r"pip install 'edge-emotion\[demo\]'"):
        _find(_Scene("no-such-package", "a.jpg", (0, 0), (0, 0), 1))
    with pytest.raises(RuntimeMissing, match=r"matplotlib brings gone\.jpg"):
        _find(_Scene("matplotlib", "gone.jpg", (0, 0), (0, 0), 1))
