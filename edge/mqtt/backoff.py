"""How long to wait before the next attempt to connect."""

from __future__ import annotations

import random


class Backoff:
    """Waiting times that double up to a limit, each shortened at random so that a fleet does not return as one.

    A broker that was away is to be found soon after its return; one that says no would only be annoyed.

    Args:
        first_s: The first waiting time.
        away_limit_s: The longest, while nothing answers.
        refused_limit_s: The longest, while the broker refuses.
    """

    def __init__(self, *, first_s: float = 1.0, away_limit_s: float = 8.0, refused_limit_s: float = 60.0) -> None:
        self._first_s = first_s
        self._away_limit_s = away_limit_s
        self._refused_limit_s = refused_limit_s
        self._next_s = first_s

    def reset(self) -> None:
        """To be called after success."""
        self._next_s = self._first_s

    def delay_s(self, *, refused: bool) -> float:
        """The next waiting time, between half and the whole of what the doubling gives."""
        whole_s = min(self._next_s, self._refused_limit_s if refused else self._away_limit_s)
        self._next_s = 2 * whole_s
        return whole_s * random.uniform(0.5, 1.0)  # noqa: S311  # jitter keeps no secret
