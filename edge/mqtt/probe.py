"""Probes of the broker, step by step, for checking the settings.

All of them raise `BrokerUnreachable` if there is no response (unknown name, closed port, no route, timeout),
`BrokerRefused` if the broker refuses (TLS, certificate, password, rights), and `ConfigError` if a TLS file cannot be
used. `timeout_s` is for the network connection, and again for each response of the broker.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from edge.client_id import new_client_id
from edge.domain import Message
from edge.errors import BrokerRefused, BrokerUnreachable
from edge.mqtt import faults
from edge.mqtt.connect import CONNECT_TIMEOUT_S, connect
from edge.mqtt.connection import Connection
from edge.mqtt.packets import Ack, Received, Subscription
from edge.mqtt.settings import BrokerSettings, Tls

_RETAINED_WITHIN_S: Final = 1.0


def probe_broker(settings: BrokerSettings, *, timeout_s: float = CONNECT_TIMEOUT_S) -> str:
    """Connects and disconnects, under another client id so that a running agent stays connected.

    Returns:
        The protocol that the broker supports: `MQTT 5` or `MQTT 3.1.1`.
    """
    with _connect_as_other(settings, timeout_s) as connection:
        connection.close()
        return connection.protocol


def resolve(settings: BrokerSettings) -> list[str]:
    """Returns the IP addresses of the broker's host name."""
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise faults.unreachable(socket.gaierror(str(error)), settings) from error
    except OSError as error:
        raise faults.unreachable(error, settings) from error
    return sorted({str(address[0]) for *_, address in found})


def reach(settings: BrokerSettings, *, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
    """Opens a TCP connection to the broker, and closes it."""
    try:
        socket.create_connection((settings.host, settings.port), timeout_s).close()
    except OSError as error:
        raise faults.unreachable(error, settings) from error


def certificate_expiry_s(settings: BrokerSettings, *, timeout_s: float = CONNECT_TIMEOUT_S) -> float:
    """Returns when the broker's certificate expires, in seconds since 1970, after checking trust and host name."""
    context = (settings.tls or Tls()).context()
    try:
        with (
            socket.create_connection((settings.host, settings.port), timeout_s) as sock,
            context.wrap_socket(sock, server_hostname=settings.host) as encrypted,
        ):
            certificate = encrypted.getpeercert() or {}
    except OSError as error:
        raise faults.unreachable(error, settings) from error
    return ssl.cert_time_to_seconds(str(certificate["notAfter"]))


def probe_publish(settings: BrokerSettings, topic: str, *, timeout_s: float = CONNECT_TIMEOUT_S) -> bool:
    """Publishes an empty message that is not retained, under another client id.

    Returns:
        Whether the protocol reports rejections at all; MQTT 3.1.1 does not.
    """
    with _connect_as_other(settings, timeout_s) as connection:
        connection.send(Message(topic, b"", qos=1))
        rejection = _rejection(connection, connection.take_acks, settings, timeout_s)
        connection.close()
    if rejection is not None:
        raise BrokerRefused(f"messages on {topic} are rejected ({rejection})", where=settings.address,
                            remedy="Allow them in the broker's access list")  # fmt: skip
    return connection.protocol == "MQTT 5"


def probe_subscriptions(
    settings: BrokerSettings, topic_filters: Sequence[str], *, timeout_s: float = CONNECT_TIMEOUT_S
) -> list[str]:
    """Subscribes under other client ids: one for each filter, as a broker may drop the connection over it.

    Returns:
        The topic filters that the broker rejects. Some brokers reject none, and filter the messages instead.
    """
    rejected = []
    for topic_filter in topic_filters:
        with _connect_as_other(settings, timeout_s) as connection:
            connection.subscribe([Subscription(topic_filter)])
            if _rejection(connection, connection.take_subacks, settings, timeout_s) is not None:
                rejected.append(topic_filter)
            connection.close()
    return rejected


def probe_retained(settings: BrokerSettings, topic: str, *, timeout_s: float = CONNECT_TIMEOUT_S) -> Received | None:
    """Returns the retained message of a topic, received under another client id; None if none comes within a second."""
    with _connect_as_other(settings, timeout_s) as connection:
        connection.subscribe([Subscription(topic, send_retained=True)])
        give_up_s = time.monotonic() + min(_RETAINED_WITHIN_S, timeout_s)
        received: list[Received] = []
        while not received and connection.fault is None and (left_s := give_up_s - time.monotonic()) > 0:
            connection.wait(left_s)
            messages = connection.take_received()
            received = [message for message in messages if message.retained and message.topic == topic]
        connection.close()
    return received[0] if received else None


def probe_client_id(settings: BrokerSettings, *, timeout_s: float = CONNECT_TIMEOUT_S) -> bool | None:
    """Returns whether another client is connected under the settings' own client id.

    That client is disconnected by this; an agent reconnects.

    Returns:
        True also for a client that lost its connection within the last seconds; None with MQTT 3.1.1, which does not
        report it.
    """
    with connect(settings, resume=True, timeout_s=timeout_s) as connection:
        connection.close()
        return connection.session_present if connection.protocol == "MQTT 5" else None


def _connect_as_other(settings: BrokerSettings, timeout_s: float) -> Connection:
    return connect(replace(settings, client_id=new_client_id()), timeout_s=timeout_s)


def _rejection(
    connection: Connection, take: Callable[[], Sequence[Ack]], settings: BrokerSettings, timeout_s: float
) -> str | None:
    """Returns why the broker rejects the operation that was just sent, None if it accepts it."""
    give_up_s = time.monotonic() + timeout_s
    while connection.fault is None and (left_s := give_up_s - time.monotonic()) > 0:
        connection.wait(left_s)
        if acks := take():
            return acks[0].rejection
    if isinstance(connection.fault, faults.ConnectionDropped):
        return connection.fault.behavior
    raise connection.fault or BrokerUnreachable(
        "no acknowledgement in time", where=settings.address, remedy="Check the broker's log"
    )
