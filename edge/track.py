"""Tracks faces from frame to frame by the overlap of their boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from edge.domain import Observation, Track

_MIN_MISSED: Final = 2
"""Detectors occasionally miss a face: a single miss does not end a track, however far apart the detections are."""


class Tracker:
    """Assigns faces to tracks greedily, highest intersection over union first.

    Args:
        max_gap_s: A track ends when it has not been seen for longer than this and at least two detections missed it.
        min_iou: Minimum intersection over union of a face with the last box of a track.
    """

    def __init__(self, *, max_gap_s: float, min_iou: float) -> None:
        self._max_gap_s = max_gap_s
        self._min_iou = min_iou
        self._tracks: list[Track] = []
        self._next_id = 1

    def update(
        self, observations: Sequence[Observation], time_s: float, *, detected: bool = True
    ) -> tuple[list[Track], list[Track]]:
        """Updates the tracks with the faces of one frame.

        Args:
            observations: The faces of the frame.
            time_s: The time of the frame; must not decrease.
            detected: Whether the faces were detected on this frame, rather than reused from the last detection.

        Returns:
            The active tracks, oldest first, of which those seen on this frame have `last_seen_s == time_s`; and the
            tracks that ended with this frame.
        """
        matched = self._match([track for track in self._tracks if not self._has_ended(track, time_s)], observations)
        tracks = {track.id: replace(track, missed=track.missed + detected) for track in self._tracks}
        for index, observation in enumerate(observations):
            track = tracks.get(matched.get(index, 0)) or self._spawn(observation, time_s)
            tracks[track.id] = replace(track, observation=observation, last_seen_s=time_s, missed=0)
        ended = [track for track in tracks.values() if self._has_ended(track, time_s)]
        self._tracks = [track for track in tracks.values() if not self._has_ended(track, time_s)]
        return list(self._tracks), ended

    def finish(self) -> list[Track]:
        """Ends all tracks, for example because the camera was closed, and returns them."""
        ended, self._tracks = self._tracks, []
        return ended

    def _has_ended(self, track: Track, time_s: float) -> bool:
        return track.missed >= _MIN_MISSED and time_s - track.last_seen_s > self._max_gap_s

    def _match(self, tracks: Sequence[Track], observations: Sequence[Observation]) -> dict[int, int]:
        """Maps the index of each matched observation to the id of its track."""
        overlaps = [
            (track.observation.face.box.iou(observation.face.box), index, track.id)
            for track in tracks
            for index, observation in enumerate(observations)
        ]
        matched: dict[int, int] = {}
        for overlap, index, track_id in sorted(overlaps, key=lambda row: (-row[0], row[1:])):
            if overlap >= self._min_iou and index not in matched and track_id not in matched.values():
                matched[index] = track_id
        return matched

    def _spawn(self, observation: Observation, time_s: float) -> Track:
        track = Track(self._next_id, observation, last_seen_s=time_s)
        self._next_id += 1
        return track
