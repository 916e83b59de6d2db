from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from edge.asyncapi import PAYLOADS, document, json_schema, write
from edge.topics import Topics

DOCS = Path(__file__).parents[2] / "docs"


def test_the_committed_documents_are_up_to_date(tmp_path: Path) -> None:
    """The generated documents in `docs` describe what the agent sends."""
    for generated in write(tmp_path):
        committed = DOCS / generated.relative_to(tmp_path)
        assert committed.read_text() == generated.read_text(), "run: python -m edge.asyncapi docs"


@pytest.mark.parametrize("name", PAYLOADS)
def test_every_published_schema_is_valid(name: str) -> None:
    """Each schema is valid JSON Schema."""
    Draft202012Validator.check_schema(json_schema(PAYLOADS[name]))


@pytest.mark.parametrize("name", sorted(set(PAYLOADS) - {"request"}))
def test_an_older_schema_accepts_a_newer_agent(name: str) -> None:
    """A consumer that validates with an older schema accepts fields that were added later."""
    schema = json_schema(PAYLOADS[name])
    for part in (schema, *schema.get("$defs", {}).values()):
        assert part.get("additionalProperties") is not False
    assert "schema" in schema["required"]


def references(node: Any) -> list[str]:
    """Returns the `$ref`s of a node and of all nodes below."""
    if isinstance(node, list):
        return [found for item in node for found in references(item)]
    if not isinstance(node, dict):
        return []
    own_references = [node["$ref"]] if "$ref" in node else []
    return own_references + [found for item in node.values() for found in references(item)]


def test_every_reference_can_be_resolved() -> None:
    """Code generators can follow all references of the document."""
    root = document()
    for reference in references(root):
        node: Any = root
        for key in reference.removeprefix("#/").split("/"):
            node = node[key]


@pytest.mark.parametrize("camera", ["door"])
def test_the_documented_addresses_match_the_topics(camera: str) -> None:
    """The document and the agent use the same topics."""
    topics = Topics("emotion", "hall")
    addresses = {
        channel["address"].format(prefix="emotion", device="hall", camera=camera, command="pause", group="shop")
        for channel in document()["channels"].values()
    }
    assert addresses == {
        topics.status,
        topics.info,
        topics.health,
        topics.update,
        topics.camera_status(camera),
        topics.emotion(camera),
        topics.event(camera),
        topics.command("pause"),
        topics.response("pause"),
        topics.fleet_command("shop", "pause"),
    }
