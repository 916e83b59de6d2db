"""Notifications to systemd: ready, watchdog, status, reloading, stopping. No-ops without a service manager.

The protocol is sd_notify(3): one datagram of `KEY=value` lines to the socket named in `NOTIFY_SOCKET`.
"""

from __future__ import annotations

import logging
import os
import socket
import time

log = logging.getLogger(__name__)


def ready(text: str) -> None:
    """Reports that the agent is running, after a start or a reload."""
    _send("READY=1", _status(text))


def status(text: str) -> None:
    """Sets the status line that `systemctl status` shows."""
    _send(_status(text))


def ping_watchdog() -> None:
    """Restarts the watchdog timer. To be called only while the agent is known to make progress or to be idle."""
    _send("WATCHDOG=1")


def reloading() -> None:
    """Reports that the configuration is being reloaded. `ready` ends the reload, whether or not it succeeded."""
    _send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping(text: str) -> None:
    """Reports that the agent is shutting down."""
    _send("STOPPING=1", _status(text))


def watchdog_interval_s() -> float | None:
    """Returns how often to call `ping_watchdog`, in seconds: half the timeout. None without a watchdog."""
    allowed_us = os.environ.get("WATCHDOG_USEC", "")
    watched_pid = os.environ.get("WATCHDOG_PID", "")
    if not allowed_us.isdecimal() or int(allowed_us) == 0:
        return None
    if watched_pid and watched_pid != str(os.getpid()):
        return None
    return int(allowed_us) / 2 / 1_000_000


def _status(text: str) -> str:
    return f"STATUS={' '.join(text.split())}"  # a line break would start another assignment


def _send(*assignments: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # abstract socket: @ stands for the leading NUL byte
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to_manager:
            to_manager.connect(address)
            to_manager.send("\n".join(assignments).encode())
    except OSError as error:
        # How to handle a missing notification is up to the manager; the agent keeps running.
        log.warning("cannot notify the service manager at %r of %s: %s", address, assignments[0], error)
