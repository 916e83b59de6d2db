"""Check of the port for metrics, where one is configured."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from edge.checks.finding import Chain, Check, Doubt
from edge.config import Config
from edge.state import in_use


def metrics(config: Config) -> Iterator[Chain]:
    """Whether the agent can serve its metrics where the configuration says."""
    if config.metrics.port is not None:
        yield (Check("metrics port", partial(_port, config, config.metrics.port)),)


def _port(config: Config, port: int) -> str:
    from edge.metrics import AddressAbsent, try_to_serve  # costs time and memory, and few ask for it

    address = f"http://{config.metrics.host}:{port}/metrics"
    if in_use(config.device.state_dir):
        return f"{address}, of the agent that is running here"
    try:
        try_to_serve(host=config.metrics.host, port=port)
    except AddressAbsent as error:
        raise Doubt(f"{error.what}; the agent waits for it", where=error.where, remedy=error.remedy) from error
    return f"{address} is free"
