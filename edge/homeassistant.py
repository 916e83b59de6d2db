"""Home Assistant MQTT discovery: one retained message that describes the device and all its entities."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge.contract import EMOTIONS, UNKNOWN
from edge.domain import Message
from edge.payloads import Status
from edge.topics import Topics

Announced = Mapping[str, Mapping[str, str]]
"""What was announced to Home Assistant: for each discovery topic, the platform of each component."""

_NAME = "edge-emotion"
_NOBODY = "none"
_UNCLEAR = "unclear"
_Component = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Announcement:
    """The discovery messages to publish, and what to store until the next announcement."""

    messages: tuple[Message, ...]
    announced: Announced


def announce(
    *,
    topics: Topics,
    cameras: Sequence[str],
    agent_version: str,
    state_expiry_s: int,
    health_expiry_s: int,
    announced: Announced,
    updates: bool = False,
    discovery_prefix: str = "homeassistant",
    hardware: str | None = None,
    serial_number: str | None = None,
) -> Announcement:
    """Describes the device, and removes components that were announced earlier but no longer exist.

    Args:
        topics: The topics of the device.
        cameras: The names of the cameras.
        agent_version: Shown as the software version of the device.
        state_expiry_s: Time without an update after which readings become unavailable.
        health_expiry_s: The same for values of the health report.
        announced: What was stored from the last announcement.
        updates: Whether the device checks for model updates and can install them on command.
        discovery_prefix: The discovery prefix set in Home Assistant.
        hardware: Model of the machine.
        serial_number: Serial number of the machine.
    """
    object_id = _object_id(topics)
    topic = f"{discovery_prefix}/device/{object_id}/config"
    components = _device_components(topics, health_expiry_s) | {"model": _model_component(topics, updates=updates)}
    for camera in cameras:
        components |= _camera_components(topics, camera, state_expiry_s, health_expiry_s)
    for key, component in components.items():
        # Names contain no dot, so device `a_b` cannot clash with camera `b` of device `a`.
        component["unique_id"] = f"{object_id}.{key}"
        component["default_entity_id"] = f"{component['platform']}.{topics.device}_{key}".replace("-", "_")
    platforms = {key: component["platform"] for key, component in components.items()}
    # Home Assistant removes a component of which only the platform is given.
    removed = {key: {"platform": was} for key, was in announced.get(topic, {}).items() if key not in platforms}
    payload = {
        "device": _without_none(
            identifiers=[object_id],
            name=topics.device,
            manufacturer=_NAME,
            model=hardware,
            sw_version=agent_version,
            serial_number=serial_number,
        ),
        "origin": {"name": _NAME, "sw_version": agent_version},
        "components": removed | components,
    }
    message = Message(topic, json.dumps(payload, ensure_ascii=False).encode(), qos=1, retain=True)
    return Announcement((message,), {topic: platforms})


def status_topic(discovery_prefix: str) -> str:
    """Returns the topic on which Home Assistant publishes that it has started."""
    return f"{discovery_prefix}/status"


def probe_topic(topics: Topics, discovery_prefix: str) -> str:
    """Returns a discovery topic for the permission test of `edge doctor`; it belongs to no real device."""
    return f"{discovery_prefix}/device/{_object_id(topics)}-probe/config"


def _object_id(topics: Topics) -> str:
    return re.sub(r"[^a-zA-Z0-9_-]", "_", topics.root)


def _device_components(topics: Topics, health_expiry_s: int) -> dict[str, _Component]:
    return {
        "connectivity": {
            "platform": "binary_sensor",
            "name": "Connectivity",
            "device_class": "connectivity",
            "entity_category": "diagnostic",
            "state_topic": topics.status,
            "payload_on": Status.ONLINE,
            "payload_off": Status.OFFLINE,
        },
        "temperature": {
            "platform": "sensor",
            "name": "Processor temperature",
            "device_class": "temperature",
            "state_class": "measurement",
            "unit_of_measurement": "°C",
            "entity_category": "diagnostic",
            "state_topic": topics.health,
            "value_template": "{{ value_json.temperature_c }}",
            "expire_after": health_expiry_s,
            **_available(topics),
        },
    }


def _model_component(topics: Topics, *, updates: bool) -> _Component:
    component: _Component = {
        "platform": "update",
        "name": "Emotion model",
        "entity_category": "diagnostic",
        **_available(topics),
    }
    if not updates:
        # Without an update server only the installed version is known, so it is also given as the latest.
        template = (
            "{{ {'title': value_json.model.name, 'installed_version': value_json.model.version, "
            "'latest_version': value_json.model.version} | to_json }}"
        )
        return {**component, "state_topic": topics.info, "value_template": template}
    # Compares release numbers, as the agent does: an earlier version published again is an update too. Until the server
    # has responded, the latest release is omitted, so that Home Assistant keeps the one it knows.
    common = (
        "'title': value_json.installed.name, 'installed_version': value_json.installed.release | string, "
        "'in_progress': value_json.installing, 'release_summary': value_json.error or "
    )
    newest = "'Version ' ~ value_json.latest.version, 'latest_version': value_json.latest.release | string"
    template = (
        f"{{% if value_json.latest %}}{{{{ {{{common}{newest}}} | to_json }}}}"
        f"{{% else %}}{{{{ {{{common}''}} | to_json }}}}{{% endif %}}"
    )
    return {
        **component,
        "state_topic": topics.update,
        "value_template": template,
        "command_topic": topics.command("update"),
        "payload_install": json.dumps({"id": "home-assistant"}),
        "qos": 1,
    }


def _camera_components(topics: Topics, camera: str, state_expiry_s: int, health_expiry_s: int) -> dict[str, _Component]:
    label = camera.replace("_", " ").replace("-", " ").capitalize()
    seen: _Component = {
        "platform": "sensor",
        "state_topic": topics.emotion(camera),
        "expire_after": state_expiry_s,
        **_available(topics, camera),
    }
    return {
        f"{camera}_emotion": {
            **seen,
            "name": f"{label} emotion",
            "icon": "mdi:emoticon-outline",
            "device_class": "enum",
            "options": [*EMOTIONS, _UNCLEAR, _NOBODY],
            "value_template": f"{{{{ {_emotion('emotion')} or '{_NOBODY}' }}}}",
        },
        f"{camera}_confidence": {
            **seen,
            "name": f"{label} confidence",
            "icon": "mdi:percent-outline",
            "unit_of_measurement": "%",
            "state_class": "measurement",
            "value_template": "{{ none if value_json.confidence is none else "
            "(value_json.confidence * 100) | round(0) | int }}",
        },
        f"{camera}_event": {
            "platform": "event",
            "name": f"{label} event",
            "icon": "mdi:emoticon-outline",
            "event_types": ["start", "change", "end"],
            "state_topic": topics.event(camera),
            # Delayed events must not trigger automations: an empty result is ignored.
            "value_template": "{% if not value_json.historical %}{{ {'event_type': value_json.event, "
            f"'emotion': {_emotion('emotion')}, 'previous': {_emotion('previous')}, "
            "'confidence': value_json.confidence, 'track_id': value_json.track_id} | to_json }}{% endif %}",
            "qos": 1,
            # No availability: an event entity that becomes available again repeats its last event.
            # That would trigger automations, too.
        },
        f"{camera}_faces": {
            **seen,
            "name": f"{label} faces",
            "icon": "mdi:account-multiple-outline",
            "state_class": "measurement",
            "value_template": "{{ value_json.face_count }}",
        },
        f"{camera}_connectivity": {
            "platform": "binary_sensor",
            "name": f"{label} connectivity",
            "device_class": "connectivity",
            "entity_category": "diagnostic",
            "state_topic": topics.camera_status(camera),
            "value_template": "{{ 'OFF' if value == 'offline' else 'ON' }}",
            **_available(topics),
        },
        f"{camera}_fps": {
            "platform": "sensor",
            "name": f"{label} frames per second",
            "icon": "mdi:speedometer",
            "state_class": "measurement",
            "unit_of_measurement": "fps",
            "entity_category": "diagnostic",
            "state_topic": topics.health,
            # The newest report may be from before the camera was added.
            "value_template": f"{{{{ (value_json.cameras['{camera}'] | default({{}})).fps | default(none) }}}}",
            "expire_after": health_expiry_s,
            **_available(topics, camera),
        },
        f"{camera}_pause": {
            "platform": "switch",
            "name": f"{label} pause",
            "icon": "mdi:pause",
            "command_topic": topics.command("pause"),
            "payload_on": _pause(camera, on=True),
            "payload_off": _pause(camera, on=False),
            "state_topic": topics.camera_status(camera),
            "value_template": "{{ 'paused' if value == 'paused' else 'running' }}",
            "state_on": "paused",
            "state_off": "running",
            "qos": 1,
            **_available(topics),
        },
    }


def _emotion(field: str) -> str:
    """Returns the template of an emotion. `unknown` is renamed, because for Home Assistant it means no state at all."""
    return f"('{_UNCLEAR}' if value_json.{field} == '{UNKNOWN}' else value_json.{field})"


def _available(topics: Topics, camera: str | None = None) -> _Component:
    """Makes a component available while the device and, if given, the camera are online (a paused one is not)."""
    availability = [{"topic": topics.status}]
    if camera is not None:
        template = "{{ 'online' if value == 'online' else 'offline' }}"
        availability.append({"topic": topics.camera_status(camera), "value_template": template})
    return {"availability": availability, "availability_mode": "all"}


def _pause(camera: str, *, on: bool) -> str:
    return json.dumps({"id": "home-assistant", "camera": camera, "value": on})


def _without_none(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
