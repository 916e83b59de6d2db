"""Exponential backoff with jitter."""

from __future__ import annotations

import math
import random


class Backoff:
    """Delays between retries that double up to a limit, with jitter so that a fleet does not retry all at once.

    Args:
        first_s: The first delay.
        limit_s: The longest delay.
    """

    def __init__(self, *, first_s: float = 1.0, limit_s: float = 60.0) -> None:
        self._first_s = first_s
        self._limit_s = limit_s
        self._next_s = first_s

    def reset(self) -> None:
        """Starts over with the first delay; to be called after a success."""
        self._next_s = self._first_s

    def delay_s(self, *, at_most_s: float = math.inf) -> float:
        """Returns a random delay between half and all of the current one, and doubles that for the next time.

        Args:
            at_most_s: A shorter limit for this delay only; the doubling continues from the limited delay.
        """
        delay_s = min(self._next_s, self._limit_s, at_most_s)
        self._next_s = 2 * delay_s
        return delay_s * random.uniform(0.5, 1.0)  # noqa: S311  # jitter keeps no secret
