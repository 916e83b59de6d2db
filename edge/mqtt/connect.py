"""Establishes connections: tries MQTT 5 first, and falls back to MQTT 3.1.1."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from paho.mqtt.enums import MQTTProtocolVersion

from edge.client_id import new_client_id
from edge.contract.errors import UserError
from edge.domain import Message
from edge.errors import BrokerRefused
from edge.mqtt import faults
from edge.mqtt.connection import Connection
from edge.mqtt.settings import BrokerSettings
from edge.mqtt.waker import Waker

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0


def connect(
    settings: BrokerSettings,
    *,
    will: Message | None = None,
    waker: Waker | None = None,
    resume: bool = False,
    mqtt5: bool = True,
    cancelled: Callable[[], bool] = lambda: False,
    timeout_s: float,
) -> Connection:
    """Connects with MQTT 5, or with 3.1.1 if the broker does not support MQTT 5.

    MQTT 5 is tried first, so that a broker's update is noticed. A broker that drops or ignores an MQTT 5 connection
    may do so only while it starts; the connection with 3.1.1 is then a provisional one.

    Args:
        settings: The broker settings.
        will: Published by the broker when the connection breaks.
        waker: Interrupts `Connection.wait`.
        resume: Whether to resume a session of this client id that the broker still has (MQTT 5); with a will, always.
        mqtt5: Whether to try MQTT 5, which costs `timeout_s` with a broker that ignores it.
        cancelled: Called when the TCP connection is established. If it returns True, no CONNECT is sent: that would
            make the broker disconnect another client with the same client id.
        timeout_s: For the TCP and TLS connection, and again for the broker's CONNACK.

    Raises:
        ConnectCancelled: `cancelled` returned True.
        BrokerUnreachable: There is no response.
        BrokerRefused: The broker refused the connection.
        ConfigError: A TLS file cannot be used.
    """
    open_connection = partial(
        Connection, settings, will=will, waker=waker, resume=resume, cancelled=cancelled, timeout_s=timeout_s
    )
    fallback_reason = None
    if mqtt5:
        try:
            return open_connection(MQTTProtocolVersion.MQTTv5)
        except faults.Mqtt5Unsupported as error:
            log.debug("%s: trying MQTT 3.1.1 (%s)", settings.address, error)
            fallback_reason = error
    return open_connection(MQTTProtocolVersion.MQTTv311, fallback_reason=fallback_reason)


def supports_mqtt5(settings: BrokerSettings, *, timeout_s: float) -> bool:
    """Returns whether the broker supports MQTT 5, by a test connection under another client id."""
    try:
        with Connection(
            replace(settings, client_id=new_client_id()),
            MQTTProtocolVersion.MQTTv5,
            will=None,
            waker=None,
            resume=False,
            cancelled=lambda: False,
            timeout_s=timeout_s,
        ) as connection:
            connection.close()
    except UserError as error:
        # Also if the broker refused the connection for another reason, as that is an MQTT 5 reply.
        return isinstance(error, BrokerRefused) and not isinstance(error, faults.Mqtt5Unsupported)
    return True
