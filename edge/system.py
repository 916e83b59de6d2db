"""Information about the machine: model, temperature, throttling, memory, and its clocks."""

from __future__ import annotations

import ctypes
import ipaddress
import logging
import os
import time
from pathlib import Path
from typing import Final

from edge.domain import Instant

log = logging.getLogger(__name__)

_THERMAL: Final = Path("/sys/class/thermal/thermal_zone0/temp")
_PLATFORM: Final = Path("/sys/devices/platform")
_DEVICE_TREE: Final = Path("/proc/device-tree")

UNDER_VOLTAGE: Final = "under-voltage"
_THROTTLING_BITS: Final = {0: UNDER_VOLTAGE, 1: "frequency-capped", 2: "throttled", 3: "soft-temperature-limit"}
"""Bits of the Raspberry Pi firmware's get_throttled for the current state; bits 16 and up are those since boot."""

_CLOCK_NOT_SYNCED: Final = 5
"""TIME_ERROR of adjtimex(2): the clock is not synchronized."""


def is_loopback(host: str) -> bool:
    """Returns whether a host name or address refers to this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def temperature_c() -> float | None:
    """Returns the processor temperature in degrees Celsius, or None where it is not available."""
    try:
        return int(_THERMAL.read_text()) / 1000
    except (OSError, ValueError):
        return None


def throttling(*, since_boot: bool = False) -> tuple[str, ...] | None:
    """Returns the reasons why the processor is throttled, or None if the machine is not a Raspberry Pi.

    Args:
        since_boot: Return all reasons since boot instead of the current ones.
    """
    try:
        # On a Raspberry Pi 5 the name of the SoC contains its address: soc@107c000000.
        (path,) = _PLATFORM.glob("soc*/soc*:firmware/get_throttled")
        bits = int(path.read_text(), 16)
    except (OSError, ValueError):
        return None
    if since_boot:
        bits >>= 16
    return tuple(reason for bit, reason in _THROTTLING_BITS.items() if bits & 1 << bit)


def device_tree(name: str) -> str | None:
    """Returns a device tree property of the board, such as `model` or `serial-number`, or None if there is none."""
    try:
        return (_DEVICE_TREE / name).read_text(errors="replace").rstrip("\0") or None
    except OSError:
        return None


def resident_bytes() -> int:
    """Returns the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def available_bytes() -> int:
    """Returns the memory available without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


class Clock:
    """The clocks of the machine. Whether the wall clock is synchronized (by NTP, PTP or GPS) is known to the kernel."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        # struct timex with modes = 0, which is read-only. 208 bytes on 64-bit Linux.
        self._timex = ctypes.create_string_buffer(256)
        if self.is_synchronized() is None:
            log.warning("cannot determine whether the clock is synchronized; assuming that it is not")

    def is_synchronized(self) -> bool | None:
        """Returns whether the clock is synchronized, or None if this process has no permission to query it."""
        ctypes.memset(self._timex, 0, len(self._timex))
        clock_state: int = self._libc.adjtimex(self._timex)
        return None if clock_state == -1 else clock_state != _CLOCK_NOT_SYNCED

    def now(self) -> Instant:
        """Returns the current time. If the state of the wall clock is unknown, it counts as not synchronized."""
        synced = self.is_synchronized() is True  # first, so that a clock set in between is correct but not yet trusted
        return Instant(wall_s=time.time(), mono_s=time.monotonic(), synced=synced)
