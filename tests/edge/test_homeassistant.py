from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import jinja2

from edge.contract import EMOTIONS
from edge.domain import Message
from edge.homeassistant import Announced, Announcement, announce
from edge.payloads import CommandRequest
from edge.topics import Topics

TOPICS = Topics("emotion", "hall-pi")
CONFIG = "homeassistant/device/emotion_hall-pi/config"


def announced_device(
    cameras: Sequence[str] = ("door",),
    announced: Announced | None = None,
    *,
    topics: Topics = TOPICS,
    updates: bool = False,
) -> Announcement:
    """Returns the announcement of a device with these cameras."""
    return announce(
        topics=topics,
        cameras=cameras,
        agent_version="0.1.0",
        state_expiry_s=90,
        health_expiry_s=180,
        announced=announced or {},
        updates=updates,
        serial_number="1000",
    )


def config(message: Message) -> dict[str, Any]:
    """A discovery message's payload."""
    fields: dict[str, Any] = json.loads(message.payload)
    return fields


def test_the_device_and_its_entities_are_described() -> None:
    """Home Assistant shows one device with emotion, confidence, faces, health, pause switch and model."""
    (message,) = announced_device().messages
    assert (message.topic, message.retain, message.qos, message.expiry_s) == (CONFIG, True, 1, None)
    fields = config(message)
    assert fields["device"]["identifiers"] == ["emotion_hall-pi"]
    assert fields["device"]["serial_number"] == "1000"
    assert "model" not in fields["device"]
    assert fields["origin"]["name"] == "edge-emotion"
    assert {key: component["platform"] for key, component in fields["components"].items()} == {
        "connectivity": "binary_sensor",
        "temperature": "sensor",
        "model": "update",
        "door_emotion": "sensor",
        "door_event": "event",
        "door_confidence": "sensor",
        "door_faces": "sensor",
        "door_connectivity": "binary_sensor",
        "door_fps": "sensor",
        "door_pause": "switch",
    }


def test_the_emotion_is_one_of_a_known_list() -> None:
    """Automations can select from a list of emotions, which includes `none` for no face and `unclear`.

    `unknown` cannot be used, because in Home Assistant it is the state of an entity without a value.
    """
    emotion = config(announced_device().messages[0])["components"]["door_emotion"]
    assert emotion["device_class"] == "enum"
    assert emotion["options"] == [*EMOTIONS, "unclear", "none"]
    assert emotion["expire_after"] == 90
    states = {"sad": "sad", None: "none", "unknown": "unclear"}
    assert {value: render(emotion, {"emotion": value}) for value in states} == states


def test_every_entity_has_a_stable_identity() -> None:
    """Entity customizations survive a restart, and the entities of two cameras are distinct."""
    components = config(announced_device(["front-door", "yard"]).messages[0])["components"]
    unique_ids = [component["unique_id"] for component in components.values()]
    assert len(set(unique_ids)) == len(unique_ids) == 17
    for component in components.values():
        assert re.fullmatch(rf"{component['platform']}\.hall_pi_[a-z0-9_]+", component["default_entity_id"])


def test_no_two_devices_share_an_identity() -> None:
    """Unique ids differ whatever the devices are named, as Home Assistant ignores an entity with a known one."""
    unique_ids = [
        component["unique_id"]
        for device, camera in (("hall", "pi"), ("hall_pi", "door"))
        for message in announced_device([camera], topics=Topics("emotion", device)).messages
        for component in config(message)["components"].values()
    ]
    assert len(set(unique_ids)) == len(unique_ids)


def test_readings_are_available_only_while_device_and_camera_are() -> None:
    """The readings of an offline device or a paused camera are unavailable; the switch stays usable."""
    components = config(announced_device().messages[0])["components"]
    topics = [entry["topic"] for entry in components["door_emotion"]["availability"]]
    assert topics == [TOPICS.status, TOPICS.camera_status("door")]
    assert components["door_emotion"]["availability_mode"] == "all"
    assert [entry["topic"] for entry in components["door_pause"]["availability"]] == [TOPICS.status]
    assert "availability" not in components["connectivity"]


def test_an_event_entity_has_no_availability() -> None:
    """An event entity that becomes available again repeats its last event, which would trigger automations."""
    assert "availability" not in config(announced_device().messages[0])["components"]["door_event"]


def test_a_health_report_without_the_camera_is_not_an_error() -> None:
    """After a camera was added, the retained report may still be an older one."""
    sensor = config(announced_device().messages[0])["components"]["door_fps"]
    assert render(sensor, {"cameras": {"door": {"fps": 9.5}}}) == "9.5"
    assert render(sensor, {"cameras": {"yard": {"fps": 9.5}}}) == "None"


