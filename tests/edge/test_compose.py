from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from edge.asyncapi import json_schema
from edge.compose import Composer, FrameContext
from edge.domain import Box, Instant, Message, Reading, Transition
from edge.payloads import CameraState, Event, ModelInfo, Sender
from edge.topics import Topics

MODEL = ModelInfo(name="default", version="1.2.0", sha256="ab" * 32)
VALIDATORS = {
    model: Draft202012Validator(json_schema(model), format_checker=Draft202012Validator.FORMAT_CHECKER)
    for model in (Event, CameraState)
}


def instant(mono_s: float, *, synced: bool = True) -> Instant:
    """Returns the instant `mono_s` after the beginning of February 2026."""
    return Instant(wall_s=1_769_904_000.0 + mono_s, mono_s=mono_s, synced=synced)


def reading(track_id: int = 1, emotion: str = "happy", *, left: float = 64, size: float = 64) -> Reading:
    """A face on a frame of 640x480."""
    return Reading(
        track_id=track_id,
        emotion=emotion,
        confidence=0.91,
        probabilities=(0.01, 0.01, 0.01, 0.91, 0.02, 0.02, 0.02),
        since_s=98.0,
        box=Box(left, 48, left + size, 48 + size),
        quality=0.8,
    )


def start(face: Reading) -> Transition:
    """The first emotion of a face."""
    return Transition("start", face, None)


class Camera:
    """A composer with a simulated clock."""

    def __init__(self, name: str = "door") -> None:
        self.composer = Composer(
            topics=Topics("emotion", "hall"), camera=name, sender=Sender("hall", session=3), model=MODEL
        )

    def at(self, mono_s: float, *readings: Reading, transitions: tuple[Transition, ...] = ()) -> list[Message]:
        context = FrameContext(
            width=640,
            height=480,
            time_s=100.0 + mono_s,
            mono_s=mono_s - 0.04126,
            now=instant(mono_s),
        )
        return self.composer.compose(readings, transitions, context)


def parsed(message: Message) -> dict[str, Any]:
    """Returns the payload, and fails if it does not match the published schema."""
    model = Event if message.durable else CameraState
    fields: dict[str, Any] = json.loads(message.payload)
    VALIDATORS[model].validate(fields)
    model.model_validate_json(message.payload)
    return fields


@pytest.fixture
def camera() -> Camera:
    """A composer for the camera `door`."""
    return Camera()


def test_an_event_contains_all_published_fields(camera: Camera) -> None:
    """A subscriber to `event` gets every field of the interface, with boxes as fractions and times in UTC."""
    event, _ = camera.at(0.0, reading(), transitions=(Transition("change", reading(), "sad"),))
    assert (event.topic, event.qos, event.retain, event.durable) == ("emotion/hall/door/event", 1, False, True)
    assert event.expiry_s is None
    assert event.user_properties == (("schema", "emotion.event/1"),)
    fields = parsed(event)
    assert list(fields["probs"]) == ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
    del fields["probs"]
    assert fields == {
        "schema": "emotion.event/1",
        "device": "hall",
        "camera": "door",
        "session": 3,
        "seq": 1,
        "ts": "2026-01-31T23:59:59.958Z",
        "mono_ms": 0,
        "time_synced": True,
        "historical": False,
        "event": "change",
        "track_id": 1,
        "emotion": "happy",
        "confidence": 0.91,
        "previous": "sad",
        "since": "2026-01-31T23:59:57.958Z",
        "box": {"left": 0.1, "top": 0.1, "right": 0.2, "bottom": 0.2333},
        "quality": 0.8,
        "model": {"name": "default", "version": "1.2.0", "sha256": "ab" * 32},
        "latency_ms": 41.3,
    }


def test_event_numbers_have_no_gaps_and_are_separate_for_each_camera() -> None:
    """A consumer that counts `seq` of each camera notices a missing event."""
    for camera in (Camera("door"), Camera("yard")):
        messages = [camera.at(second, transitions=(start(reading()), start(reading(2)))) for second in range(3)]
        events = [parsed(message) for batch in messages for message in batch if message.durable]
        assert [event["seq"] for event in events] == [1, 2, 3, 4, 5, 6]


