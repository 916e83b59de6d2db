"""What the machine says of itself: model, temperature, throttling, memory, and the time and whether to trust it."""

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
"""Bits of the Raspberry Pi firmware's get_throttled that are in force now; from bit 16 on, those that ever were."""

_CLOCK_NOT_SYNCED: Final = 5
"""TIME_ERROR of adjtimex(2): nothing disciplines the clock."""


def is_loopback(host: str) -> bool:
    """Whether a host's name or address means this machine itself."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def temperature_c() -> float | None:
    """The processor's temperature in degrees Celsius, or None where the machine does not tell."""
    try:
        return int(_THERMAL.read_text()) / 1000
    except (OSError, ValueError):
        return None


def throttling(*, since_boot: bool = False) -> tuple[str, ...] | None:
    """Why the processor runs slower than it could, or None where the machine is no Raspberry Pi.

    Args:
        since_boot: Ask why it ever did since the machine was started, not why it does now.
    """
    try:
        # The SoC has its address in its name on a Raspberry Pi 5: soc@107c000000.
        (told,) = _PLATFORM.glob("soc*/soc*:firmware/get_throttled")
        bits = int(told.read_text(), 16)
    except (OSError, ValueError):
        return None
    if since_boot:
        bits >>= 16
    return tuple(reason for bit, reason in _THROTTLING_BITS.items() if bits & 1 << bit)


def device_tree(name: str) -> str | None:
    """What the firmware says of the board, such as its `model` or `serial-number`, or None where it says nothing."""
    try:
        return (_DEVICE_TREE / name).read_text(errors="replace").rstrip("\0") or None
    except OSError:
        return None


def resident_bytes() -> int:
    """Memory that the process occupies now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def available_bytes() -> int:
    """Memory that a program could still get without anything being swapped out."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


class Clock:
    """The machine's clocks. The kernel knows whether something (NTP, PTP, GPS) keeps the wall clock right."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        # struct timex with modes = 0: a question that changes nothing. 208 bytes on 64-bit Linux.
        self._timex = ctypes.create_string_buffer(256)
        if self.disciplined() is None:
            log.warning("the clock cannot be asked whether it is synchronised: it counts as one that is not")

    def disciplined(self) -> bool | None:
        """Whether something keeps the clock right, or None where this process may not ask."""
        ctypes.memset(self._timex, 0, len(self._timex))
        answer: int = self._libc.adjtimex(self._timex)
        return None if answer == -1 else answer != _CLOCK_NOT_SYNCED

    def now(self) -> Instant:
        """This moment. A wall clock of which nothing is known cannot be trusted."""
        synced = self.disciplined() is True  # asked first: a clock that is set meanwhile is then right and not trusted
        return Instant(wall_s=time.time(), mono_s=time.monotonic(), synced=synced)
