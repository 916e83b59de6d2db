"""Generates the AsyncAPI 3 document and the JSON schemas of the MQTT interface from the payload models.

    python -m edge.asyncapi docs

writes `asyncapi.json` and a JSON schema for each payload into that folder.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from edge.payloads import CameraState, CommandRequest, CommandResponse, Event, Health, Info, Payload, Update

_Json = dict[str, Any]

PAYLOADS: dict[str, type[BaseModel]] = {
    "event": Event,
    "state": CameraState,
    "info": Info,
    "health": Health,
    "update": Update,
    "request": CommandRequest,
    "response": CommandResponse,
}
"""All JSON payloads by short name."""

_PARAMETERS: _Json = {
    "prefix": {"description": "Topic prefix of one or more segments, as configured.", "default": "emotion"},
    "device": {"description": "The device's name, as configured."},
    "camera": {"description": "The camera's name, as configured."},
    "command": {"description": "The name of the command, see docs/commands.md.", "examples": ["pause", "rate"]},
    "group": {"description": "A group of devices, as configured."},
}


@dataclass(frozen=True, slots=True)
class _Channel:
    """One kind of topic.

    Attributes:
        name: Key in the document.
        address: Topic, with its parameters in braces.
        message: Key of the payload in `PAYLOADS`, or `status`.
        action: Whether the agent sends or receives there.
        summary: Description of the channel.
        qos: Quality of service.
        retain: Whether messages are retained.
        expires: Whether messages have an expiry interval (MQTT 5).
    """

    name: str
    address: str
    message: str
    action: Literal["send", "receive"]
    summary: str
    qos: Literal[0, 1] = 1
    retain: bool = False
    expires: bool = False

    @property
    def parameters(self) -> list[str]:
        return [name for name in _PARAMETERS if f"{{{name}}}" in self.address]


_CHANNELS = (
    _Channel("deviceStatus", "{prefix}/{device}/status", "status", "send",
             "Status of the device, `online` or `offline`: birth message, last will, and sent on a clean disconnect.",
             retain=True),
    _Channel("deviceInfo", "{prefix}/{device}/info", "info", "send", "Description of the device.", retain=True),
    _Channel("deviceHealth", "{prefix}/{device}/health", "health", "send", "Health report of the device.",
             qos=0, retain=True, expires=True),
    _Channel("deviceUpdate", "{prefix}/{device}/update", "update", "send",
             "The installed model and the newest one available. Only if an update server is configured.",
             retain=True),
    _Channel("cameraStatus", "{prefix}/{device}/{camera}/status", "status", "send",
             "Status of the camera; valid only while the status of the device is `online`.", retain=True),
    _Channel("cameraEmotion", "{prefix}/{device}/{camera}/emotion", "state", "send",
             "Current state of the camera, also if no face is in view. Sent at most once per `publish.min_interval_s` "
             "(1 s by default).",
             qos=0, retain=True, expires=True),
    _Channel("cameraEvent", "{prefix}/{device}/{camera}/event", "event", "send",
             "Start, change or end of an emotion on a face. Delivered at least once and in order of `session` and "
             "`seq`, also after an outage. An event that the broker rejects because of missing permissions or a quota "
             "is retried, possibly after newer events. An event that the broker would always reject, for exceeding "
             "the maximum packet size, is given up; so are the oldest events of a full queue (`publish.outbox_limit`) "
             "and events damaged on disk. Each is counted in the health report, and a gap in `seq` shows the loss. "
             "Consumers that subscribe to `$share/<group>/{prefix}/+/+/event` share the load: each event is delivered "
             "to one of them."),
    _Channel("command", "{prefix}/{device}/cmd/{command}", "request", "receive",
             "Command to one device. Ignored if retained."),
    _Channel("fleetCommand", "{prefix}/fleet/{group}/cmd/{command}", "request", "receive",
             "Command to all devices of a group. Ignored if retained."),
    _Channel("commandResponse", "{prefix}/{device}/cmd/{command}/response", "response", "send",
             "Response of one device, also sent to the response topic of the request (MQTT 5). If it exceeds the "
             "broker's maximum packet size, an error response is sent instead.", expires=True),
)  # fmt: skip


def document() -> _Json:
    """Returns the AsyncAPI 3.0 document, ready to be written as JSON."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "edge-emotion",
            "version": "1.0.0",
            "description": "Emotions of the faces in view of a camera. Within version 1, fields are only added: ignore "
            "fields that you do not know. When a device or a camera is renamed or removed, the retained messages on "
            "its old topics are cleared by empty ones.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {channel.name: _channel(channel) for channel in _CHANNELS},
        "operations": {f"{channel.action}_{channel.name}": _operation(channel) for channel in _CHANNELS},
        "components": {"messages": _messages(), "schemas": _schemas()},
    }


