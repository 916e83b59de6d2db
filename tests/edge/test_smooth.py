"""Smoothing of per-frame predictions."""

import numpy as np
import pytest

from edge.contract import EMOTIONS
from edge.domain import Box, Face, Observation, Reading, Track, Transition
from edge.smooth import Smoother, SmoothingRules

RULES = SmoothingRules(time_constant_s=0.3, min_dwell_s=0.4, margin=0.1, unknown_below=0.4)


def logits_for(emotion: str, strength: float = 4.0) -> np.ndarray:
    """Returns logits in favor of one emotion."""
    logits = np.zeros(len(EMOTIONS), np.float32)
    logits[EMOTIONS.index(emotion)] = strength
    return logits


def logits_of(**shares: float) -> np.ndarray:
    """Returns logits with these probabilities for the named emotions, and equal ones for the others."""
    rest = (1 - sum(shares.values())) / (len(EMOTIONS) - len(shares))
    return np.log([shares.get(emotion, rest) for emotion in EMOTIONS]).astype(np.float32)


def track_at(time_s: float, logits: np.ndarray, track_id: int = 1, seen_s: float | None = None) -> Track:
    """Returns a track that was seen at `seen_s`, by default at `time_s`."""
    observation = Observation(Face(Box(0, 0, 100, 100), 0.9), logits.astype(np.float32), 0.8)
    return Track(track_id, observation, time_s if seen_s is None else seen_s)


class SmootherHarness:
    """A smoother that is fed with one face at a constant frame rate."""

    def __init__(self, fps: float = 10.0, rules: SmoothingRules = RULES) -> None:
        self.smoother = Smoother(rules)
        self.step_s = 1 / fps
        self.time_s = 0.0
        self.transitions: list[tuple[float, Transition]] = []
        self.readings: list[Reading] = []

    def feed(self, logits: np.ndarray, seconds: float) -> None:
        for _ in range(round(seconds / self.step_s)):
            self.readings, changes = self.smoother.update([track_at(self.time_s, logits)], [], self.time_s)
            self.transitions += [(self.time_s, change) for change in changes]
            self.time_s += self.step_s

    def changes(self) -> list[tuple[str, str | None, str]]:
        return [(change.kind, change.previous, change.reading.emotion) for _, change in self.transitions]


def test_an_emotion_starts_after_the_dwell_time_and_not_before() -> None:
    """A face that is only briefly in view causes no event."""
    harness = SmootherHarness()
    harness.feed(logits_for("happy"), 0.4)
    assert harness.changes() == []
    harness.feed(logits_for("happy"), 0.2)
    assert harness.changes() == [("start", None, "happy")]
    assert harness.readings[0].since_s == 0.0


def test_single_deviating_frames_change_nothing() -> None:
    """One misclassified frame per second does not change the emotion."""
    harness = SmootherHarness()
    harness.feed(logits_for("happy"), 1.0)
    for _ in range(5):
        harness.feed(logits_for("sad"), 0.1)
        harness.feed(logits_for("happy"), 0.9)
    assert harness.changes() == [("start", None, "happy")]


def test_a_lasting_change_is_reported_within_a_second() -> None:
    """The event contains the previous emotion."""
    harness = SmootherHarness()
    harness.feed(logits_for("neutral"), 2.0)
    harness.feed(logits_for("surprise"), 1.0)
    assert harness.changes() == [("start", None, "neutral"), ("change", "neutral", "surprise")]
    assert harness.transitions[-1][0] - 2.0 < 1.0


@pytest.mark.parametrize("fps", [3, 10, 30])
def test_the_frame_rate_does_not_change_the_transitions(fps: float) -> None:
    """A slow and a fast device report the same transitions at nearly the same times."""
    harness = SmootherHarness(fps)
    harness.feed(logits_for("neutral"), 3.0)
    harness.feed(logits_for("happy"), 3.0)
    assert harness.changes() == [("start", None, "neutral"), ("change", "neutral", "happy")]
    assert harness.transitions[-1][0] == pytest.approx(3.6, abs=0.4)


def test_low_confidence_is_unknown_and_a_lead_within_the_margin_keeps_the_current_emotion() -> None:
    """Without a confident label the emotion is unknown, and a close lead does not replace the current one."""
    harness = SmootherHarness()
    harness.feed(logits_for("fear", 0.1), 1.0)
    assert harness.changes() == [("start", None, "unknown")]
    assert harness.readings[0].confidence == max(harness.readings[0].probabilities)
    harness.feed(logits_for("sad"), 1.0)
    close = logits_for("sad", 3.0) + logits_for("fear", 3.1)
    harness.feed(close, 2.0)
    assert harness.changes()[1:] == [("change", "unknown", "sad")]


