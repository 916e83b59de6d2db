"""What was said over one connection and the broker has not answered yet."""

from __future__ import annotations

import time
from dataclasses import dataclass

from edge.mqtt.packets import Said


@dataclass(frozen=True, slots=True)
class Owed:
    """An answer that the broker owes.

    Attributes:
        said: What it is to answer.
        number: What `Connection.send` returned for the message; 0 for a subscription.
        since_s: When it was said, by the machine's monotonic clock.
    """

    said: Said
    number: int
    since_s: float


class Ledger:
    """Kept in the order in which things are said. For one thread.

    Attributes:
        most_messages: How many messages the broker takes before it acknowledges one: its Receive Maximum.
        careful: Whether to say one thing at a time.
    """

    def __init__(self, *, most_messages: int) -> None:
        self.most_messages = most_messages
        self.careful = False
        self._owed: dict[int, Owed] = {}

    def add(self, packet: int, said: Said, *, number: int = 0) -> None:
        """Notes what was said in a packet of this identifier."""
        self._owed[packet] = Owed(said, number, time.monotonic())

    def settle(self, packet: int) -> Owed | None:
        """Strikes out what the broker has answered; None if it owed nothing for that packet."""
        return self._owed.pop(packet, None)

    @property
    def unanswered(self) -> list[Said]:
        """What the broker is to answer."""
        return [owed.said for owed in self._owed.values()]

    @property
    def free(self) -> int:
        """How many more messages may be sent."""
        if self.careful:
            return int(not self._owed)
        return max(0, self.most_messages - sum(not owed.said.listening for owed in self._owed.values()))

    @property
    def oldest_s(self) -> float:
        """For how long the broker has owed an answer to a message, or with care, as all else waits, to anything."""
        owed = (owed for owed in self._owed.values() if self.careful or not owed.said.listening)
        oldest = next(owed, None)
        return time.monotonic() - oldest.since_s if oldest is not None else 0.0
