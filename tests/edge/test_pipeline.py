"""The way of a frame, from picture to messages."""

import json
from typing import Any

from edge.adapt import Level
from edge.contract.manifest import Framing
from edge.domain import Message
from edge.message import Composer
from edge.payloads import ModelInfo
from edge.pipeline import Pipeline
from edge.smooth import Smoother, SmoothingRules
from edge.topics import Topics
from edge.track import Tracker
from tests.fakes import RecordingPublisher, ScriptedDetector, SteadyClassifier, frame, one_face

MODEL = ModelInfo(name="test", version="1.0.0", sha256="0" * 64)
FRAMING = Framing(eyes_x=0.5, eye_y=0.4, eye_distance=0.36, box_scale=1.14, box_shift_y=-0.03)


class Rig:
    """A pipeline between scripted ports."""

    def __init__(self, detector: ScriptedDetector, *, detection_interval_s: float = 0.0) -> None:
        self.detector = detector
        self.classifier = SteadyClassifier()
        self.publisher = RecordingPublisher()
        self.pipeline = Pipeline(
            detector=detector,
            classifier=self.classifier,
            framing=FRAMING,
            crop_px=48,
            tracker=Tracker(max_gap_s=0.5),
            smoother=Smoother(SmoothingRules(min_dwell_s=0.3)),
            composer=Composer(topics=Topics("emotion", "hall"), camera="door", session=1, model=MODEL),
            publisher=self.publisher,
            detection_interval_s=detection_interval_s,
            time_synced=lambda: True,
        )

    def events(self) -> list[tuple[str, str]]:
        return [
            (event["event"], event["emotion"]) for event in map(_payload, self.publisher.messages) if "event" in event
        ]


def _payload(message: Message) -> dict[str, Any]:
    return dict(json.loads(message.payload))


def test_a_face_that_comes_changes_and_goes_gives_three_events() -> None:
    """The whole story of a visitor arrives, in order, on the event topic."""
    rig = Rig(ScriptedDetector(lambda call: [one_face()] if call < 30 else []))
    for index in range(40):
        rig.classifier.emotion = "happy" if index < 15 else "surprise"
        rig.pipeline.process(frame(index))
    assert rig.events() == [("start", "happy"), ("change", "surprise"), ("end", "surprise")]


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
