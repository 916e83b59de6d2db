"""A whole Home Assistant as a process; its own Python runs this file, which so imports nothing of the project.

    python home_assistant_host.py FOLDER

It writes what becomes of each entity to its output, a JSON object a line, and its log to standard error. Each line of
its input is a call of a service: `{"domain": ..., "service": ..., "data": {...}}`. It stops when its input ends.
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
    """Runs it until the input ends."""
    hass: HomeAssistant = await async_setup_hass(RuntimeConfig(config_dir=folder, skip_pip=False, log_no_color=True))
    hass.bus.async_listen("state_changed", callback(_tell_change))
    await hass.async_start()
    for state in hass.states.async_all():
        _tell(state.entity_id, state)
    _say({"started": True})
    while line := await asyncio.to_thread(sys.stdin.readline):
        call = json.loads(line)
        await hass.services.async_call(call["domain"], call["service"], call["data"], blocking=True)
    await hass.async_stop()


def _tell_change(event: Event[Any]) -> None:
    _tell(event.data["entity_id"], event.data["new_state"])


def _tell(entity: str, state: State | None) -> None:
    """None for `state` is that the entity was removed."""
    told = {} if state is None else {"state": state.state, "attributes": dict(state.attributes)}
    _say({"entity": entity, **told})


def _say(fields: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(fields, default=str) + "\n")
    sys.stdout.flush()


asyncio.run(main(sys.argv[1]))
