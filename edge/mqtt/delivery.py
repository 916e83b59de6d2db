"""The outbox's way through one connection: in order, a few at a time, each forgotten only when acknowledged."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from edge.backoff import Backoff
from edge.mqtt.connection import Connection
from edge.mqtt.packets import Ack
from edge.outbox import Outbox
from edge.outbox_file import Entry
from edge.payloads import mark_historical


@dataclass(slots=True)
class _Refused:
    """A topic on which the broker refused an event.

    Attributes:
        backoff: How long to leave it alone.
        until_s: Until when it is left alone, None if it is not.
        newest: The newest event when that was over: up to it, all of the topic had to wait.
    """

    backoff: Backoff = field(default_factory=Backoff)
    until_s: float | None = None
    newest: int = 0


class Delivery:
    """Sends what waits in the outbox, and marks as historical what had to wait.

    That is what was put there before this connection, and what comes while that is being sent, which may take minutes.

    An event that the broker refuses stays in the outbox, and its topic is left alone for a while, longer with each
    time; then the topic's events are sent again in order, marked as historical. Other topics do not wait. Only what
    would be refused at any time is given up.

    Args:
        outbox: Where the messages are.
        connection: Newly made.
        left_alone: Topics that the broker is known to refuse, and until when to leave each alone.
    """

    def __init__(self, *, outbox: Outbox, connection: Connection, left_alone: Mapping[str, float]) -> None:
        self._outbox = outbox
        self._connection = connection
        self._newest_historical = outbox.last_id
        self._caught_up = outbox.depth == 0
        self._seen = 0
        self._under_way: dict[int, int] = {}
        self._refused = {topic: _Refused(until_s=until_s) for topic, until_s in left_alone.items()}

    def send(self) -> None:
        """Sends as many messages as there is room for."""
        self._return_to_refused()
        if not self._caught_up:
            self._newest_historical = self._outbox.last_id
        left_alone = self._left_alone()
        while room := self._connection.room:
            entries, self._seen = self._outbox.pending(after=self._seen, limit=room, without=left_alone)
            for entry in entries:
                if entry.id not in self._under_way.values():
                    self._send(entry)
            if len(entries) < room:
                self._caught_up = True
                return

    def settle(self, ack: Ack) -> bool:
        """Forgets a message that the broker took, or would not take at any time.

        Returns:
            Whether an event was given up.
        """
        entry_id = self._under_way.pop(ack.number, None)
        if entry_id is None:
            return False
        if ack.refusal is not None and not ack.hopeless:
            self._leave_alone(ack.topic)
            return False
        self._outbox.ack(entry_id)
        if ack.topic in self._refused:
            self._refused[ack.topic].backoff.reset()
        return ack.hopeless

    @property
    def idle(self) -> bool:
        """Whether everything is delivered that the broker takes."""
        if self._under_way:
            return False
        entries, _ = self._outbox.pending(after=self._seen, limit=1, without=self._left_alone())
        if entries:
            self._seen = entries[0].id - 1  # further back where it could not be read before
        return not entries

    def _left_alone(self) -> list[str]:
        """The topics whose events have to wait."""
        return [topic for topic, refused in self._refused.items() if refused.until_s is not None]

    def _send(self, entry: Entry) -> None:
        message = entry.message
        refused = self._refused.get(message.topic)
        if entry.id <= max(self._newest_historical, refused.newest if refused else 0):
            message = replace(message, payload=mark_historical(message.payload))
        self._under_way[self._connection.send(message)] = entry.id

    def _leave_alone(self, topic: str) -> None:
        refused = self._refused.setdefault(topic, _Refused())
        if refused.until_s is None:
            refused.until_s = time.monotonic() + refused.backoff.delay_s()

    def _return_to_refused(self) -> None:
        now_s = time.monotonic()
        for refused in self._refused.values():
            if refused.until_s is not None and refused.until_s <= now_s:
                refused.until_s = None
                refused.newest = self._outbox.last_id
                self._seen = 0  # those under way are passed over
