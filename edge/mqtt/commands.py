"""Requests from the broker and their answers: whatever comes in, an answer goes out, and nothing breaks."""

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
"""Carries a command out and returns what to answer. Raises `UserError` to say why it does not."""

_LONGEST_REQUEST = 4096
_RESPONSE_EXPIRY_S = 60
"""A broker may keep answers for somebody who is away; nobody needs them later, and they may hold a picture."""


class Commands:
    """Answers requests. It raises nothing.

    Args:
        topics: The device's topics.
        handlers: What each command does. A handler is to be done within a second or two: the publisher waits for it.
    """

    def __init__(self, *, topics: Topics, handlers: Mapping[str, CommandHandler]) -> None:
        self._topics = topics
        self._handlers = handlers

    def answer(self, topic: str, payload: bytes, *, wall_s: float, why_not: str | None = None) -> Message:
        """Carries out the request that came on `topic`, unless there is a reason not to, and returns the response."""
        name = topic.rpartition("/")[2]
        try:
            request = _read(payload)
        except _Malformed as malformed:
            return self._response(name, malformed.request_id, wall_s, error=str(malformed))
        if why_not is not None:
            return self._response(name, request.id, wall_s, error=why_not)
        return self._carry_out(name, request, wall_s)

    def _carry_out(self, name: str, request: CommandRequest, wall_s: float) -> Message:
        try:
            return self._response(name, request.id, wall_s, result=self._handler(name)(request))
        except UserError as refusal:
            error = str(refusal)
        except Exception:
            log.exception("the command %s failed", name)
            error = "the agent failed to carry this out; its log says more"
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
            raise UserError(f"no command is called {name}", remedy=f"Commands here: {known}") from None


def without_result(response: Message, *, why: str) -> Message:
    """The same answer with an error in place of what it has to say."""
    answer = CommandResponse.model_validate_json(response.payload)
    return replace(response, payload=answer.model_copy(update={"ok": False, "error": why, "result": None}).encode())


class _Malformed(Exception):  # it is an answer on its way, not an error
    def __init__(self, what: str, request_id: str | int | None = None) -> None:
        super().__init__(what)
        self.request_id = request_id


def _read(payload: bytes) -> CommandRequest:
    if len(payload) > _LONGEST_REQUEST:
        raise _Malformed(f"the request has {len(payload)} bytes; at most {_LONGEST_REQUEST} are read")
    try:
        return CommandRequest.model_validate_json(payload)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{first['loc'][0]}: {first['msg']}" if first["loc"] else first["msg"]
        raise _Malformed(f'{what}. A request looks like {{"id": "1"}}', _salvage_id(payload)) from error


def _salvage_id(payload: bytes) -> str | int | None:
    """The id of a request that is wrong in some other way, if it can be sent back."""
    try:
        request = json.loads(payload)
        found = request.get("id") if isinstance(request, dict) else None
        str(found).encode()  # half of a surrogate pair has no UTF-8
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, str | int) and not isinstance(found, bool) else None
