"""Runs a complete Home Assistant in its own Python, which is why this file imports nothing from the project.

    python home_assistant_host.py FOLDER

It writes each state change to standard output, one JSON object per line, and its log to standard error. Each line of
standard input is a service call: `{"domain": ..., "service": ..., "data": {...}}`. It stops at the end of its input.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from homeassistant.bootstrap import async_setup_hass
from homeassistant.core import Event, HomeAssistant, State, callback
from homeassistant.runner import RuntimeConfig


async def main(folder: str) -> None:
    """Runs Home Assistant until the input ends."""
    hass: HomeAssistant = await async_setup_hass(RuntimeConfig(config_dir=folder, skip_pip=False, log_no_color=True))
    hass.bus.async_listen("state_changed", callback(_on_state_changed))
    await hass.async_start()
    for state in hass.states.async_all():
        _write_state(state.entity_id, state)
    _write_line({"started": True})
    while line := await asyncio.to_thread(sys.stdin.readline):
        call = json.loads(line)
        await hass.services.async_call(call["domain"], call["service"], call["data"], blocking=True)
    await hass.async_stop()


def _on_state_changed(event: Event[Any]) -> None:
    _write_state(event.data["entity_id"], event.data["new_state"])


def _write_state(entity: str, state: State | None) -> None:
    """Writes the state of an entity; None if it was removed."""
    fields = {} if state is None else {"state": state.state, "attributes": dict(state.attributes)}
    _write_line({"entity": entity, **fields})


def _write_line(fields: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(fields, default=str) + "\n")
    sys.stdout.flush()


asyncio.run(main(sys.argv[1]))
