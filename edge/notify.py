"""Word to the service manager: ready, alive, reloading, stopping. Says nothing where there is no manager to hear it.

The protocol is sd_notify(3): one datagram of `KEY=value` lines to the socket named in `NOTIFY_SOCKET`.
"""

from __future__ import annotations

import logging
import os
import socket
import time

log = logging.getLogger(__name__)


def ready(text: str) -> None:
    """The agent does its work, after a start or after a reload."""
    _send("READY=1", _status(text))


def status(text: str) -> None:
    """One line for `systemctl status` to show."""
    _send(_status(text))


def alive() -> None:
    """The watchdog may wait another interval. To be called only when work was done, or is known to be waiting."""
    _send("WATCHDOG=1")


def reloading() -> None:
    """The configuration is being read again; `ready` ends it, whichever configuration is then in force."""
    _send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping(text: str) -> None:
    """The agent is on its way out."""
    _send("STOPPING=1", _status(text))


def watchdog_interval_s() -> float | None:
    """How often to call `alive`, in seconds: half of what the watchdog allows. None if no watchdog waits for us."""
    allowed_us = os.environ.get("WATCHDOG_USEC", "")
    meant_for = os.environ.get("WATCHDOG_PID", "")
    if not allowed_us.isdecimal() or int(allowed_us) == 0:
        return None
    if meant_for and meant_for != str(os.getpid()):
        return None
    return int(allowed_us) / 2 / 1_000_000


def _status(text: str) -> str:
    return f"STATUS={' '.join(text.split())}"  # a line break would start another assignment


def _send(*assignments: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # Linux's abstract namespace, written with @ where a NUL cannot be
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to_manager:
            to_manager.connect(address)
            to_manager.send("\n".join(assignments).encode())
    except OSError as error:
        # The manager decides what a missing word means; work does not stop for it.
        log.warning("The service manager at %r was not told %s: %s", address, assignments[0], error)
