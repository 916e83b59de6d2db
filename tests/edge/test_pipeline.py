"""The way of a frame, from picture to messages."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge.adapt import LADDER, Level
from edge.compose import Composer
from edge.contract.manifest import Framing
from edge.domain import Box, Face, Instant, Message
from edge.payloads import ModelInfo, Sender
from edge.pipeline import Pipeline
from edge.smooth import Smoother, SmoothingRules
from edge.topics import Topics
from edge.track import Tracker
from tests.fakes import RecordingPublisher, ScriptedDetector, StandingClock, SteadyClassifier, frame, one_face

MODEL = ModelInfo(name="test", version="1.0.0", sha256="0" * 64)
FRAMING = Framing(eyes_x=0.5, eye_y=0.4, eye_distance=0.36, box_scale=1.14, box_shift_y=-0.03)


class Rig:
    """A pipeline between scripted ports."""

    def __init__(
        self, detector: ScriptedDetector, *, detection_interval_s: float = 0.0, state_interval_s: float = 1.0
    ) -> None:
        self.detector = detector
        self.classifier = SteadyClassifier()
        self.publisher = RecordingPublisher()
        self.clock = StandingClock()
        self.pipeline = Pipeline(
            detector=detector,
            classifier=self.classifier,
            framing=FRAMING,
            crop_px=48,
            tracker=Tracker(max_gap_s=0.5, min_iou=0.3),
            smoother=Smoother(SmoothingRules(min_dwell_s=0.3)),
            composer=Composer(
                topics=Topics("emotion", "hall"),
                camera="door",
                sender=Sender("hall", session=1),
                model=MODEL,
                min_interval_s=state_interval_s,
            ),
            publisher=self.publisher,
            detection_interval_s=detection_interval_s,
            now=self.clock.now,
        )

    def events(self) -> list[tuple[str, str]]:
        return [(event["event"], event["emotion"]) for event in self.payloads("event")]

    def payloads(self, kind: str) -> list[dict[str, Any]]:
        """What was said on the topic `event` or `emotion`."""
        return [_payload(message) for message in self.publisher.messages if message.topic.endswith(kind)]


def _payload(message: Message) -> dict[str, Any]:
    return dict(json.loads(message.payload))


def test_a_face_that_comes_changes_and_goes_gives_three_events() -> None:
    """The whole story of a visitor arrives, in order, on the event topic."""
    rig = Rig(ScriptedDetector(lambda call: [one_face()] if call < 30 else []))
    for index in range(40):
        rig.classifier.emotion = "happy" if index < 15 else "surprise"
        rig.pipeline.process(frame(index))
    assert rig.events() == [("start", "happy"), ("change", "surprise"), ("end", "surprise")]


@pytest.mark.parametrize("fps", [0.1, 0.9, 1.0])
def test_a_camera_that_looks_seldom_tells_the_same_story(fps: float) -> None:
    """An emotion is told on its second frame, and a visitor is gone after two frames without a face."""
    rig = Rig(ScriptedDetector(lambda call: [one_face()] if call < 6 else []), state_interval_s=0)
    told = []
    for index in range(8):
        rig.classifier.emotion = "happy" if index < 3 else "surprise"
        rig.pipeline.process(frame(index, fps))
        told.append(rig.payloads("emotion")[-1]["emotion"])
    assert told == [None, "happy", "happy", "happy", "surprise", "surprise", "surprise", None]
    assert rig.events() == [("start", "happy"), ("change", "surprise"), ("end", "surprise")]


def test_a_device_that_does_the_least_keeps_a_face_that_one_detection_missed() -> None:
    """On the lowest level there is a detection a second; a visitor who turns away for one does not leave."""
    rig = Rig(ScriptedDetector(lambda call: [] if call == 3 else [one_face()]), detection_interval_s=0.2)
    rig.pipeline.adapt(LADDER[-1])
    for index in range(20):
        rig.pipeline.process(frame(index, fps=2))
    assert rig.detector.calls == 10
    assert rig.events() == [("start", "happy")]


def test_between_two_detections_faces_are_classified_where_they_were() -> None:
    """A slower detection saves time and costs no reading."""
    rig = Rig(ScriptedDetector(lambda _: [one_face()]), detection_interval_s=0.45)
    for index in range(20):
        rig.pipeline.process(frame(index))
    assert rig.detector.calls == 4
    assert rig.classifier.crops_seen == 20


def test_a_lower_level_detects_more_seldom() -> None:
    """A device that is spared searches a quarter as often; the faces between are classified all the same."""
    rig = Rig(ScriptedDetector(lambda _: [one_face()]), detection_interval_s=0.45)
    rig.pipeline.adapt(Level(4))
    for index in range(20):
        rig.pipeline.process(frame(index))
    assert rig.detector.calls == 2
    assert rig.classifier.crops_seen == 20


def test_an_empty_scene_is_told_as_such() -> None:
    """Nobody there is a state of its own, not silence."""
    rig = Rig(ScriptedDetector(lambda _: []))
    rig.pipeline.process(frame(0))
    (message,) = rig.publisher.messages
    assert message.topic == "emotion/hall/door/emotion"
    assert _payload(message)["face_count"] == 0


def test_finishing_ends_what_began_and_leaves_an_empty_scene() -> None:
    """When the camera stops, no emotion is left standing on the topic."""
    rig = Rig(ScriptedDetector(lambda _: [one_face()]))
    for index in range(10):
        rig.pipeline.process(frame(index))
    rig.pipeline.finish()
    assert rig.events() == [("start", "happy"), ("end", "happy")]
    assert _payload(rig.publisher.messages[-1])["face_count"] == 0
    count = len(rig.publisher.messages)
    rig.pipeline.finish()
    assert len(rig.publisher.messages) == count


def test_each_stage_is_timed() -> None:
    """Health can say which stage takes the time."""
    rig = Rig(ScriptedDetector(lambda _: [one_face()]))
    for index in range(5):
        rig.pipeline.process(frame(index))
    percentiles = rig.pipeline.times.percentiles_ms()
    assert percentiles.keys() == {"detect", "align", "classify", "total"}
    assert all(0 < p50 <= p95 for p50, p95 in percentiles.values())


def test_a_frame_without_a_face_costs_and_tells_no_time_of_the_classifier() -> None:
    """An empty hall does not make the classifier look fast, nor keep another camera from it."""
    rig = Rig(ScriptedDetector(lambda _: []))
    rig.pipeline.process(frame(0))
    assert rig.pipeline.times.percentiles_ms().keys() == {"detect", "total"}
    assert rig.classifier.calls == 0


def test_on_a_frame_of_another_size_faces_are_looked_for_anew() -> None:
    """Between two detections too, what is told of each frame lies where its own faces are."""
    large, small = Face(Box(160, 90, 320, 270), 0.9), Face(Box(16, 9, 32, 27), 0.9)
    rig = Rig(ScriptedDetector(lambda call: [small] if call else [large]), detection_interval_s=60)
    for index in range(10):
        rig.pipeline.process(frame(index))
    for index in range(10, 20):
        rig.pipeline.process(replace(frame(index), image_bgr=np.zeros((36, 64, 3), np.uint8)))
    assert rig.detector.calls == 2
    assert rig.events() == [("start", "happy"), ("end", "happy"), ("start", "happy")]
    place = {"left": 0.25, "top": 0.25, "right": 0.5, "bottom": 0.75}
    assert [event["box"] for event in rig.payloads("event")] == [place] * 3


def test_a_fault_on_the_first_frame_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A face that is there when the camera is tried again counts from then on, not from before the fault."""
    rig = Rig(ScriptedDetector(lambda _: [one_face()]))
    monkeypatch.setattr(rig.publisher, "publish", _fail)
    with pytest.raises(MemoryError):
        rig.pipeline.process(frame(0))
    monkeypatch.undo()
    rig.pipeline.finish()
    for index in range(3, 10):
        rig.pipeline.process(frame(index))
    (start,) = rig.payloads("event")
    assert (start["since"], start["track_id"]) == ("2023-11-14T22:13:20.300Z", 2)


