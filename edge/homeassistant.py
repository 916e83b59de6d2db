"""How the device introduces itself to Home Assistant: one retained message that describes all its entities."""

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
"""What Home Assistant was told of: for each discovery topic, the platform of each component."""

_NAME = "edge-emotion"
_NOBODY = "none"
_UNCLEAR = "unclear"
_Component = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Announcement:
    """What to publish, and what to remember of it until the next time."""

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
    """Describes the device, and takes back components that were announced earlier and are no more.

    Args:
        topics: The device's topics.
        cameras: The cameras' names.
        agent_version: Shown as the device's software.
        state_expiry_s: After how long without news the readings count as unknown.
        health_expiry_s: The same for the figures of the health report.
        announced: What was remembered from the last time.
        updates: Whether the device looks for newer models, and installs one when it is told to.
        discovery_prefix: As it is set in Home Assistant.
        hardware: The machine's model.
        serial_number: The machine's.
    """
    object_id = _object_id(topics)
    topic = f"{discovery_prefix}/device/{object_id}/config"
    components = _device_components(topics, health_expiry_s) | {"model": _model_component(topics, updates=updates)}
    for camera in cameras:
        components |= _camera_components(topics, camera, state_expiry_s, health_expiry_s)
    for key, component in components.items():
        component["unique_id"] = f"{object_id}.{key}"  # no name holds a dot: a device `a_b` is not camera `b` of `a`
        component["default_entity_id"] = f"{component['platform']}.{topics.device}_{key}".replace("-", "_")
    platforms = {key: component["platform"] for key, component in components.items()}
    # A component of which only the platform is told is one that Home Assistant removes.
    gone = {key: {"platform": was} for key, was in announced.get(topic, {}).items() if key not in platforms}
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
        "components": gone | components,
    }
    message = Message(topic, json.dumps(payload, ensure_ascii=False).encode(), qos=1, retain=True)
    return Announcement((message,), {topic: platforms})


def status_topic(discovery_prefix: str) -> str:
    """Where Home Assistant says that it has started."""
    return f"{discovery_prefix}/status"


def probe_topic(topics: Topics, discovery_prefix: str) -> str:
    """Where `edge doctor` tries whether the device may announce itself: Home Assistant knows no such device."""
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
        # Both versions are the installed one: such an agent only tells what it runs.
        template = (
            "{{ {'title': value_json.model.name, 'installed_version': value_json.model.version, "
            "'latest_version': value_json.model.version} | to_json }}"
        )
        return {**component, "state_topic": topics.info, "value_template": template}
    # Releases, for those are what the agent compares: an earlier version that is published anew is an update too.
    # Before the server has answered nothing is said of the newest, so that Home Assistant keeps what it knows of it.
    told = (
        "'title': value_json.installed.name, 'installed_version': value_json.installed.release | string, "
        "'in_progress': value_json.installing, 'release_summary': value_json.error or "
    )
    newest = "'Version ' ~ value_json.latest.version, 'latest_version': value_json.latest.release | string"
    template = (
        f"{{% if value_json.latest %}}{{{{ {{{told}{newest}}} | to_json }}}}"
        f"{{% else %}}{{{{ {{{told}''}} | to_json }}}}{{% endif %}}"
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
            "value_template": f"{{{{ {_told('emotion')} or '{_NOBODY}' }}}}",
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
            # What had to wait is told to those who count, and starts no automation long after.
            "value_template": "{% if not value_json.historical %}{{ {'event_type': value_json.event, "
            f"'emotion': {_told('emotion')}, 'previous': {_told('previous')}, 'confidence': value_json.confidence, "
            "'track_id': value_json.track_id} | to_json }}{% endif %}",
            "qos": 1,
            # Always available: coming back, an event entity shows its last event again, which would start automations.
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
            # A report of before the camera was added may be the newest yet.
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


def _told(field: str) -> str:
    """Template of an emotion in Home Assistant's words, where the state `unknown` is that nothing was heard yet."""
    return f"('{_UNCLEAR}' if value_json.{field} == '{UNKNOWN}' else value_json.{field})"


def _available(topics: Topics, camera: str | None = None) -> _Component:
    """Available while the device is online and, where it matters, the camera too (and not paused)."""
    needed = [{"topic": topics.status}]
    if camera is not None:
        template = "{{ 'online' if value == 'online' else 'offline' }}"
        needed.append({"topic": topics.camera_status(camera), "value_template": template})
    return {"availability": needed, "availability_mode": "all"}


def _pause(camera: str, *, on: bool) -> str:
    return json.dumps({"id": "home-assistant", "camera": camera, "value": on})


def _without_none(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
