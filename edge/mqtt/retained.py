"""The newest retained message of each topic, kept in memory to be published again over every new connection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from edge.domain import Message


@dataclass(frozen=True, slots=True)
class _Entry:
    message: Message
    put_s: float

    def at(self, now_s: float) -> Message | None:
        """The message with its remaining expiry; None if it has expired, as it would look fresh."""
        if self.message.expiry_s is None:
            return self.message
        left_s = self.message.expiry_s - (now_s - self.put_s)
        return replace(self.message, expiry_s=max(1, round(left_s))) if left_s > 0 else None


class RetainedMessages:
    """The newest message of each topic, and which of them are due to be sent. Thread-safe.

    Args:
        rank: Returns a topic's rank. Lower ranks are sent first; within a rank, in the order of their first `put`.
    """

    def __init__(self, *, rank: Callable[[str], int]) -> None:
        self._rank = rank
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._due: set[str] = set()

    def put(self, message: Message, *, now_s: float) -> None:
        """Replaces the message of its topic, and makes it due."""
        with self._lock:
            self._entries[message.topic] = _Entry(message, now_s)
            self._due.add(message.topic)

    def resend_all(self) -> None:
        """Makes every message due again, as after a new connection."""
        with self._lock:
            self._due.update(self._entries)

    def take_due(self, limit: int, *, now_s: float, exclude: Collection[str] = ()) -> list[Message]:
        """Returns up to `limit` due messages, which count as sent from now on. Topics in `exclude` are skipped."""
        with self._lock:
            allowed = self._due.difference(exclude)
            due = sorted((topic for topic in self._entries if topic in allowed), key=self._rank)[:limit]
            self._due.difference_update(due)
            messages = [self._entries[topic].at(now_s) for topic in due]
            return [message for message in messages if message is not None]

    def acknowledged(self, topic: str) -> None:
        """Forgets the message of a topic if it was an empty one: the topic is cleared, and not to be cleared again."""
        with self._lock:
            entry = self._entries.get(topic)
            if entry is not None and not entry.message.payload:
                del self._entries[topic]
                self._due.discard(topic)

    def rejected(self, topic: str) -> bool:
        """Makes the message of a topic due again. Returns whether there is one."""
        with self._lock:
            found = topic in self._entries
            if found:
                self._due.add(topic)
            return found

    def clears(self, topic: str) -> bool:
        """Whether the message of a topic is an empty one, which makes the broker clear its retained message."""
        with self._lock:
            entry = self._entries.get(topic)
            return entry is not None and not entry.message.payload

    def idle(self, *, exclude: Collection[str] = ()) -> bool:
        """Whether no message is due, apart from those on topics in `exclude`."""
        with self._lock:
            return not self._due.difference(exclude)