@pytest.mark.parametrize("unknown_below", [0.27, 0.45])
def test_lasting_low_confidence_ends_an_emotion_and_fluctuation_at_the_threshold_does_not(unknown_below: float) -> None:
    """With the threshold of either bundle, a short smile is not reported for minutes."""
    harness = SmootherHarness(rules=SmoothingRules(unknown_below=unknown_below))
    harness.feed(logits_for("happy"), 1.0)
    for offset in (0.02, -0.02, -0.04, 0.03):
        harness.feed(logits_of(happy=unknown_below + offset), 1.0)
    assert harness.changes() == [("start", None, "happy")]
    harness.feed(logits_for("happy", 0.0), 1.0)
    assert harness.changes()[1:] == [("change", "happy", "unknown")]
    harness.feed(logits_of(happy=unknown_below - 0.02), 1.0)
    assert harness.readings[0].emotion == "unknown"


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.3])
def test_the_threshold_has_hysteresis_without_a_margin_too(margin: float) -> None:
    """The current emotion may fall slightly below the threshold while it is the most likely one."""
    harness = SmootherHarness(
        rules=SmoothingRules(time_constant_s=0.3, min_dwell_s=0.4, margin=margin, unknown_below=0.5)
    )
    harness.feed(logits_of(happy=0.6), 1.0)
    harness.feed(logits_of(happy=0.47), 2.0)
    assert harness.changes() == [("start", None, "happy")]


def test_a_face_that_alternates_between_two_other_emotions_is_unknown() -> None:
    """At one frame per second nothing is averaged, but an outdated emotion is not kept forever."""
    harness = SmootherHarness(fps=1)
    harness.feed(logits_of(happy=0.8), 3.0)
    for _ in range(4):
        harness.feed(logits_of(sad=0.6, happy=0.05), 1.0)
        harness.feed(logits_of(neutral=0.6, happy=0.05), 1.0)
    assert harness.changes() == [("start", None, "happy"), ("change", "happy", "unknown")]
    assert harness.transitions[-1][0] <= 6
    harness.feed(logits_of(neutral=0.6), 2.0)
    assert harness.changes()[2:] == [("change", "unknown", "neutral")]


def test_a_new_face_that_alternates_is_reported_too() -> None:
    """A new face is reported as `unknown` even if no emotion leads."""
    harness = SmootherHarness(fps=1)
    for _ in range(3):
        harness.feed(logits_of(sad=0.6), 1.0)
        harness.feed(logits_of(neutral=0.6), 1.0)
    assert harness.changes() == [("start", None, "unknown")]
    assert harness.readings[0].since_s == 0.0


def test_a_new_emotion_must_exceed_the_threshold() -> None:
    """The current emotion may be slightly below the threshold; its successor may not."""
    harness = SmootherHarness(rules=SmoothingRules(margin=0.1, unknown_below=0.4))
    harness.feed(logits_for("happy"), 1.0)
    harness.feed(logits_of(sad=0.38, happy=0.1), 1.0)
    assert harness.changes()[1:] == [("change", "happy", "unknown")]
    harness.feed(logits_of(sad=0.42, happy=0.1), 1.0)
    assert harness.changes()[2:] == [("change", "unknown", "sad")]


def test_probabilities_sum_to_one_and_the_confidence_is_that_of_the_emotion() -> None:
    """The published values are consistent."""
    harness = SmootherHarness()
    harness.feed(logits_for("angry", 2.5), 1.0)
    reading = harness.readings[0]
    assert sum(reading.probabilities) == pytest.approx(1, abs=1e-5)
    assert reading.confidence == reading.probabilities[EMOTIONS.index("angry")]


def test_a_hidden_face_keeps_its_reading_until_its_track_ends() -> None:
    """Between a missed detection and the end of the track, the last reading stays unchanged."""
    harness = SmootherHarness()
    harness.feed(logits_for("happy"), 1.0)
    last = harness.readings[0]
    hidden, changes = harness.smoother.update([track_at(1.3, logits_for("happy"), seen_s=0.9)], [], 1.3)
    assert (hidden, changes) == ([last], [])
    gone, changes = harness.smoother.update([], [track_at(2.0, logits_for("happy"))], 2.0)
    assert gone == []
    assert changes == [Transition("end", last, "happy")]


def test_an_ended_track_starts_over() -> None:
    """No state of an ended track is kept for a later one with the same id."""
    harness = SmootherHarness()
    harness.feed(logits_for("happy"), 1.0)
    harness.smoother.update([], [track_at(harness.time_s, logits_for("happy"))], harness.time_s)
    harness.feed(logits_for("happy"), 1.0)
    assert harness.changes() == [("start", None, "happy")] * 2


def test_a_track_without_an_established_emotion_ends_without_an_event() -> None:
    """There is no end without a start."""
    smoother = Smoother(RULES)
    track = track_at(0.0, logits_for("happy"))
    smoother.update([track], [], 0.0)
    assert smoother.update([], [track], 1.5) == ([], [])
