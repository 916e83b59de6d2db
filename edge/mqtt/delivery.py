"""The outbox's way through one connection: in order, a few at a time, each forgotten only when acknowledged."""

from __future__ import annotations

from dataclasses import replace

from edge.mqtt.connection import Connection
from edge.mqtt.packets import Ack
from edge.outbox import Outbox
from edge.payloads import mark_historical


class Delivery:
    """Sends what waits in the outbox. What was put there before this connection is marked as historical.

    Args:
        outbox: Where the messages are.
        connection: Newly made.
    """

    def __init__(self, *, outbox: Outbox, connection: Connection) -> None:
        self._outbox = outbox
        self._connection = connection
        self._newest_historical = outbox.last_id
        self._newest_sent = 0
        self._under_way: dict[int, int] = {}

    def send(self) -> None:
        """Sends as many messages as there is room for."""
        room = self._connection.room
        if room == 0:
            return
        for entry in self._outbox.pending(after=self._newest_sent, limit=room):
            message = entry.message
            if entry.id <= self._newest_historical:
                message = replace(message, payload=mark_historical(message.payload))
            self._under_way[self._connection.send(message)] = entry.id
            self._newest_sent = entry.id

    def settle(self, ack: Ack) -> None:
        """Forgets a message that was answered. One that the broker refused too: it would refuse it for ever."""
        entry_id = self._under_way.pop(ack.number, None)
        if entry_id is not None:
            self._outbox.ack(entry_id)

    @property
    def idle(self) -> bool:
        """Whether everything is delivered."""
        return not self._under_way and self._outbox.depth == 0
