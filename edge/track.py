"""Follows faces from frame to frame: age, match, spawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edge.domain import Observation, Track


class Tracker:
    """Matches faces with tracks by the overlap of their boxes, best overlap first.

    Args:
        max_gap_s: A track that is not seen for longer has ended.
        min_iou: Least overlap (intersection over union) of a face with the track's last box.
    """

    def __init__(self, *, max_gap_s: float = 1.0, min_iou: float = 0.3) -> None:
        self._max_gap_s = max_gap_s
        self._min_iou = min_iou
        self._tracks: list[Track] = []
        self._next_id = 1

    def update(self, observations: Sequence[Observation], time_s: float) -> tuple[list[Track], list[Track]]:
        """Takes in what one frame shows.

        Args:
            observations: The faces of the frame.
            time_s: The frame's time; never goes back.

        Returns:
            The living tracks, oldest first, those that were seen now having `last_seen_s == time_s`; and the tracks
            that have just ended.
        """
        ended = [track for track in self._tracks if time_s - track.last_seen_s > self._max_gap_s]
        alive = {track.id: track for track in self._tracks if time_s - track.last_seen_s <= self._max_gap_s}
        matched = self._match(list(alive.values()), observations)
        for index, observation in enumerate(observations):
            track = alive.get(matched.get(index, 0)) or self._spawn(observation, time_s)
            alive[track.id] = replace(track, observation=observation, last_seen_s=time_s, hits=track.hits + 1)
        self._tracks = list(alive.values())
        return list(self._tracks), ended

    def finish(self) -> list[Track]:
        """Ends all tracks, because the camera stopped looking, and returns them."""
        ended, self._tracks = self._tracks, []
        return ended

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
        track = Track(self._next_id, observation, first_seen_s=time_s, last_seen_s=time_s, hits=0)
        self._next_id += 1
        return track
