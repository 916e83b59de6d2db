"""Lets any thread wake the one that waits for the network."""

from __future__ import annotations

import contextlib
import socket


class Waker:
    """A self-pipe: register it with a selector, and call `wake` from any thread to make the selector return."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.settimeout(0)
        self._writer.settimeout(0)

    def wake(self) -> None:
        """Wakes the waiting thread, or makes its next wait return at once."""
        with contextlib.suppress(OSError):  # the buffer is full, so it wakes anyway; or the waker is closed
            self._writer.send(b"!")

    def clear(self) -> None:
        """Discards all wake-ups so far."""
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(4096)

    def fileno(self) -> int:
        """The descriptor that a selector watches."""
        return self._reader.fileno()

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
