"""How a command that runs for long hears that it is to end, or to do something else."""

from __future__ import annotations

import signal
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""What a service manager and Ctrl-C send."""


class SignalFlag:
    """Raised when the process gets one of its signals, from now on.

    The handler does nothing else. It may interrupt the main thread anywhere, with any lock in hand, so that even
    `threading.Event.set` could wait for ever in it. Whoever works looks at the flag when it suits.

    Args:
        numbers: Of the signals.
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        self.raised = False
        for number in numbers:
            signal.signal(number, self._raise)

    def _raise(self, _number: int, _frame: FrameType | None) -> None:
        self.raised = True