def test_the_pause_switch_sends_valid_commands() -> None:
    """Turning the switch on pauses its camera, and turning it off resumes it."""
    switch = config(announced_device().messages[0])["components"]["door_pause"]
    assert switch["command_topic"] == TOPICS.command("pause")
    for key, value in (("payload_on", True), ("payload_off", False)):
        request = CommandRequest.model_validate_json(switch[key])
        assert (request.camera, request.value) == ("door", value)


def render(component: dict[str, Any], payload: dict[str, Any]) -> str:
    """Renders the value template of a component as Home Assistant does."""
    environment = jinja2.Environment(autoescape=False)  # noqa: S701 - Home Assistant does not escape either
    environment.filters["to_json"] = json.dumps
    return environment.from_string(component["value_template"]).render(value_json=payload)


def test_every_current_event_triggers_automations() -> None:
    """Historical events, sent after an outage, do not: Home Assistant ignores empty results."""
    component = config(announced_device().messages[0])["components"]["door_event"]
    assert component["state_topic"] == TOPICS.event("door")
    event = {"event": "change", "emotion": "happy", "previous": "sad", "confidence": 0.9, "track_id": 3}
    read = json.loads(render(component, {**event, "historical": False}))
    assert read == {"event_type": "change"} | {key: event[key] for key in event if key != "event"}
    start = json.loads(render(component, {**event, "emotion": "unknown", "previous": None, "historical": False}))
    assert (start["emotion"], start["previous"]) == ("unclear", None)
    assert read["event_type"] in component["event_types"]
    assert render(component, {**event, "historical": True}) == ""


def model_versions(*, updates: bool, **payload: Any) -> dict[str, Any]:
    """Returns the state of the update entity after a payload."""
    component = config(announced_device(updates=updates).messages[0])["components"]["model"]
    read: dict[str, Any] = json.loads(render(component, payload))
    return read


def test_a_newer_model_is_shown_as_an_update_that_can_be_installed() -> None:
    """Its button sends a valid command, and the progress, last error and installed version are shown."""
    component = config(announced_device(updates=True).messages[0])["components"]["model"]
    assert (component["state_topic"], component["command_topic"]) == (TOPICS.update, TOPICS.command("update"))
    CommandRequest.model_validate_json(component["payload_install"])
    one, two = ({"name": "ferplus", "version": f"{number}.0.0", "release": number} for number in (1, 2))
    found = {"title": "ferplus", "installed_version": "1", "latest_version": "2"}
    assert model_versions(updates=True, installed=one, latest=two, installing=True, error=None) == {
        **found, "release_summary": "Version 2.0.0", "in_progress": True,
    }  # fmt: skip
    assert model_versions(updates=True, installed=one, latest=two, installing=False, error="no response") == {
        **found, "release_summary": "no response", "in_progress": False,
    }  # fmt: skip


def test_the_latest_model_is_kept_across_a_restart() -> None:
    """Until the server has responded, the latest version is omitted, so that Home Assistant keeps the known one."""
    one = {"name": "ferplus", "version": "1.0.0", "release": 1}
    assert model_versions(updates=True, installed=one, latest=None, installing=False, error=None) == {
        "title": "ferplus", "installed_version": "1", "release_summary": "", "in_progress": False,
    }  # fmt: skip


def test_without_an_update_server_the_model_is_shown_as_up_to_date() -> None:
    """Without an update server there is nothing to install, and no button."""
    component = config(announced_device().messages[0])["components"]["model"]
    assert component["state_topic"] == TOPICS.info
    assert "command_topic" not in component
    assert model_versions(updates=False, model={"name": "ferplus", "version": "1.0.0"}) == {
        "title": "ferplus", "installed_version": "1.0.0", "latest_version": "1.0.0",
    }  # fmt: skip


def test_a_removed_camera_disappears() -> None:
    """After a camera is removed from the configuration, Home Assistant removes its entities, and only those."""
    both = announced_device(["door", "yard"])
    only = announced_device(["door"], both.announced)
    removed = {key for key, component in config(only.messages[0])["components"].items() if len(component) == 1}
    assert removed == {key for key in both.announced[CONFIG] if key.startswith("yard_")}
    assert len(removed) == 7
    later = config(announced_device(["door"], only.announced).messages[0])["components"]
    assert all(len(component) > 1 for component in later.values())
