from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator

from edge.asyncapi import json_schema
from edge.client_id import fingerprint
from edge.domain import Instant
from edge.message import (
    camera_status_message,
    health_message,
    info_message,
    state_expiry_s,
    status_message,
)
from edge.payloads import (
    AgentInfo,
    CameraHealth,
    CameraInfo,
    Health,
    Info,
    ModelInfo,
    MqttHealth,
    Percentiles,
    Sender,
    Status,
)
from edge.topics import Topics

TOPICS = Topics("emotion", "hall")
MODEL = ModelInfo(name="default", version="1.2.0", sha256="ab" * 32)


@pytest.mark.parametrize(("heartbeat_s", "expiry_s"), [(30.0, 90), (1.0, 30)])
def test_a_state_does_not_expire_before_the_next_one(heartbeat_s: float, expiry_s: int) -> None:
    """The expiry allows for the lowest configurable frame rate, one frame in ten seconds."""
    assert state_expiry_s(heartbeat_s) == expiry_s


def test_device_messages_match_the_published_interface() -> None:
    """The status is plain text with the session as a user property; info and health match their schemas."""
    online = status_message(TOPICS, Status.ONLINE, session=3, client_id="edge-1")
    assert (online.topic, online.payload, online.qos, online.retain) == ("emotion/hall/status", b"online", 1, True)
    assert online.content_type == "text/plain"
    assert online.user_properties == (("session", "3"), ("client", fingerprint("edge-1")))
    assert "edge-1" not in fingerprint("edge-1")
    paused = camera_status_message(TOPICS, "door", Status.PAUSED, session=3)
    assert (paused.topic, paused.payload) == ("emotion/hall/door/status", b"paused")
    envelope = Sender("hall", session=3).envelope(Instant(wall_s=1_769_904_000.0, mono_s=0.005, synced=True))
    info = Info(
        **envelope,
        agent=AgentInfo(name="edge-emotion", version="0.1.0", python="3.11"),
        model=MODEL,
        runtime="ai-edge-litert 2.3.0",
        platform="Linux aarch64",
        cameras=(CameraInfo(name="door", source="usb:0"),),
    )
    health = Health(
        **envelope,
        uptime_s=60.0,
        cameras={
            "door": CameraHealth(
                status=Status.ONLINE,
                fps=9.5,
                dropped_frames=1,
                faults=0,
                latency_ms={"detect": Percentiles(p50=9.0, p95=12.0)},
            )
        },
        mqtt=MqttHealth(connected=True, queue_depth=0, dropped=0, rejected=0, reconnects=0),
        model=MODEL,
        temperature_c=None,
        throttling=("under_voltage",),
        rss_bytes=75_000_000,
    )
    for message, model in (
        (info_message(TOPICS, info), Info),
        (health_message(TOPICS, health, interval_s=60), Health),
    ):
        validator = Draft202012Validator(json_schema(model), format_checker=Draft202012Validator.FORMAT_CHECKER)
        validator.validate(json.loads(message.payload))
        assert message.retain
    assert health_message(TOPICS, health, interval_s=60).expiry_s == 180
