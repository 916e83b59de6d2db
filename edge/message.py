"""From payloads to MQTT messages: with which quality of service, for how long, and whether the broker keeps them."""

from __future__ import annotations

from typing import Final, Literal

from edge.client_id import fingerprint
from edge.domain import Message
from edge.pace import LOWEST_FPS
from edge.payloads import Health, Info, Payload, Status, Update
from edge.topics import Topics

CLIENT: Final = "client"
"""The user property (MQTT 5) that tells who is there by `fingerprint`."""


def expiry_s(interval_s: float) -> int:
    """After how many seconds without news what is said every `interval_s` counts as unknown."""
    return max(1, round(3 * interval_s))


def state_expiry_s(heartbeat_s: float) -> int:
    """The same for a camera's state, which is sent with a frame: no less than at the lowest rate of frames."""
    return expiry_s(max(heartbeat_s, 1 / LOWEST_FPS))


def status_message(topics: Topics, status: Status, *, session: int, client_id: str) -> Message:
    """Says whether the device is there. As `offline` it is also the last will, tied to its birth by the session.

    The client id's fingerprint tells two devices apart that were given one name.
    """
    return _status(topics.status, status, session, (CLIENT, fingerprint(client_id)))


def camera_status_message(topics: Topics, camera: str, status: Status, *, session: int) -> Message:
    """Says whether a camera works."""
    return _status(topics.camera_status(camera), status, session)


def info_message(topics: Topics, info: Info) -> Message:
    """Says what the device is."""
    return json_message(topics.info, info, qos=1, retain=True)


def health_message(topics: Topics, health: Health, *, interval_s: float) -> Message:
    """Says how the device fares, as it does every `interval_s`."""
    return json_message(topics.health, health, retain=True, expiry_s=expiry_s(interval_s))


def update_message(topics: Topics, update: Update) -> Message:
    """Says which model is installed, and whether there is a newer one."""
    return json_message(topics.update, update, qos=1, retain=True)


def clearing_message(topic: str) -> Message:
    """Makes the broker forget what was retained on a topic."""
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
    """A message whose user property `schema` (MQTT 5) names its schema without the payload being opened."""
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
