"""Commands: parses requests, calls their handlers, and always produces a response."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from pydantic import JsonValue, ValidationError

from edge.contract.errors import UserError
from edge.domain import Message
from edge.message import json_message
from edge.payloads import CommandRequest, CommandResponse, timestamp
from edge.topics import Topics

log = logging.getLogger(__name__)

CommandHandler = Callable[[CommandRequest], JsonValue]
"""Carries a command out and returns the result. Raises `UserError` if it cannot."""

_MAX_REQUEST_BYTES = 4096
_RESPONSE_EXPIRY_S = 60
"""A broker may queue responses for a client that is offline; they are useless later, and may contain a picture."""


class Commands:
    """Responds to requests. Never raises.

    Args:
        topics: The device's topics.
        handlers: By command name. A handler should return within a second or two, as the publisher's thread runs it.
    """

    def __init__(self, *, topics: Topics, handlers: Mapping[str, CommandHandler]) -> None:
        self._topics = topics
        self._handlers = handlers

    def respond(self, topic: str, payload: bytes, *, wall_s: float, refusal: str | None = None) -> Message:
        """Carries out a request and returns the response.

        Args:
            topic: The topic of the request.
            payload: The request.
            wall_s: The time for the response's timestamp.
            refusal: If given, the request is not carried out but answered with this error.
        """
        name = topic.rpartition("/")[2]
        try:
            request = _parse(payload)
        except _Malformed as malformed:
            return self._response(name, malformed.request_id, wall_s, error=str(malformed))
        if refusal is not None:
            return self._response(name, request.id, wall_s, error=refusal)
        return self._execute(name, request, wall_s)

    def _execute(self, name: str, request: CommandRequest, wall_s: float) -> Message:
        try:
            return self._response(name, request.id, wall_s, result=self._handler(name)(request))
        except UserError as user_error:
            error = str(user_error)
        except Exception:
            log.exception("the command %s failed", name)
            error = "the command failed; see the agent's log"
        return self._response(name, request.id, wall_s, error=error)

    def _response(
        self,
        name: str,
        request_id: str | int | None,
        wall_s: float,
        *,
        result: JsonValue = None,
        error: str | None = None,
    ) -> Message:
        response = CommandResponse(
            device=self._topics.device,
            command=name,
            id=request_id,
            ts=timestamp(wall_s),
            ok=error is None,
            error=error,
            result=result,
        )
        message = json_message(self._topics.response(name), response, qos=1, expiry_s=_RESPONSE_EXPIRY_S)
        log.info("command %s (%s): %s", name, request_id, error or "done")
        return message

    def _handler(self, name: str) -> CommandHandler:
        try:
            return self._handlers[name]
        except KeyError:
            known = ", ".join(sorted(self._handlers)) or "none"
            raise UserError(f"unknown command {name}", remedy=f"Available commands: {known}") from None


def without_result(response: Message, *, error: str) -> Message:
    """Returns the response with an error in place of its result."""
    payload = CommandResponse.model_validate_json(response.payload)
    return replace(response, payload=payload.model_copy(update={"ok": False, "error": error, "result": None}).encode())


class _Malformed(Exception):  # not an error of the agent: its text becomes the response
    def __init__(self, what: str, request_id: str | int | None = None) -> None:
        super().__init__(what)
        self.request_id = request_id


def _parse(payload: bytes) -> CommandRequest:
    if len(payload) > _MAX_REQUEST_BYTES:
        raise _Malformed(f"the request has {len(payload)} bytes; the limit is {_MAX_REQUEST_BYTES}")
    try:
        return CommandRequest.model_validate_json(payload)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{first['loc'][0]}: {first['msg']}" if first["loc"] else first["msg"]
        raise _Malformed(f'{what}. A request looks like {{"id": "1"}}', _salvage_id(payload)) from error


def _salvage_id(payload: bytes) -> str | int | None:
    """Returns the id of a request that is otherwise invalid, if it can be echoed in the response."""
    try:
        request = json.loads(payload)
        found = request.get("id") if isinstance(request, dict) else None
        str(found).encode()  # fails for a lone surrogate
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, str | int) and not isinstance(found, bool) else None
