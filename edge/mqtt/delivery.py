"""The outbox's way through one connection: in order, a few at a time, each forgotten only when acknowledged."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from edge.mqtt.connection import Connection
from edge.mqtt.packets import Ack
from edge.outbox import Outbox
from edge.outbox_file import Entry
from edge.payloads import mark_historical


class Delivery:
    """Sends what waits in the outbox, and marks as historical what had to wait.

    That is what was put there before this connection, and what comes while that is being sent, which may take minutes.
    An event that the broker refuses for the moment stays in the outbox, as do those on topics that are left alone; when
    they are not any more, the topic's events are sent in order, marked as historical. Other topics do not wait.

    Args:
        outbox: Where the messages are.
        connection: Newly made.
    """

    def __init__(self, *, outbox: Outbox, connection: Connection) -> None:
        self._outbox = outbox
        self._connection = connection
        self._newest_historical = outbox.last_id
        self._newest_left_alone: dict[str, int] = {}
        self._left_alone: set[str] = set()
        self._caught_up = outbox.depth == 0
        self._seen = 0
        self._under_way: dict[int, int] = {}

    def send(self, *, without: Collection[str] = ()) -> None:
        """Sends as many messages as there is room for, but for those on topics to leave alone."""
        for topic in self._left_alone.difference(without):
            self._newest_left_alone[topic] = self._outbox.last_id
            self._seen = 0  # those under way are passed over
        self._left_alone = set(without)
        if not self._caught_up:
            self._newest_historical = self._outbox.last_id
        while room := self._connection.room:
            entries, self._seen = self._outbox.pending(after=self._seen, limit=room, without=without)
            for entry in entries:
                if entry.id not in self._under_way.values():
                    self._send(entry)
            if len(entries) < room:
                self._caught_up = True
                return

    def settle(self, ack: Ack) -> bool:
        """Forgets a message that the broker took, or would not take at any time.

        Returns:
            Whether it was about an event.
        """
        entry_id = self._under_way.pop(ack.number, None)
        if entry_id is None:
            return False
        if ack.refusal is None or ack.hopeless:
            self._outbox.ack(entry_id)
        else:
            self._left_alone.add(ack.topic)  # at least until the next call of `send`, which finds it again
        return True

    @property
    def idle(self) -> bool:
        """Whether everything is delivered but on topics that are left alone."""
        if self._under_way:
            return False
        entries, _ = self._outbox.pending(after=self._seen, limit=1, without=self._left_alone)
        if entries:
            self._seen = entries[0].id - 1  # further back where it could not be read before
        return not entries

    def _send(self, entry: Entry) -> None:
        message = entry.message
        if entry.id <= max(self._newest_historical, self._newest_left_alone.get(message.topic, 0)):
            message = replace(message, payload=mark_historical(message.payload))
        self._under_way[self._connection.send(message)] = entry.id
