"""The published description of the MQTT interface: an AsyncAPI 3 document made from the payload models.

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
"""Every JSON payload by its short name."""

_PARAMETERS: _Json = {
    "prefix": {"description": "One or more segments, as configured.", "default": "emotion"},
    "device": {"description": "The device's name, as configured."},
    "camera": {"description": "The camera's name, as configured."},
    "command": {"description": "What is to be done; docs/commands.md lists it.", "examples": ["pause", "rate"]},
    "group": {"description": "A group of devices, as configured."},
}


@dataclass(frozen=True, slots=True)
class _Channel:
    """One kind of topic.

    Attributes:
        name: Key in the document.
        address: The topic, with its parameters in braces.
        message: Key of the payload in `PAYLOADS`, or `status`.
        action: What the agent does there.
        summary: For people.
        qos, retain: How the message is sent.
        expires: Whether the broker forgets it after a while (MQTT 5).
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
             "Whether the device is there, `online` or `offline`: birth, last will, and goodbye.", retain=True),
    _Channel("deviceInfo", "{prefix}/{device}/info", "info", "send", "What the device is.", retain=True),
    _Channel("deviceHealth", "{prefix}/{device}/health", "health", "send", "How the device fares.",
             qos=0, retain=True, expires=True),
    _Channel("deviceUpdate", "{prefix}/{device}/update", "update", "send",
             "Which model is installed, and whether there is a newer one. Only where an update server is configured.",
             retain=True),
    _Channel("cameraStatus", "{prefix}/{device}/{camera}/status", "status", "send",
             "Whether the camera works; it holds while the device's own status is `online`.", retain=True),
    _Channel("cameraEmotion", "{prefix}/{device}/{camera}/emotion", "state", "send",
             "What the camera sees now; nobody is said too. At most once in `publish.min_interval_s`: a second, unless "
             "configured.",
             qos=0, retain=True, expires=True),
    _Channel("cameraEvent", "{prefix}/{device}/{camera}/event", "event", "send",
             "An emotion that began, changed or ended on a face. Delivered at least once and in order, also after an "
             "outage; ordered by session and seq. One that the broker refuses for want of a right or a quota is sent "
             "again, perhaps after newer ones; one that it would refuse at any time, as it is larger than the broker's "
             "maximum packet size, is given up and counted in the health report, and so are the oldest of a full queue "
             "(`publish.outbox_limit`) and those that a failing disk has damaged: a gap in seq is a loss. Ingesters "
             "that subscribe to `$share/<group>/{prefix}/+/+/event` share the work: each event goes to one of them."),
    _Channel("command", "{prefix}/{device}/cmd/{command}", "request", "receive",
             "Asks one device to do something. Ignored if retained."),
    _Channel("fleetCommand", "{prefix}/fleet/{group}/cmd/{command}", "request", "receive",
             "Asks all devices of a group. Ignored if retained."),
    _Channel("commandResponse", "{prefix}/{device}/cmd/{command}/response", "response", "send",
             "The answer of one device, also on the response topic of the request (MQTT 5). Where the "
             "broker's maximum packet size is too small for it, an error takes its place.", expires=True),
)  # fmt: skip


def document() -> _Json:
    """The AsyncAPI 3.0 document, ready to be written as JSON."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "edge-emotion",
            "version": "1.0.0",
            "description": "Which emotions the faces in front of a small camera show. Version 1 grows only by "
            "addition: ignore fields that you do not know. When a device or a camera gets another name or is removed, "
            "the retained messages on its old topics are cleared, each by an empty one.",
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
    """The JSON schema (draft 2020-12) of a payload as it appears on the wire."""
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
        operation["description"] = "Sent with a message expiry (MQTT 5)."
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
        "summary": "One word, not JSON.",
        "contentType": "text/plain",
        "payload": {"$ref": "#/components/schemas/Status"},
        "headers": _user_properties(
            session={
                "type": "string",
                "description": "Number of the agent's start, in birth and will alike.",
            },
            client={
                "type": "string",
                "description": "Fingerprint of the device's client id; not of cameras.",
            },
        ),
    }
    return messages


def _headers(model: type[BaseModel]) -> _Json:
    """What an agent's message says beside its payload; a request, which is not an agent's, says nothing."""
    if not issubclass(model, Payload):
        return {}
    schema_id = model.model_fields["schema_id"].default
    return {"headers": _user_properties(schema={"const": schema_id, "description": "That of the payload."})}


def _user_properties(**properties: _Json) -> _Json:
    return {"type": "object", "description": "User properties (MQTT 5).", "properties": properties}


def _schema_mode(model: type[BaseModel]) -> Literal["validation", "serialization"]:
    """Whether a payload's schema tells what the agent accepts or what it sends."""
    return "validation" if model is CommandRequest else "serialization"


def _schemas() -> _Json:
    models = [(model, _schema_mode(model)) for model in PAYLOADS.values()]
    _, definitions = models_json_schema(models, ref_template="#/components/schemas/{model}")
    schemas: _Json = definitions["$defs"]
    return schemas


if __name__ == "__main__":
    write(Path(sys.argv[1]))
