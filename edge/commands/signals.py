"""Signal handling for long-running commands."""

from __future__ import annotations

import signal
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""The signals sent by a service manager and by Ctrl-C."""


class SignalFlag:
    """A flag that is set when the process receives one of the given signals.

    The handler only sets the flag: it may interrupt the main thread anywhere, even while that holds a lock, so that
    even `threading.Event.set` could deadlock. The program polls the flag.

    Args:
        numbers: The signal numbers.
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        self.raised = False
        for number in numbers:
            signal.signal(number, self._raise)

    def _raise(self, _number: int, _frame: FrameType | None) -> None:
        self.raised = True
