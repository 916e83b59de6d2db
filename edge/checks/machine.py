"""Checks of the machine: clock, temperature, power, disk and memory. Nothing here keeps the agent from starting."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from edge import system
from edge.checks.finding import Chain, Check, Doubt
from edge.checks.rights import nearest_existing
from edge.config import Config

_HOT_C = 75.0
"""A Raspberry Pi slows down at 80."""
_LITTLE_DISK_BYTES = 200_000_000
"""A full outbox takes about half of that."""
_LITTLE_MEMORY_BYTES = 200_000_000
"""The agent takes less than 150 MB."""

_POWER_REMEDY = "Use the power supply made for this board, and a short cable"
_HEAT_REMEDY = "Give it a heat sink, a fan or shade, or a lower rate of frames"


def machine(config: Config) -> Iterator[Chain]:
    """All of them."""
    yield (Check("clock", _clock),)
    yield (Check("temperature", _temperature),)
    yield (Check("throttling", _throttling),)
    yield (Check("disk", partial(_disk, config.device.state_dir)),)
    yield (Check("memory", _memory),)


def _clock() -> str:
    disciplined = system.Clock().disciplined()
    if disciplined is None:
        raise Doubt(
            "this process may not ask whether anything keeps it right",
            remedy="Allow it the system call clock_adjtime; until then, messages are marked time_synced: false",
        )
    if not disciplined:
        raise Doubt(
            "nothing keeps it right, so messages are marked time_synced: false",
            remedy="Let systemd-timesyncd or chrony reach a time server; `timedatectl` tells more",
        )
    return "synchronised"


def _temperature() -> str:
    celsius = system.temperature_c()
    if celsius is None:
        return "this machine does not tell"
    if celsius >= _HOT_C:
        raise Doubt(f"{celsius:.0f} °C, near the limit from which the processor slows down", remedy=_HEAT_REMEDY)
    return f"{celsius:.0f} °C"


def _throttling() -> str:
    now, before = system.throttling(), system.throttling(since_boot=True)
    if now is None or before is None:
        return "this machine does not tell"
    if reasons := now or before:
        when = "now" if now else "at times since the last start"
        remedy = _POWER_REMEDY if system.UNDER_VOLTAGE in reasons else _HEAT_REMEDY
        raise Doubt(f"the processor is slowed down {when}: {', '.join(reasons)}", remedy=remedy)
    return "none, now or since the last start"


def _disk(folder: Path) -> str:
    existing = nearest_existing(folder)
    free_bytes = shutil.disk_usage(existing).free
    found = f"{free_bytes / 1e6:.0f} MB free at {existing}"
    if free_bytes < _LITTLE_DISK_BYTES:
        raise Doubt(f"{found}, which undelivered events may fill", remedy="Make room, or lower publish.outbox_limit")
    return found


def _memory() -> str:
    available = system.available_bytes()
    found = f"{available / 1e6:.0f} MB available"
    if available < _LITTLE_MEMORY_BYTES:
        raise Doubt(found, remedy="Stop what else runs here; the agent takes up to 150 MB")
    return found
