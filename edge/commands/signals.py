"""How a command that runs for long hears that it is to end."""

from __future__ import annotations

import signal
from collections.abc import Callable


def on_stop(do: Callable[[], object]) -> None:
    """From now on, calls `do` when the process gets SIGTERM or, as from Ctrl-C, SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: do())
