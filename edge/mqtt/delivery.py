"""Sends the outbox over one connection: in order, within the send quota, deleting only what is acknowledged."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from edge.mqtt.connection import Connection
from edge.mqtt.packets import Ack
from edge.outbox import Outbox
from edge.outbox_file import Entry
from edge.payloads import mark_historical


class Delivery:
    """Sends the events in the outbox, and marks those that had to wait as historical.

    Those are the backlog from before this connection, and what is added while the backlog is being sent, which may take
    minutes. An event that the broker rejects temporarily stays in the outbox, like all events on a topic that is held
    back. When the topic is released, its events are sent in order, marked as historical. Other topics do not wait.

    Args:
        outbox: The events.
        connection: A new connection.
    """

    def __init__(self, *, outbox: Outbox, connection: Connection) -> None:
        self._outbox = outbox
        self._connection = connection
        self._last_historical_id = outbox.last_id
        self._last_held_ids: dict[str, int] = {}  # by topic
        self._held_topics: set[str] = set()
        self._caught_up = outbox.depth == 0
        self._cursor = 0  # the entry id up to which the outbox has been read
        self._in_flight: dict[int, int] = {}  # entry ids by send id

    def send(self, *, exclude: Collection[str] = ()) -> None:
        """Sends as many events as the send quota allows, leaving out those on topics in `exclude`, which are held."""
        for topic in self._held_topics.difference(exclude):
            self._last_held_ids[topic] = self._outbox.last_id
            self._cursor = 0  # entries in flight are skipped below
        self._held_topics = set(exclude)
        if not self._caught_up:
            self._last_historical_id = self._outbox.last_id
        while quota := self._connection.send_quota:
            entries, self._cursor = self._outbox.pending(after=self._cursor, limit=quota, exclude=exclude)
            for entry in entries:
                if entry.id not in self._in_flight.values():
                    self._send(entry)
            if len(entries) < quota:
                self._caught_up = True
                return

    def process_ack(self, ack: Ack) -> bool:
        """Deletes an event from the outbox if it was accepted or permanently rejected.

        Returns:
            Whether the acknowledgement is that of an event.
        """
        entry_id = self._in_flight.pop(ack.send_id, None)
        if entry_id is None:
            return False
        if ack.rejection is None or ack.permanent:
            self._outbox.ack(entry_id)
        else:
            # So that the next `send` reads the event again, even if the topic is not in its `exclude`.
            self._held_topics.add(ack.topic)
        return True

    @property
    def idle(self) -> bool:
        """Whether all events are acknowledged, apart from those on topics that are held."""
        if self._in_flight:
            return False
        entries, _ = self._outbox.pending(after=self._cursor, limit=1, exclude=self._held_topics)
        if entries:
            self._cursor = entries[0].id - 1  # may be further back, where the disk could not be read before
        return not entries

    def _send(self, entry: Entry) -> None:
        message = entry.message
        if entry.id <= max(self._last_historical_id, self._last_held_ids.get(message.topic, 0)):
            message = replace(message, payload=mark_historical(message.payload))
        self._in_flight[self._connection.send(message)] = entry.id
