"""The newest message of each topic, kept in memory so that a connection can start by saying how things stand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from edge.domain import Message


@dataclass(frozen=True, slots=True)
class _Kept:
    message: Message
    put_s: float

    def at(self, now_s: float) -> Message | None:
        """The message with what is left of its life; None if nothing is, lest stale state look fresh."""
        if self.message.expiry_s is None:
            return self.message
        left_s = self.message.expiry_s - (now_s - self.put_s)
        return replace(self.message, expiry_s=max(1, round(left_s))) if left_s > 0 else None


class States:
    """Topics and the newest message of each. Thread-safe.

    Args:
        rank: Topics of a lower rank are sent first; within a rank, those that were put first.
    """

    def __init__(self, *, rank: Callable[[str], int]) -> None:
        self._rank = rank
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}
        self._unsent: set[str] = set()

    def put(self, message: Message, *, now_s: float) -> None:
        """Replaces the message of its topic. It is a retained one."""
        with self._lock:
            self._kept[message.topic] = _Kept(message, now_s)
            self._unsent.add(message.topic)

    def resend(self) -> None:
        """Makes every message due again, as after a new connection."""
        with self._lock:
            self._unsent.update(self._kept)

    def take(self, limit: int, *, now_s: float, without: Collection[str] = ()) -> list[Message]:
        """The `limit` messages that are due next, but for those on some topics. They count as sent."""
        with self._lock:
            unsent = self._unsent.difference(without)
            due = sorted((topic for topic in self._kept if topic in unsent), key=self._rank)[:limit]
            self._unsent.difference_update(due)
            messages = [self._kept[topic].at(now_s) for topic in due]
            return [message for message in messages if message is not None]

    def delivered(self, topic: str) -> None:
        """Forgets a message that cleared its topic, now that the broker has it: there is nothing to say again."""
        with self._lock:
            kept = self._kept.get(topic)
            if kept is not None and not kept.message.payload:
                del self._kept[topic]
                self._unsent.discard(topic)

    def refused(self, topic: str) -> bool:
        """Makes a message that the broker did not take due again. Returns whether there is one."""
        with self._lock:
            kept = topic in self._kept
            if kept:
                self._unsent.add(topic)
            return kept

    def clears(self, topic: str) -> bool:
        """Whether its message is one that clears it."""
        with self._lock:
            kept = self._kept.get(topic)
            return kept is not None and not kept.message.payload

    def idle(self, *, without: Collection[str] = ()) -> bool:
        """Whether nothing is due, but for some topics."""
        with self._lock:
            return not self._unsent.difference(without)
