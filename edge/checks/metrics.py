"""Check of the metrics port, if one is configured."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from edge.checks.check import Chain, Check, CheckWarning
from edge.config import Config
from edge.state import in_use


def metrics(config: Config) -> Iterator[Chain]:
    """Checks that the agent can serve its metrics on the configured address and port."""
    if config.metrics.port is not None:
        yield (Check("metrics port", partial(_port, config, config.metrics.port)),)


def _port(config: Config, port: int) -> str:
    from edge.metrics import AddressUnavailable, check_listening  # imported only if needed: it costs time and memory

    address = f"http://{config.metrics.host}:{port}/metrics"
    if in_use(config.device.state_dir):
        return f"{address}, served by the agent running here"
    try:
        check_listening(host=config.metrics.host, port=port)
    except AddressUnavailable as error:
        raise CheckWarning(f"{error.what}; the agent waits for it", where=error.where, remedy=error.remedy) from error
    return f"{address} is free"
