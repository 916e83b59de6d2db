"""What to say carefully: a broker that speaks MQTT 3.1.1 may refuse by hanging up, without a word.

It has no other no to a message [MQTT-3.3.5-2], and some brokers say no to a subscription in the same way. After
connections that soon broke off, things are said one at a time, each when the one before it is answered. What is
unanswered when that breaks off twice in a row is what the broker refuses, and is left alone for a while, longer with
each time. Networks break too, and other devices may have this one's client id: what is answered is forgiven at once.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from edge.backoff import Backoff
from edge.mqtt.packets import Said

_SOON_S = 10.0
"""A connection that breaks off within this time may do so because of what was said."""
_SUSPICIOUS = 2
"""So many of them in a row call for caution."""
_PAUSE_S = 60.0
_LONGEST_PAUSE_S = 3600.0
"""Each attempt costs a connection, and subscribers see the device go offline."""


def _pauses() -> Backoff:
    return Backoff(first_s=_PAUSE_S, limit_s=_LONGEST_PAUSE_S)


@dataclass(slots=True)
class _Blamed:
    """Something upon which the broker hung up, left alone until a time; then it is tried again."""

    backoff: Backoff = field(default_factory=_pauses)
    until_s: float = 0.0


class Caution:
    """Kept from connection to connection, by the publisher's thread."""

    def __init__(self) -> None:
        self._broke_soon = 0
        self._suspect: Said | None = None
        self._blamed: dict[Said, _Blamed] = {}
        self._answered: set[Said] = set()

    def begin(self) -> None:
        """There is a new connection."""
        self._answered.clear()

    @property
    def needed(self) -> bool:
        """Whether to say one thing at a time: connections break off, or what was left alone is to be tried again."""
        now_s = time.monotonic()
        return self._broke_soon >= _SUSPICIOUS or any(blamed.until_s <= now_s for blamed in self._blamed.values())

    def blames(self, said: Said) -> bool:
        """Whether the broker hung up upon it before."""
        return said in self._blamed

    def shuns(self, said: Said) -> bool:
        """Whether to leave it alone."""
        return said in self._blamed and time.monotonic() < self._blamed[said].until_s

    @property
    def left_alone(self) -> dict[str, float]:
        """The topics not to publish on, and until when."""
        return {
            said.topic: self._blamed[said].until_s for said in self._blamed if not said.listening and self.shuns(said)
        }

    def answered(self, said: Said) -> None:
        """The broker did not hang up upon that."""
        self._answered.add(said)
        self._blamed.pop(said, None)

    def all_answered(self) -> None:
        """There is nothing more to say but what is left alone."""
        self._broke_soon = 0
        self._suspect = None
        self._blamed = {said: blamed for said, blamed in self._blamed.items() if self.shuns(said)}

    def broken_off(self, unanswered: Said | None, *, careful: bool, held_s: float) -> Said | None:
        """A connection broke off without a word.

        Args:
            unanswered: What was said over it first, of all that the broker had not answered.
            careful: Whether one thing was said at a time.
            held_s: For how long it held.

        Returns:
            What the broker seems to refuse; it is left alone from now on.
        """
        soon = held_s < _SOON_S
        self._broke_soon = self._broke_soon + 1 if soon or careful else 0
        innocent = unanswered is None or unanswered in self._answered
        if innocent and soon:
            self._blamed.clear()  # what is said may not be why, and never have been
        suspect = unanswered if careful and not innocent else None
        guilty = suspect is not None and (suspect == self._suspect or suspect in self._blamed)
        self._suspect = suspect
        if suspect is None or not guilty:
            return None
        blamed = self._blamed.setdefault(suspect, _Blamed())
        blamed.until_s = time.monotonic() + blamed.backoff.delay_s()
        return suspect
