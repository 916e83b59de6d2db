"""Retry holdoffs: what the broker rejected is not sent again for a while, longer after each further rejection."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from edge.backoff import Backoff

_MAX_KEYS = 1_000
"""Clients choose the topics of command responses, so the number of keys has to be bounded; the oldest is removed."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(slots=True)
class _Holdoff:
    backoff: Backoff
    until_s: float = float("-inf")


class Holdoffs(Generic[Key]):
    """Retry holdoffs by key, each with a backoff of its own. Not thread-safe.

    A key stays in here after its holdoff has expired, until it is accepted or removed, so that the next holdoff is
    longer.

    Args:
        backoff: Creates the backoff of a new key.
    """

    def __init__(self, backoff: Callable[[], Backoff]) -> None:
        self._backoff = backoff
        self._holdoffs: dict[Key, _Holdoff] = {}

    def start(self, key: Key) -> None:
        """Holds a key back from now on, unless it already is."""
        if key not in self._holdoffs:
            self._holdoffs[key] = _Holdoff(self._backoff())
        if len(self._holdoffs) > _MAX_KEYS:
            del self._holdoffs[next(iter(self._holdoffs))]
        if not self.holds(key):
            holdoff = self._holdoffs[key]
            holdoff.until_s = time.monotonic() + holdoff.backoff.delay_s()

    def remove(self, key: Key) -> None:
        """Ends a key's holdoff and resets its backoff."""
        self._holdoffs.pop(key, None)

    def accepted(self, key: Key) -> None:
        """Resets a key's backoff. A holdoff that is running goes on: a later message with the same key was rejected."""
        if self.holds(key):
            self._holdoffs[key].backoff.reset()
        else:
            self.remove(key)

    def remove_expired(self) -> None:
        """Removes all keys whose holdoff has expired, as accepted."""
        self._holdoffs = {key: holdoff for key, holdoff in self._holdoffs.items() if self.holds(key)}

    def clear(self) -> None:
        """Removes all keys."""
        self._holdoffs.clear()

    def __contains__(self, key: object) -> bool:
        """Whether a key was held back and has not been accepted since."""
        return key in self._holdoffs

    def holds(self, key: Key) -> bool:
        """Whether a key is held back now."""
        holdoff = self._holdoffs.get(key)
        return holdoff is not None and time.monotonic() < holdoff.until_s

    @property
    def held(self) -> list[Key]:
        """The keys that are held back now."""
        return [key for key in self._holdoffs if self.holds(key)]

    @property
    def any_expired(self) -> bool:
        """Whether a key is due for another attempt."""
        return len(self.held) < len(self._holdoffs)
