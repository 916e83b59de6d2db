"""Builds MQTT messages from payloads: their QoS, expiry, retain flag and user properties."""

from __future__ import annotations

from typing import Final, Literal

from edge.client_id import fingerprint
from edge.domain import Message
from edge.payloads import Health, Info, Payload, Status, Update
from edge.rate_limit import MIN_FPS
from edge.topics import Topics

CLIENT: Final = "client"
"""The user property (MQTT 5) with the `fingerprint` of the client id."""


def expiry_s(interval_s: float) -> int:
    """Returns the expiry of a message that is published every `interval_s`: three missed ones make it unknown."""
    return max(1, round(3 * interval_s))


def state_expiry_s(heartbeat_s: float) -> int:
    """Returns the expiry of a camera's state, which is only sent with a frame: allows for the lowest frame rate."""
    return expiry_s(max(heartbeat_s, 1 / MIN_FPS))


def status_message(topics: Topics, status: Status, *, session: int, client_id: str) -> Message:
    """Returns the device's status. As `offline` it is also the last will, matched to its birth by the session number.

    The fingerprint of the client id distinguishes two devices with the same name.
    """
    return _status(topics.status, status, session, (CLIENT, fingerprint(client_id)))


def camera_status_message(topics: Topics, camera: str, status: Status, *, session: int) -> Message:
    """Returns the status of a camera."""
    return _status(topics.camera_status(camera), status, session)


def info_message(topics: Topics, info: Info) -> Message:
    """Returns the description of the device."""
    return json_message(topics.info, info, qos=1, retain=True)


def health_message(topics: Topics, health: Health, *, interval_s: float) -> Message:
    """Returns the health report, which is published every `interval_s`."""
    return json_message(topics.health, health, retain=True, expiry_s=expiry_s(interval_s))


def update_message(topics: Topics, update: Update) -> Message:
    """Returns which model is installed, and whether a newer one is available."""
    return json_message(topics.update, update, qos=1, retain=True)


def clearing_message(topic: str) -> Message:
    """Returns a message that makes the broker clear the retained message of a topic."""
    return Message(topic, b"", qos=1, retain=True)


def json_message(
    topic: str,
    payload: Payload,
    *,
    qos: Literal[0, 1] = 0,
    retain: bool = False,
    expiry_s: int | None = None,
    durable: bool = False,
) -> Message:
    """Returns a JSON message, with the schema id of its payload as the user property `schema` (MQTT 5)."""
    return Message(
        topic,
        payload.encode(),
        qos=qos,
        retain=retain,
        expiry_s=expiry_s,
        durable=durable,
        user_properties=(("schema", payload.schema_id),),
    )


def _status(topic: str, status: Status, session: int, *more: tuple[str, str]) -> Message:
    return Message(
        topic,
        status.encode(),
        qos=1,
        retain=True,
        content_type="text/plain",
        user_properties=(("session", str(session)), *more),
    )
