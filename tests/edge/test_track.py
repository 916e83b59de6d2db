"""Tracking of faces from frame to frame."""

import numpy as np

from edge.domain import Box, Face, Observation
from edge.track import Tracker


def face_at(x: float, y: float = 100.0, side: float = 100.0) -> Observation:
    """An observation of a square face."""
    face = Face(Box(x, y, x + side, y + side), score=0.9)
    return Observation(face, np.zeros(7, np.float32), quality=1.0)


def test_a_moving_face_keeps_its_track() -> None:
    """A face that moves slowly across the image is one track."""
    tracker = Tracker(max_gap_s=1.0, min_iou=0.3)
    ids = {tracker.update([face_at(20.0 * step)], step * 0.1)[0][0].id for step in range(30)}
    assert ids == {1}


def test_two_faces_do_not_swap_their_tracks() -> None:
    """Tracks do not depend on the order in which the detector returns the faces."""
    tracker = Tracker(max_gap_s=1.0, min_iou=0.3)
    left, right = tracker.update([face_at(0), face_at(300)], 0.0)[0]
    swapped, _ = tracker.update([face_at(305), face_at(5)], 0.1)
    where = {track.id: track.observation.face.box.left for track in swapped}
    assert where == {left.id: 5, right.id: 305}


def test_a_briefly_hidden_face_keeps_its_track() -> None:
    """A face covered by a hand for half a second is not a new track."""
    tracker = Tracker(max_gap_s=1.0, min_iou=0.3)
    tracker.update([face_at(0)], 0.0)
    hidden, ended = tracker.update([], 0.5)
    assert [track.last_seen_s for track in hidden] == [0.0]
    assert not ended
    seen, _ = tracker.update([face_at(0)], 1.0)
    assert [(track.id, track.last_seen_s) for track in seen] == [(1, 1.0)]


def test_a_track_continues_at_any_frame_rate() -> None:
    """At one frame in ten seconds, a track survives one detection that missed the face, and ends after two."""
    tracker = Tracker(max_gap_s=1.0, min_iou=0.3)
    ids = {tracker.update([face_at(0)], time_s)[0][0].id for time_s in (0.0, 10.0, 20.0)}
    hidden, ended = tracker.update([], 30.0)
    ids |= {track.id for track in [*hidden, *tracker.update([face_at(0)], 40.0)[0]]}
    assert ids == {1}
    assert not ended
    tracker.update([], 50.0)
    assert [track.id for track in tracker.update([], 60.0)[1]] == [1]


def test_a_frame_without_detection_ends_no_track() -> None:
    """A face missed by one detection can be found by the next one, whatever the number of frames in between."""
    tracker = Tracker(max_gap_s=1.0, min_iou=0.3)
    tracker.update([face_at(0)], 0.0)
    tracker.update([], 2.0)
    for time_s in (2.5, 3.0, 3.5):
        assert not tracker.update([], time_s, detected=False)[1]
    assert [track.id for track in tracker.update([face_at(0)], 4.0)[0]] == [1]


def test_a_track_ends_once_and_a_returning_face_gets_a_new_track() -> None:
    """A face that returns after the gap is a new track, as tracks do not identify people."""
    tracker = Tracker(max_gap_s=1.0, min_iou=0.3)
    tracker.update([face_at(0)], 0.0)
    tracker.update([], 0.5)
    assert tracker.update([], 1.0)[1] == []
    alive, ended = tracker.update([face_at(0)], 1.5)
    assert [track.id for track in ended] == [1]
    assert [track.id for track in alive] == [2]
    assert tracker.update([face_at(0)], 1.6)[1] == []


def test_finishing_ends_every_track() -> None:
    """No track survives when its camera is closed."""
    tracker = Tracker(max_gap_s=1.0, min_iou=0.3)
    tracker.update([face_at(0), face_at(300)], 0.0)
    assert [track.id for track in tracker.finish()] == [1, 2]
    assert tracker.update([], 0.1) == ([], [])
