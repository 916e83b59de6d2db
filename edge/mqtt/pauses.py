"""What the broker does not take for the moment: each thing is left alone for a while, longer with each time."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from edge.backoff import Backoff

_MOST = 1_000
"""Answers to commands go to topics that others choose."""

Thing = TypeVar("Thing", bound=Hashable)


@dataclass(slots=True)
class _Pause:
    backoff: Backoff
    until_s: float = float("-inf")


class Pauses(Generic[Thing]):
    """Pauses of things, each with waiting times of its own. For one thread.

    Args:
        backoff: Makes those of one thing.
    """

    def __init__(self, backoff: Callable[[], Backoff]) -> None:
        self._backoff = backoff
        self._pauses: dict[Thing, _Pause] = {}

    def begin(self, thing: Thing) -> None:
        """Leaves something alone from now on, if it is not already."""
        if thing not in self._pauses:
            self._pauses[thing] = _Pause(self._backoff())
        if len(self._pauses) > _MOST:
            del self._pauses[next(iter(self._pauses))]
        if not self.holds(thing):
            pause = self._pauses[thing]
            pause.until_s = time.monotonic() + pause.backoff.delay_s()

    def forget(self, thing: Thing) -> None:
        """It is left alone no more."""
        self._pauses.pop(thing, None)

    def taken(self, thing: Thing) -> None:
        """Makes the next pause short again. One that has begun goes on: another of the same kind was refused."""
        if self.holds(thing):
            self._pauses[thing].backoff.reset()
        else:
            self.forget(thing)

    def forget_over(self) -> None:
        """All of which the pause is over count as taken."""
        self._pauses = {thing: pause for thing, pause in self._pauses.items() if self.holds(thing)}

    def clear(self) -> None:
        """Forgets everything."""
        self._pauses.clear()

    def __contains__(self, thing: object) -> bool:
        """Whether it was left alone, and has not been taken since."""
        return thing in self._pauses

    def holds(self, thing: Thing) -> bool:
        """Whether to leave it alone now."""
        pause = self._pauses.get(thing)
        return pause is not None and time.monotonic() < pause.until_s

    @property
    def held(self) -> list[Thing]:
        """What to leave alone now."""
        return [thing for thing in self._pauses if self.holds(thing)]

    @property
    def any_over(self) -> bool:
        """Whether something is to be tried again."""
        return len(self.held) < len(self._pauses)
