"""Checks of the machine: clock, temperature, power, disk and memory. None of these prevents the agent from starting."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from edge import system
from edge.checks.check import Chain, Check, CheckWarning
from edge.checks.permissions import nearest_existing
from edge.config import Config

_HOT_C = 75.0
"""A Raspberry Pi throttles its processor at 80 °C."""
_LOW_DISK_BYTES = 200_000_000
"""A full outbox takes about half of this."""
_LOW_MEMORY_BYTES = 200_000_000
"""The agent uses less than 150 MB."""

_POWER_REMEDY = "Use the power supply made for this board, and a short cable"
_HEAT_REMEDY = "Give it a heat sink, a fan or shade, or lower the frame rate"


def machine(config: Config) -> Iterator[Chain]:
    """All checks of the machine."""
    yield (Check("clock", _clock),)
    yield (Check("temperature", _temperature),)
    yield (Check("throttling", _throttling),)
    yield (Check("disk", partial(_disk, config.device.state_dir)),)
    yield (Check("memory", _memory),)


def _clock() -> str:
    synchronized = system.Clock().is_synchronized()
    if synchronized is None:
        raise CheckWarning(
            "this process may not query whether it is synchronized",
            remedy="Allow the system call clock_adjtime; until then, messages are marked time_synced: false",
        )
    if not synchronized:
        raise CheckWarning(
            "not synchronized, so messages are marked time_synced: false",
            remedy="Let systemd-timesyncd or chrony reach a time server; see `timedatectl`",
        )
    return "synchronized"


def _temperature() -> str:
    celsius = system.temperature_c()
    if celsius is None:
        return "not reported by this machine"
    if celsius >= _HOT_C:
        raise CheckWarning(f"{celsius:.0f} °C, near the limit at which the processor is throttled", remedy=_HEAT_REMEDY)
    return f"{celsius:.0f} °C"


def _throttling() -> str:
    now, before = system.throttling(), system.throttling(since_boot=True)
    if now is None or before is None:
        return "not reported by this machine"
    if reasons := now or before:
        when = "is throttled now" if now else "was throttled since the last boot"
        remedy = _POWER_REMEDY if system.UNDER_VOLTAGE in reasons else _HEAT_REMEDY
        raise CheckWarning(f"the processor {when}: {', '.join(reasons)}", remedy=remedy)
    return "none, now or since the last boot"


def _disk(folder: Path) -> str:
    existing = nearest_existing(folder)
    free_bytes = shutil.disk_usage(existing).free
    found = f"{free_bytes / 1e6:.0f} MB free at {existing}"
    if free_bytes < _LOW_DISK_BYTES:
        raise CheckWarning(
            f"{found}, which undelivered events could fill", remedy="Free some space, or lower publish.outbox_limit"
        )
    return found


def _memory() -> str:
    available = system.available_bytes()
    found = f"{available / 1e6:.0f} MB available"
    if available < _LOW_MEMORY_BYTES:
        raise CheckWarning(found, remedy="Stop other programs; the agent needs up to 150 MB")
    return found