def test_a_state_describes_all_faces(camera: Camera) -> None:
    """A subscriber to `emotion` gets the most prominent face, all faces, and an expiry interval."""
    (state,) = camera.at(0.0, reading(1, "sad", size=50), reading(2, "happy", left=300, size=90))
    assert (state.topic, state.retain, state.durable) == ("emotion/hall/door/emotion", True, False)
    assert state.expiry_s == 90
    fields = parsed(state)
    assert (fields["emotion"], fields["track_id"], fields["face_count"], fields["seq"]) == ("happy", 2, 2, 0)
    assert [face["emotion"] for face in fields["faces"]] == ["happy", "sad"]


def test_an_empty_scene_is_a_state(camera: Camera) -> None:
    """A scene without faces is published as a state, rather than by sending nothing."""
    camera.at(0.0, reading())
    (state,) = camera.at(5.0)
    fields = parsed(state)
    assert (fields["face_count"], fields["faces"], fields["emotion"], fields["confidence"]) == (0, [], None, None)


def test_an_unchanged_state_is_sent_only_as_a_heartbeat(camera: Camera) -> None:
    """A still scene causes one message every 30 s, although the values differ slightly from frame to frame."""
    sent = []
    for tenth in range(620):
        face = replace(reading(), confidence=0.9 + tenth / 10_000, box=Box(64 + tenth / 100, 48, 128, 112))
        if camera.at(tenth / 10, face):
            sent.append(tenth / 10)
    assert sent == [0.0, 30.0, 60.0]


def test_a_burst_sends_the_newest_state_after_a_second(camera: Camera) -> None:
    """While emotions change quickly, a subscriber gets one state per second, which is the newest."""
    emotions = ["happy", "sad", "angry", "fear"]
    sent: dict[float, str] = {}
    for tick in range(40):  # the emotion changes every 0.1 s
        for message in camera.at(tick / 10, reading(emotion=emotions[tick % 4])):
            sent[tick / 10] = parsed(message)["emotion"]
    assert sent == {0.0: "happy", 1.0: "angry", 2.0: "happy", 3.0: "angry"}


def test_a_delayed_state_is_sent_after_the_interval(camera: Camera) -> None:
    """The last change of a burst is not lost."""
    camera.at(0.0, reading(emotion="happy"))
    assert camera.at(0.2, reading(emotion="sad")) == []
    assert camera.at(0.9, reading(emotion="sad")) == []
    (state,) = camera.at(1.0, reading(emotion="sad"))
    assert parsed(state)["emotion"] == "sad"


def test_of_two_faces_of_similar_size_the_most_prominent_one_does_not_alternate(camera: Camera) -> None:
    """Small changes of the boxes do not change which of two people is reported."""
    (first,) = camera.at(0.0, reading(1, "happy", size=60), reading(2, "sad", size=59))
    assert parsed(first)["track_id"] == 1
    for second in range(1, 20):
        assert camera.at(float(second), reading(1, "happy", size=60), reading(2, "sad", size=62)) == []
    (changed,) = camera.at(21.0, reading(1, "happy", size=60), reading(2, "sad", size=90))
    assert parsed(changed)["track_id"] == 2


def test_a_closed_camera_has_an_empty_state(camera: Camera) -> None:
    """When a camera is paused, a state without faces is published at once."""
    camera.at(0.0, reading())
    state = camera.composer.empty_state(instant(0.1, synced=False))
    fields = parsed(state)
    assert (fields["face_count"], fields["time_synced"]) == (0, False)
    (again,) = camera.at(1.2, reading())
    assert parsed(again)["face_count"] == 1


@given(
    corner=st.floats(-1e4, 1e4),
    size=st.floats(0, 1e4),
    confidence=st.floats(),
    probabilities=st.lists(st.floats(width=32), min_size=7, max_size=7),
)
def test_invalid_values_never_make_a_message_invalid(
    corner: float, size: float, confidence: float, probabilities: list[float]
) -> None:
    """A face partly outside the frame, or NaN from the model, still results in a valid message."""
    face = replace(
        reading(),
        box=Box(corner, corner, corner + size, corner + size),
        confidence=confidence,
        probabilities=tuple(np.array(probabilities, np.float32)),
    )
    for message in Camera().at(0.0, face, transitions=(start(face),)):
        parsed(message)
