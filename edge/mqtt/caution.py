"""What to say carefully: a broker may refuse something by breaking off the connection over it.

With MQTT 3.1.1 it has no other no to a message [MQTT-3.3.5-2], and some brokers say no to a subscription in the same
way. With MQTT 5 some break off after a no or in place of it, and others answer with what that protocol does not have.
Where a connection breaks off right after a no, it does so over the same. Otherwise, after connections that soon broke
off, things are said one at a time, each when the one before it is answered. What alone is unanswered when a connection
breaks off, and again when another does, is what the broker refuses. It is left alone for a while, longer with each
time. Networks break too, and other devices may have this one's client id: what is answered is forgiven at once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from edge.backoff import Backoff
from edge.mqtt.packets import Said
from edge.mqtt.pauses import Pauses

_SOON_S = 10.0
"""A connection that breaks off within this time may do so because of what was said."""
_SUSPICIOUS = 2
"""So many of them in a row call for caution."""
_PAUSE_S = 60.0
_LONGEST_PAUSE_S = 3600.0
"""Each attempt costs a connection, and subscribers see the device go offline."""
_AT_ONCE_S = 2.0
"""Who breaks off within this time of a no does so over the same."""
_MOST_REMEMBERED = 1_000
"""Of what was answered, and of suspects. Answers to commands go to topics that others choose."""


class Caution:
    """Kept from connection to connection, by the publisher's thread."""

    def __init__(self) -> None:
        self._broke_soon = 0
        self._suspects: dict[Said, None] = {}  # the latest last
        backoff = partial(Backoff, first_s=_PAUSE_S, limit_s=_LONGEST_PAUSE_S)
        self._blamed: Pauses[Said] = Pauses(backoff)
        self._blamed_replies: Pauses[Said] = Pauses(backoff)
        self._answered: dict[Said, None] = {}  # the latest last
        self._denied: Said | None = None
        self._denied_s = 0.0
        self._was_mute = False

    def begin(self) -> None:
        """There is a new connection."""
        self._answered.clear()
        self._denied = None

    @property
    def needed(self) -> bool:
        """Whether to say one thing at a time: connections break off, or what was left alone is to be tried again."""
        return self._broke_soon >= _SUSPICIOUS or self._blamed.any_over

    def blames(self, said: Said) -> bool:
        """Whether the broker broke off over it before."""
        return said in self._pauses(said)

    def shuns(self, said: Said) -> bool:
        """Whether to leave it alone."""
        return self._pauses(said).holds(said)

    @property
    def left_alone(self) -> set[str]:
        """The topics not to publish on."""
        return {said.topic for said in self._blamed.held if not said.listening}

    @property
    def explains(self) -> bool:
        """Whether it is known why connections break off."""
        return bool(self._blamed.held or self._blamed_replies.held)

    def denied(self, said: Said) -> None:
        """The broker said no to that, and may break off over it as well."""
        self._denied, self._denied_s = said, time.monotonic()

    def answered(self, said: Said) -> None:
        """The broker did not break off over that."""
        if self._was_mute:  # it answered nothing at all, so that nothing was to blame
            self._forgive()
        _remember(self._answered, said)
        self._pauses(said).forget(said)
        self._suspects.pop(said, None)

    def all_answered(self) -> None:
        """There is nothing more to say but what is left alone."""
        self._broke_soon = 0
        self._blamed.forget_over()

    @property
    def heard(self) -> bool:
        """Whether the broker has answered anything over this connection."""
        return bool(self._answered)

    def broken_off(
        self, unanswered: Sequence[Said], *, careful: bool, held_s: float, unanswering: bool = False
    ) -> Said | None:
        """A connection broke off.

        Args:
            unanswered: What was said over it and the broker had not answered, in order.
            careful: Whether one thing was said at a time.
            held_s: For how long it held.
            unanswering: Whether it was given up, as the broker did not answer.

        Returns:
            What the broker seems to refuse; it is left alone from now on.
        """
        soon = held_s < _SOON_S
        self._broke_soon = self._broke_soon + 1 if soon or careful or unanswering else 0
        self._was_mute = unanswering and not self.heard
        if self._denied is not None and time.monotonic() - self._denied_s < _AT_ONCE_S:
            return self._blame(self._denied)
        never_answered = [said for said in dict.fromkeys(unanswered) if said not in self._answered]
        if not never_answered and soon:
            self._forgive()  # what is said may not be why, and never have been
            self._suspects.clear()
        if len(never_answered) != 1:
            return None
        suspect = never_answered[0]
        if suspect in self._suspects or self.blames(suspect):
            return self._blame(suspect)
        _remember(self._suspects, suspect)
        return None

    def _blame(self, guilty: Said) -> Said:
        self._pauses(guilty).begin(guilty)
        return guilty

    def _forgive(self) -> None:
        self._was_mute = False
        self._blamed.clear()
        self._blamed_replies.clear()

    def _pauses(self, said: Said) -> Pauses[Said]:
        """Those of replies are apart, as a pause that is over does not make them be said again."""
        return self._blamed_replies if said.reply else self._blamed


def _remember(things: dict[Said, None], said: Said) -> None:
    things.pop(said, None)
    things[said] = None
    if len(things) > _MOST_REMEMBERED:
        del things[next(iter(things))]
