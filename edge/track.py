"""Follows faces from frame to frame: match, spawn, age."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from edge.domain import Observation, Track

_LEAST_MISSED: Final = 2
"""Detectors miss a face now and then: one miss alone ends no track, however far apart the detections are."""


class Tracker:
    """Matches faces with tracks by the overlap of their boxes, best overlap first.

    Args:
        max_gap_s: A track that is out of sight for longer has ended, if at least two detections missed it.
        min_iou: Least overlap (intersection over union) of a face with the track's last box.
    """

    def __init__(self, *, max_gap_s: float, min_iou: float) -> None:
        self._max_gap_s = max_gap_s
        self._min_iou = min_iou
        self._tracks: list[Track] = []
        self._next_id = 1

    def update(
        self, observations: Sequence[Observation], time_s: float, *, detected: bool = True
    ) -> tuple[list[Track], list[Track]]:
        """Takes in what one frame shows.

        Args:
            observations: The faces of the frame.
            time_s: The frame's time; never goes back.
            detected: Whether the faces were looked for on this frame, and not taken over from the last detection.

        Returns:
            The living tracks, oldest first, those that were seen now having `last_seen_s == time_s`; and the tracks
            that have just ended.
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
        """Ends all tracks, because the camera stopped looking, and returns them."""
        ended, self._tracks = self._tracks, []
        return ended

    def _has_ended(self, track: Track, time_s: float) -> bool:
        return track.missed >= _LEAST_MISSED and time_s - track.last_seen_s > self._max_gap_s

    def _match(self, tracks: Sequence[Track], observations: Sequence[Observation]) -> dict[int, int]:
        """Which observation (by position) continues which track (by id)."""
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
