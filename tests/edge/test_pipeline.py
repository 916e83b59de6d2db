"""The pipeline: from the pixels of a frame to messages."""

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
from tests.fakes import ConstantClassifier, ManualClock, RecordingPublisher, ScriptedDetector, frame, one_face

MODEL = ModelInfo(name="test", version="1.0.0", sha256="0" * 64)
FRAMING = Framing(eyes_x=0.5, eye_y=0.4, eye_distance=0.36, box_scale=1.14, box_shift_y=-0.03)


class Rig:
    """A pipeline with fakes of all ports, and a simulated clock."""

    def __init__(
        self, detector: ScriptedDetector, *, detection_interval_s: float = 0.0, state_interval_s: float = 1.0
    ) -> None:
        self.detector = detector
        self.classifier = ConstantClassifier()
        self.publisher = RecordingPublisher()
        self.clock = ManualClock()
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
        """The payloads published on the topic `event` or `emotion`."""
        return [_payload(message) for message in self.publisher.messages if message.topic.endswith(kind)]


def _payload(message: Message) -> dict[str, Any]:
    return dict(json.loads(message.payload))


def test_a_face_causes_start_change_and_end_events() -> None:
    """The start, change and end of a face's emotion are published in order."""
    rig = Rig(ScriptedDetector(lambda call: [one_face()] if call < 30 else []))
    for index in range(40):
        rig.classifier.emotion = "happy" if index < 15 else "surprise"
        rig.pipeline.process(frame(index))
    assert rig.events() == [("start", "happy"), ("change", "surprise"), ("end", "surprise")]


@pytest.mark.parametrize("fps", [0.1, 0.9, 1.0])
def test_a_low_frame_rate_results_in_the_same_events(fps: float) -> None:
    """An emotion is reported on its second frame, and a track ends after two frames without a face."""
    rig = Rig(ScriptedDetector(lambda call: [one_face()] if call < 6 else []), state_interval_s=0)
    states = []
    for index in range(8):
        rig.classifier.emotion = "happy" if index < 3 else "surprise"
        rig.pipeline.process(frame(index, fps))
        states.append(rig.payloads("emotion")[-1]["emotion"])
    assert states == [None, "happy", "happy", "happy", "surprise", "surprise", "surprise", None]
    assert rig.events() == [("start", "happy"), ("change", "surprise"), ("end", "surprise")]


def test_at_the_highest_adaptation_level_a_track_survives_one_missed_detection() -> None:
    """With one detection per second, a face that one of them misses keeps its track and its emotion."""
    rig = Rig(ScriptedDetector(lambda call: [] if call == 3 else [one_face()]), detection_interval_s=0.2)
    rig.pipeline.adapt(LADDER[-1])
    for index in range(20):
        rig.pipeline.process(frame(index, fps=2))
    assert rig.detector.calls == 10
    assert rig.events() == [("start", "happy")]


def test_between_two_detections_faces_are_classified_at_their_last_position() -> None:
    """A longer detection interval saves time, while every frame is still classified."""
    rig = Rig(ScriptedDetector(lambda _: [one_face()]), detection_interval_s=0.45)
    for index in range(20):
        rig.pipeline.process(frame(index))
    assert rig.detector.calls == 4
    assert rig.classifier.crops_seen == 20


def test_a_reduced_level_detects_less_often() -> None:
    """Faces are detected a quarter as often, and still classified on every frame."""
    rig = Rig(ScriptedDetector(lambda _: [one_face()]), detection_interval_s=0.45)
    rig.pipeline.adapt(Level(4))
    for index in range(20):
        rig.pipeline.process(frame(index))
    assert rig.detector.calls == 2
    assert rig.classifier.crops_seen == 20


def test_an_empty_scene_is_published() -> None:
    """A frame without faces results in a state with a face count of 0."""
    rig = Rig(ScriptedDetector(lambda _: []))
    rig.pipeline.process(frame(0))
    (message,) = rig.publisher.messages
    assert message.topic == "emotion/hall/door/emotion"
    assert _payload(message)["face_count"] == 0


def test_finishing_ends_emotions_and_publishes_an_empty_scene() -> None:
    """When the camera stops, open emotions end, and the retained state contains no face."""
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
    """The health report shows which stage takes how long."""
    rig = Rig(ScriptedDetector(lambda _: [one_face()]))
    for index in range(5):
        rig.pipeline.process(frame(index))
    percentiles = rig.pipeline.times.percentiles_ms()
    assert percentiles.keys() == {"detect", "align", "classify", "total"}
    assert all(0 < p50 <= p95 for p50, p95 in percentiles.values())


def test_a_frame_without_a_face_skips_the_classifier_and_its_timing() -> None:
    """Empty frames do not call the classifier, and do not distort its latency."""
    rig = Rig(ScriptedDetector(lambda _: []))
    rig.pipeline.process(frame(0))
    assert rig.pipeline.times.percentiles_ms().keys() == {"detect", "total"}
    assert rig.classifier.calls == 0


def test_a_change_of_the_frame_size_triggers_a_detection() -> None:
    """Boxes refer to the size of their own frame, also if it changes between two detections."""
    large, small = Face(Box(160, 90, 320, 270), 0.9), Face(Box(16, 9, 32, 27), 0.9)
    rig = Rig(ScriptedDetector(lambda call: [small] if call else [large]), detection_interval_s=60)
    for index in range(10):
        rig.pipeline.process(frame(index))
    for index in range(10, 20):
        rig.pipeline.process(replace(frame(index), image_bgr=np.zeros((36, 64, 3), np.uint8)))
    assert rig.detector.calls == 2
    assert rig.events() == [("start", "happy"), ("end", "happy"), ("start", "happy")]
    box = {"left": 0.25, "top": 0.25, "right": 0.5, "bottom": 0.75}
    assert [event["box"] for event in rig.payloads("event")] == [box] * 3


def test_an_error_on_the_first_frame_leaves_no_track(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error, a face that is still in view gets a new track, which starts then."""
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


def test_latency_counts_from_the_capture() -> None:
    """`latency_ms` includes the time that a frame waited to be processed."""
    rig = Rig(ScriptedDetector(lambda _: [one_face()]))
    rig.clock.instant = Instant(wall_s=1_700_000_005.0, mono_s=5.0, synced=True)
    rig.pipeline.process(frame(0))
    (state,) = rig.payloads("emotion")
    assert (state["ts"], state["mono_ms"], state["latency_ms"]) == ("2023-11-14T22:13:20.000Z", 5000, 5000)


def test_setting_the_clock_while_a_frame_is_processed_does_not_mix_times() -> None:
    """After a late time synchronization, timestamps are correct and the latency does not include the jump."""

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


def test_events_at_the_stop_of_a_camera_use_the_current_clock() -> None:
    """The end of an emotion that started before the clock was set has a timestamp of the new setting."""
    rig = Rig(ScriptedDetector(lambda _: [one_face()]))
    rig.clock.instant = Instant(wall_s=0.0, mono_s=0.9, synced=False)
    for index in range(10):
        rig.pipeline.process(frame(index))
    rig.clock.instant = Instant(wall_s=1_700_000_002.0, mono_s=2.0, synced=True)
    rig.pipeline.finish()
    _, end = rig.payloads("event")
    empty = rig.payloads("emotion")[-1]
    assert (end["ts"], end["time_synced"], end["latency_ms"]) == ("2023-11-14T22:13:20.900Z", True, 1100)
    assert (empty["ts"], empty["time_synced"], empty["latency_ms"]) == ("2023-11-14T22:13:22.000Z", True, 0)
