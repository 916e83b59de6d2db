"""One attempt to connect, to find out whether the settings are right."""

from __future__ import annotations

from dataclasses import replace

from edge.mqtt.connection import CONNECT_TIMEOUT_S, connect
from edge.mqtt.settings import BrokerSettings


def probe_broker(settings: BrokerSettings, *, timeout_s: float = CONNECT_TIMEOUT_S) -> str:
    """Connects once and disconnects, under another client id so as not to push a running agent out.

    Args:
        settings: The broker's.
        timeout_s: For the network connection, and again for the broker's answer.

    Returns:
        The protocol that the broker speaks: `MQTT 5` or `MQTT 3.1.1`.

    Raises:
        BrokerUnreachable: Nothing answers: unknown name, closed port, no route, no answer in time.
        BrokerRefused: The broker says no: TLS, certificate, password, rights.
        ConfigError: A TLS file cannot be used.
    """
    with connect(replace(settings, client_id=f"{settings.client_id}-check"), timeout_s=timeout_s) as connection:
        connection.close()
        return connection.protocol
