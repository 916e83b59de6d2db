from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from edge.contract import EMOTIONS, UNKNOWN
from edge.payloads import (
    CommandRequest,
    Emotion,
    ModelInfo,
    Probabilities,
    fraction,
    mark_historical,
    timestamp,
)


def test_the_emotions_are_those_of_the_contract() -> None:
    """Subscribers see the model's labels and `unknown`, with the probabilities in label order."""
    assert get_args(Emotion) == (*EMOTIONS, UNKNOWN)
    assert tuple(Probabilities.model_fields) == EMOTIONS


@pytest.mark.parametrize(
    ("wall_s", "text"), [(0.0, "1970-01-01T00:00:00.000Z"), (1_769_904_000.1239, "2026-02-01T00:00:00.123Z")]
)
def test_times_are_utc_with_milliseconds(wall_s: float, text: str) -> None:
    """All timestamps have the same format."""
    assert timestamp(wall_s) == text


@pytest.mark.parametrize(
    ("value", "expected"), [(0.123456, 0.1235), (-0.2, 0.0), (1.0000001, 1.0), (7.0, 1.0), (float("nan"), 0.0)]
)
def test_fractions_stay_between_0_and_1(value: float, expected: float) -> None:
    """Rounding errors of the model never make a message invalid."""
    assert fraction(value) == expected


def test_a_payload_has_no_undocumented_fields_and_is_immutable() -> None:
    """A field that is not in the schema cannot be sent by mistake, and a payload cannot be modified."""
    fields: dict[str, Any] = {"name": "m", "version": "1.0.0", "sha256": "0" * 64}
    with pytest.raises(ValidationError, match="Extra inputs"):
        ModelInfo(**fields | {"colour": "red"})
    with pytest.raises(ValidationError, match="frozen"):
        ModelInfo(**fields).name = "other"


@pytest.mark.parametrize("request_id", ["a", 7])
def test_a_request_keeps_the_type_of_its_id(request_id: str | int) -> None:
    """A numeric id is returned as a number, not as text."""
    request = CommandRequest.model_validate_json(json.dumps({"id": request_id, "value": 2}))
    assert (request.id, request.value) == (request_id, 2)


@pytest.mark.parametrize("payload", ['{"id": ""}', "{}", '{"id": "1", "value": NaN}', '{"id": "1", "value": []}', "1"])
def test_a_malformed_request_is_rejected(payload: str) -> None:
    """A request without an id, or with a value of a wrong type, is invalid."""
    with pytest.raises(ValidationError):
        CommandRequest.model_validate_json(payload)


def test_marking_as_historical_changes_nothing_else() -> None:
    """Only the field `historical` changes, also in events of an older agent."""
    assert mark_historical(b'{"seq":1,"historical":false,"new":{"a":[0.1]}}') == (
        b'{"seq":1,"historical":true,"new":{"a":[0.1]}}'
    )
    for other in (b"online", b"[1]", b'{"seq":1}', b"\xff", b""):
        assert mark_historical(other) == other
