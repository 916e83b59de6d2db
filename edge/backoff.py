"""How long to wait before something that failed is tried again."""

from __future__ import annotations

import math
import random


class Backoff:
    """Waiting times that double up to a limit, each shortened at random so that a fleet does not return as one.

    Args:
        first_s: The first waiting time.
        limit_s: The longest.
    """

    def __init__(self, *, first_s: float = 1.0, limit_s: float = 60.0) -> None:
        self._first_s = first_s
        self._limit_s = limit_s
        self._next_s = first_s

    def reset(self) -> None:
        """To be called after success."""
        self._next_s = self._first_s

    def delay_s(self, *, at_most_s: float = math.inf) -> float:
        """The next waiting time, between half and the whole of what the doubling gives.

        Args:
            at_most_s: A limit for this time, where it is to be shorter; the doubling goes on from there.
        """
        whole_s = min(self._next_s, self._limit_s, at_most_s)
        self._next_s = 2 * whole_s
        return whole_s * random.uniform(0.5, 1.0)  # noqa: S311  # jitter keeps no secret
