"""A bell that any thread can ring to wake the one that waits for the network."""

from __future__ import annotations

import contextlib
import socket


class Bell:
    """Rung by any thread, heard by a selector that it is registered with."""

    def __init__(self) -> None:
        self._inside, self._outside = socket.socketpair()
        self._inside.settimeout(0)
        self._outside.settimeout(0)

    def ring(self) -> None:
        """Wakes whoever waits, or who will wait next."""
        with contextlib.suppress(OSError):  # rung so often that once more makes no difference, or closed
            self._outside.send(b"!")

    def silence(self) -> None:
        """Forgets all rings so far."""
        with contextlib.suppress(BlockingIOError):
            self._inside.recv(4096)

    def fileno(self) -> int:
        """What a selector waits for."""
        return self._inside.fileno()

    def close(self) -> None:
        self._inside.close()
        self._outside.close()
