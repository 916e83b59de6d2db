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


def introduce(
    cameras: Sequence[str] = ("door",),
    announced: Announced | None = None,
    *,
    topics: Topics = TOPICS,
    updates: bool = False,
) -> Announcement:
    """The device as Home Assistant gets to know it."""
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
    """Home Assistant shows one device with its emotion, confidence, faces, health, pause switch and model."""
    (message,) = introduce().messages
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
    """Automations are built from a list of emotions, with a word for an empty room and one for an unclear face.

    `unknown` is what Home Assistant itself says of an entity that it has heard nothing of.
    """
    emotion = config(introduce().messages[0])["components"]["door_emotion"]
    assert emotion["device_class"] == "enum"
    assert emotion["options"] == [*EMOTIONS, "unclear", "none"]
    assert emotion["expire_after"] == 90
    told = {"sad": "sad", None: "none", "unknown": "unclear"}
    assert {emotion_: understood(emotion, {"emotion": emotion_}) for emotion_ in told} == told


def test_every_entity_has_a_stable_identity() -> None:
    """Names that people give their entities survive a restart, and two cameras do not share any."""
    components = config(introduce(["front-door", "yard"]).messages[0])["components"]
    unique = [component["unique_id"] for component in components.values()]
    assert len(set(unique)) == len(unique) == 17
    for component in components.values():
        assert re.fullmatch(rf"{component['platform']}\.hall_pi_[a-z0-9_]+", component["default_entity_id"])


def test_no_two_devices_share_an_identity() -> None:
    """Whatever they and their cameras are called: Home Assistant leaves out what it knows already."""
    unique = [
        component["unique_id"]
        for device, camera in (("hall", "pi"), ("hall_pi", "door"))
        for message in introduce([camera], topics=Topics("emotion", device)).messages
        for component in config(message)["components"].values()
    ]
    assert len(set(unique)) == len(unique)


def test_readings_are_available_only_while_device_and_camera_are() -> None:
    """A reading of a dead device or a paused camera is shown as unavailable; the switch stays usable."""
    components = config(introduce().messages[0])["components"]
    topics = [entry["topic"] for entry in components["door_emotion"]["availability"]]
    assert topics == [TOPICS.status, TOPICS.camera_status("door")]
    assert components["door_emotion"]["availability_mode"] == "all"
    assert [entry["topic"] for entry in components["door_pause"]["availability"]] == [TOPICS.status]
    assert "availability" not in components["connectivity"]


def test_an_event_does_not_come_again_with_its_camera() -> None:
    """An event entity that becomes available shows its last event anew, which automations take for one of now."""
    assert "availability" not in config(introduce().messages[0])["components"]["door_event"]


def test_a_report_that_knows_nothing_of_a_camera_is_no_fault() -> None:
    """After a camera was added, the report that the broker keeps is of before."""
    sensor = config(introduce().messages[0])["components"]["door_fps"]
    assert understood(sensor, {"cameras": {"door": {"fps": 9.5}}}) == "9.5"
    assert understood(sensor, {"cameras": {"yard": {"fps": 9.5}}}) == "None"


def test_the_pause_switch_sends_commands_that_the_agent_reads() -> None:
    """Pressing the switch pauses that camera, and pressing it again resumes it."""
    switch = config(introduce().messages[0])["components"]["door_pause"]
    assert switch["command_topic"] == TOPICS.command("pause")
    for key, value in (("payload_on", True), ("payload_off", False)):
        request = CommandRequest.model_validate_json(switch[key])
        assert (request.camera, request.value) == ("door", value)


def understood(component: dict[str, Any], told: dict[str, Any]) -> str:
    """What Home Assistant makes of a payload."""
    environment = jinja2.Environment(autoescape=False)  # noqa: S701 - Home Assistant's own does not escape either
    environment.filters["to_json"] = json.dumps
    return environment.from_string(component["value_template"]).render(value_json=told)


def test_every_change_is_an_event_that_starts_automations() -> None:
    """With what it is about. What comes late, after an outage, starts none: an empty event is passed over."""
    component = config(introduce().messages[0])["components"]["door_event"]
    assert component["state_topic"] == TOPICS.event("door")
    told = {"event": "change", "emotion": "happy", "previous": "sad", "confidence": 0.9, "track_id": 3}
    read = json.loads(understood(component, {**told, "historical": False}))
    assert read == {"event_type": "change"} | {key: told[key] for key in told if key != "event"}
    began = json.loads(understood(component, {**told, "emotion": "unknown", "previous": None, "historical": False}))
    assert (began["emotion"], began["previous"]) == ("unclear", None)
    assert read["event_type"] in component["event_types"]
    assert understood(component, {**told, "historical": True}) == ""


def model_versions(*, updates: bool, **told: Any) -> dict[str, Any]:
    """What Home Assistant reads about the model from what the device has told."""
    component = config(introduce(updates=updates).messages[0])["components"]["model"]
    read: dict[str, Any] = json.loads(understood(component, told))
    return read


def test_a_newer_model_shows_as_an_update_that_can_be_installed() -> None:
    """Its button sends a command that the agent reads. That it is being installed shows, and so does what runs."""
    component = config(introduce(updates=True).messages[0])["components"]["model"]
    assert (component["state_topic"], component["command_topic"]) == (TOPICS.update, TOPICS.command("update"))
    CommandRequest.model_validate_json(component["payload_install"])
    one, two = ({"name": "ferplus", "version": f"{number}.0.0", "release": number} for number in (1, 2))
    found = {"title": "ferplus", "installed_version": "1", "latest_version": "2"}
    assert model_versions(updates=True, installed=one, latest=two, installing=True, error=None) == {
        **found, "release_summary": "Version 2.0.0", "in_progress": True,
    }  # fmt: skip
    assert model_versions(updates=True, installed=one, latest=two, installing=False, error="no answer") == {
        **found, "release_summary": "no answer", "in_progress": False,
    }  # fmt: skip


def test_what_is_known_of_a_newer_model_is_kept_over_a_restart() -> None:
    """Until the server has answered, the newest release is not named: Home Assistant would take it back."""
    one = {"name": "ferplus", "version": "1.0.0", "release": 1}
    assert model_versions(updates=True, installed=one, latest=None, installing=False, error=None) == {
        "title": "ferplus", "installed_version": "1", "release_summary": "", "in_progress": False,
    }  # fmt: skip


def test_without_a_server_the_model_is_shown_and_never_outdated() -> None:
    """There is nothing to install then, and no button."""
    component = config(introduce().messages[0])["components"]["model"]
    assert component["state_topic"] == TOPICS.info
    assert "command_topic" not in component
    assert model_versions(updates=False, model={"name": "ferplus", "version": "1.0.0"}) == {
        "title": "ferplus", "installed_version": "1.0.0", "latest_version": "1.0.0",
    }  # fmt: skip


def test_a_removed_camera_disappears() -> None:
    """After a camera is taken out of the configuration, Home Assistant removes its entities, and only those."""
    both = introduce(["door", "yard"])
    only = introduce(["door"], both.announced)
    removed = {key for key, component in config(only.messages[0])["components"].items() if len(component) == 1}
    assert removed == {key for key in both.announced[CONFIG] if key.startswith("yard_")}
    assert len(removed) == 7
    later = config(introduce(["door"], only.announced).messages[0])["components"]
    assert all(len(component) > 1 for component in later.values())