def write(folder: Path) -> list[Path]:
    """Writes the document and the schemas, and returns their paths."""
    files = {folder / "asyncapi.json": document()}
    for name, model in PAYLOADS.items():
        files[folder / "schema" / f"{name}.json"] = json_schema(model)
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return list(files)


def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Returns the JSON schema (draft 2020-12) of a payload as sent over MQTT."""
    schema = model.model_json_schema(mode=_schema_mode(model))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _channel(channel: _Channel) -> _Json:
    return {
        "address": channel.address,
        "description": channel.summary,
        "messages": {channel.message: {"$ref": f"#/components/messages/{channel.message}"}},
        "parameters": {name: _PARAMETERS[name] for name in channel.parameters},
    }


def _operation(channel: _Channel) -> _Json:
    binding: _Json = {"qos": channel.qos, "retain": channel.retain, "bindingVersion": "0.2.0"}
    operation: _Json = {
        "action": channel.action,
        "channel": {"$ref": f"#/channels/{channel.name}"},
        "summary": channel.summary,
        "bindings": {"mqtt": binding},
    }
    if channel.expires:
        operation["description"] = "Sent with a message expiry interval (MQTT 5)."
    if channel.action == "receive":
        operation["reply"] = {"channel": {"$ref": "#/channels/commandResponse"}}
    return operation


def _messages() -> _Json:
    messages: _Json = {
        name: {
            "name": name,
            "title": model.__name__,
            "summary": (model.__doc__ or "").partition("\n")[0],
            "contentType": "application/json",
            "payload": {"$ref": f"#/components/schemas/{model.__name__}"},
            **_headers(model),
        }
        for name, model in PAYLOADS.items()
    }
    messages["status"] = {
        "name": "status",
        "title": "Status",
        "summary": "Plain text, not JSON.",
        "contentType": "text/plain",
        "payload": {"$ref": "#/components/schemas/Status"},
        "headers": _user_properties(
            session={
                "type": "string",
                "description": "Session number of the agent, the same in birth and will.",
            },
            client={
                "type": "string",
                "description": "Fingerprint of the device's client id; only in the status of a device.",
            },
        ),
    }
    return messages


def _headers(model: type[BaseModel]) -> _Json:
    """Returns the user properties of a message of the agent; a request has none."""
    if not issubclass(model, Payload):
        return {}
    schema_id = model.model_fields["schema_id"].default
    return {"headers": _user_properties(schema={"const": schema_id, "description": "The `schema` of the payload."})}


def _user_properties(**properties: _Json) -> _Json:
    return {"type": "object", "description": "User properties (MQTT 5).", "properties": properties}


def _schema_mode(model: type[BaseModel]) -> Literal["validation", "serialization"]:
    """Returns whether a payload's schema describes what the agent accepts or what it sends."""
    return "validation" if model is CommandRequest else "serialization"


def _schemas() -> _Json:
    models = [(model, _schema_mode(model)) for model in PAYLOADS.values()]
    _, definitions = models_json_schema(models, ref_template="#/components/schemas/{model}")
    schemas: _Json = definitions["$defs"]
    return schemas


if __name__ == "__main__":
    write(Path(sys.argv[1]))
