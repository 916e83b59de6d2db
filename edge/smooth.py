"""From the jitter of single frames to emotions that begin, hold and end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge.contract import EMOTIONS, UNKNOWN, softmax
from edge.domain import Reading, Track, Transition

_DOUBT: Final = 0.05
"""How far the present emotion may sink under `unknown_below`: so much the averaged confidence of a still face wobbles.
It is far less than `margin`, which may be more than the threshold itself and then would put `unknown` out of reach."""


_UNSETTLED: Final = 5
"""After how many dwell times in which no emotion leads for one of them a face is `unknown`: at a few frames a second,
readings that waver would otherwise keep an emotion that nothing speaks for, or a face from being told at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmoothingRules:
    """When an emotion counts. The defaults were chosen by measurement: docs/smoothing.md.

    Attributes:
        time_constant_s: Time after which the average of the logits has followed a change by 63 %.
        min_dwell_s: For how long an emotion must lead before it is reported.
        margin: By how much (in probability) another emotion must lead over the present one, unless that is in doubt.
        unknown_below: Confidence under which the emotion is `unknown`; the present emotion may sink 0.05 lower.
    """

    time_constant_s: float = 0.2
    min_dwell_s: float = 0.4
    margin: float = 0.3
    unknown_below: float = 0.4


@dataclass(slots=True)
class _FaceState:
    """What is remembered of one track."""

    logits: NDArray[np.float32]
    updated_s: float
    leader: str
    leader_since_s: float
    unsettled_since_s: float
    emotion: str | None = None
    since_s: float = 0.0


class Smoother:
    """Averages each track's logits over time and decides with hysteresis what they show.

    The average is an exponential one whose weight follows the time between frames, so that it behaves alike at any
    frame rate. It runs on logits: there the average of two faces of doubt is doubt.
    """

    def __init__(self, rules: SmoothingRules) -> None:
        self._rules = rules
        self._faces: dict[int, _FaceState] = {}
        self._readings: dict[int, Reading] = {}

    def update(
        self, tracks: Sequence[Track], ended: Sequence[Track], time_s: float
    ) -> tuple[list[Reading], list[Transition]]:
        """Takes in the tracks of one frame.

        Args:
            tracks: The living tracks; those not seen at `time_s` keep their last reading.
            ended: The tracks that have just ended.
            time_s: The frame's time.

        Returns:
            A reading for each track whose emotion is established, and what began, changed or ended.
        """
        transitions = self._end(ended)
        for track in tracks:
            if track.last_seen_s == time_s:
                transitions += self._observe(track, time_s)
        return [self._readings[track.id] for track in tracks if track.id in self._readings], transitions

    def _observe(self, track: Track, time_s: float) -> list[Transition]:
        face = self._average(track, time_s)
        probabilities = softmax(face.logits)
        leader = self._leading(probabilities, face.emotion)
        previous = face.emotion
        if leader != face.leader:
            if face.leader == previous:
                face.unsettled_since_s = time_s
            face.leader, face.leader_since_s = leader, time_s
        if leader != previous and time_s - face.leader_since_s >= self._rules.min_dwell_s:
            face.emotion, face.since_s = leader, face.leader_since_s
        elif previous not in (leader, UNKNOWN) and self._wavers(face, time_s):
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
            leader = self._leading(softmax(newest), None)
            face = self._faces[track.id] = _FaceState(newest, time_s, leader, time_s, time_s)
        weight = np.float32(1 - math.exp(-(time_s - face.updated_s) / self._rules.time_constant_s))
        face.logits = face.logits + weight * (newest - face.logits)
        face.updated_s = time_s
        return face

    def _leading(self, probabilities: NDArray[np.float32], present: str | None) -> str:
        """The emotion that these probabilities speak for: the present one as long as it is sure and not outdone."""
        best = probabilities.max()
        if present in EMOTIONS:
            held = probabilities[EMOTIONS.index(present)]
            if held >= self._rules.unknown_below - _DOUBT and (held == best or best - held < self._rules.margin):
                return present
        return EMOTIONS[probabilities.argmax()] if best >= self._rules.unknown_below else UNKNOWN

    def _wavers(self, face: _FaceState, time_s: float) -> bool:
        """Whether nothing has led for a dwell time since the present emotion, if there is one, led last."""
        return time_s - face.unsettled_since_s >= _UNSETTLED * self._rules.min_dwell_s

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