def _fail(_: Message) -> None:
    raise MemoryError


def test_latency_counts_from_the_picture() -> None:
    """Whoever subscribes learns how old the news is, what a frame waited for its turn included."""
    rig = Rig(ScriptedDetector(lambda _: [one_face()]))
    rig.clock.instant = Instant(wall_s=1_700_000_005.0, mono_s=5.0, synced=True)
    rig.pipeline.process(frame(0))
    (state,) = rig.payloads("emotion")
    assert (state["ts"], state["mono_ms"], state["latency_ms"]) == ("2023-11-14T22:13:20.000Z", 5000, 5000)


def test_a_clock_that_is_set_while_a_frame_is_in_work_does_not_mix_two_times() -> None:
    """A device that learns the time late calls no wrong one right, and no picture weeks old."""

    def detect(call: int) -> list[Face]:
        rig.clock.instant = after if call == 3 else before
        return [one_face()]

    before = Instant(wall_s=0.0, mono_s=0.3, synced=False)
    after = Instant(wall_s=1_700_000_000.5, mono_s=0.5, synced=True)
    rig = Rig(ScriptedDetector(detect), state_interval_s=0)
    for index in range(4):
        rig.pipeline.process(frame(index))
    (start,) = rig.payloads("event")
    assert (start["ts"], start["time_synced"]) == ("2023-11-14T22:13:20.300Z", True)
    assert (start["since"], start["latency_ms"]) == ("2023-11-14T22:13:20.000Z", 200)


def test_what_ends_when_the_camera_stops_is_told_by_the_clock_as_it_is_set_then() -> None:
    """An emotion that began before the time was known ends in the same time as all that follows."""
    rig = Rig(ScriptedDetector(lambda _: [one_face()]))
    rig.clock.instant = Instant(wall_s=0.0, mono_s=0.9, synced=False)
    for index in range(10):
        rig.pipeline.process(frame(index))
    rig.clock.instant = Instant(wall_s=1_700_000_002.0, mono_s=2.0, synced=True)
    rig.pipeline.finish()
    _, end = rig.payloads("event")
    vacant = rig.payloads("emotion")[-1]
    assert (end["ts"], end["time_synced"], end["latency_ms"]) == ("2023-11-14T22:13:20.900Z", True, 1100)
    assert (vacant["ts"], vacant["time_synced"], vacant["latency_ms"]) == ("2023-11-14T22:13:22.000Z", True, 0)
