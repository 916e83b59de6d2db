"""Smooths per-frame predictions into emotions that start, change and end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge.contract import EMOTIONS, UNKNOWN, softmax
from edge.domain import Reading, Track, Transition

_UNKNOWN_HYSTERESIS: Final = 0.05
"""How far the current emotion may fall below `unknown_below`: about the fluctuation of a still face's smoothed
confidence. It is much smaller than `margin`, which may exceed the threshold and would make `unknown` unreachable."""

_UNSETTLED_DWELL_TIMES: Final = 5
"""Number of dwell times after which a face is `unknown` if no emotion has led for a whole one. Without it, alternating
predictions at a few frames per second could keep an outdated emotion, or never report a face at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmoothingRules:
    """Parameters of the smoothing. The defaults are based on measurements, see docs/smoothing.md.

    Attributes:
        time_constant_s: Time constant of the exponential average of the logits (63 % of a step).
        min_dwell_s: Time for which an emotion must lead before it is reported.
        margin: Difference in probability by which another emotion must exceed the current one to replace it, unless
            the current one has fallen too low (see `unknown_below`).
        unknown_below: Confidence below which the emotion is `unknown`; the current emotion may fall 0.05 lower.
    """

    time_constant_s: float = 0.2
    min_dwell_s: float = 0.4
    margin: float = 0.3
    unknown_below: float = 0.4


@dataclass(slots=True)
class _FaceState:
    """Smoothing state of one track."""

    logits: NDArray[np.float32]
    updated_s: float
    leader: str
    leader_since_s: float
    unsettled_since_s: float
    emotion: str | None = None
    since_s: float = 0.0


class Smoother:
    """Averages the logits of each track over time, and decides with hysteresis which emotion they show.

    The average is exponential with a weight that depends on the time between frames, so it behaves the same at any
    frame rate. It is taken over logits rather than probabilities: the average of two uncertain predictions stays
    uncertain.
    """

    def __init__(self, rules: SmoothingRules) -> None:
        self._rules = rules
        self._faces: dict[int, _FaceState] = {}
        self._readings: dict[int, Reading] = {}

    def update(
        self, tracks: Sequence[Track], ended: Sequence[Track], time_s: float
    ) -> tuple[list[Reading], list[Transition]]:
        """Updates the smoothing state with the tracks of one frame.

        Args:
            tracks: The active tracks; those not seen at `time_s` keep their last reading.
            ended: The tracks that ended with this frame.
            time_s: The time of the frame.

        Returns:
            A reading for each track with an established emotion, and the transitions of this frame.
        """
        transitions = self._end(ended)
        for track in tracks:
            if track.last_seen_s == time_s:
                transitions += self._observe(track, time_s)
        return [self._readings[track.id] for track in tracks if track.id in self._readings], transitions

    def _observe(self, track: Track, time_s: float) -> list[Transition]:
        face = self._average(track, time_s)
        probabilities = softmax(face.logits)
        leader = self._leader(probabilities, face.emotion)
        previous = face.emotion
        if leader != face.leader:
            if face.leader == previous:
                face.unsettled_since_s = time_s
            face.leader, face.leader_since_s = leader, time_s
        if leader != previous and time_s - face.leader_since_s >= self._rules.min_dwell_s:
            face.emotion, face.since_s = leader, face.leader_since_s
        elif previous not in (leader, UNKNOWN) and self._is_unsettled(face, time_s):
            face.emotion, face.since_s = UNKNOWN, face.unsettled_since_s
        if face.emotion is None:
            return []
        reading = self._readings[track.id] = _reading(track, face.emotion, face.since_s, probabilities)
        if face.emotion == previous:
            return []
        return [Transition("change" if previous else "start", reading, previous)]

    def _average(self, track: Track, time_s: float) -> _FaceState:
        newest = track.observation.logits
        face = self._faces.get(track.id)
        if face is None:
            leader = self._leader(softmax(newest), None)
            face = self._faces[track.id] = _FaceState(newest, time_s, leader, time_s, time_s)
        weight = np.float32(1 - math.exp(-(time_s - face.updated_s) / self._rules.time_constant_s))
        face.logits = face.logits + weight * (newest - face.logits)
        face.updated_s = time_s
        return face

    def _leader(self, probabilities: NDArray[np.float32], current: str | None) -> str:
        """Returns the leading emotion: the current one while it is confident and not exceeded by the margin."""
        best = probabilities.max()
        if current in EMOTIONS:
            held = probabilities[EMOTIONS.index(current)]
            threshold = self._rules.unknown_below - _UNKNOWN_HYSTERESIS
            if held >= threshold and (held == best or best - held < self._rules.margin):
                return current
        return EMOTIONS[probabilities.argmax()] if best >= self._rules.unknown_below else UNKNOWN

    def _is_unsettled(self, face: _FaceState, time_s: float) -> bool:
        """Whether no emotion has led for a whole dwell time since the current one, if there is one, last led."""
        return time_s - face.unsettled_since_s >= _UNSETTLED_DWELL_TIMES * self._rules.min_dwell_s

    def _end(self, ended: Sequence[Track]) -> list[Transition]:
        transitions = []
        for track in ended:
            self._faces.pop(track.id, None)
            reading = self._readings.pop(track.id, None)
            if reading is not None:
                transitions.append(Transition("end", reading, reading.emotion))
        return transitions


def _reading(track: Track, emotion: str, since_s: float, probabilities: NDArray[np.float32]) -> Reading:
    confidence = probabilities.max() if emotion == UNKNOWN else probabilities[EMOTIONS.index(emotion)]
    return Reading(
        track_id=track.id,
        emotion=emotion,
        confidence=float(confidence),
        probabilities=tuple(float(p) for p in probabilities),
        since_s=since_s,
        box=track.observation.face.box,
        quality=track.observation.quality,
    )
