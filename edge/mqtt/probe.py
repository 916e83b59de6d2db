"""Attempts to reach the broker, step by step, to find out whether the settings are right.

All of them raise `BrokerUnreachable` where nothing answers (unknown name, closed port, no route, no answer in time),
`BrokerRefused` where the broker says no (TLS, certificate, password, rights), and `ConfigError` for a TLS file that
cannot be used. `timeout_s` holds for the network connection, and again for each answer of the broker.
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
from edge.mqtt.connection import Connection
from edge.mqtt.dial import CONNECT_TIMEOUT_S, connect
from edge.mqtt.packets import Ack, Received, Subscription
from edge.mqtt.settings import BrokerSettings, Tls

_RETAINED_WITHIN_S: Final = 1.0


def probe_broker(settings: BrokerSettings, *, timeout_s: float = CONNECT_TIMEOUT_S) -> str:
    """Connects once and disconnects, under another client id so as not to push a running agent out.

    Returns:
        The protocol that the broker speaks: `MQTT 5` or `MQTT 3.1.1`.
    """
    with _connect_beside(settings, timeout_s) as connection:
        connection.close()
        return connection.protocol


def resolve(settings: BrokerSettings) -> list[str]:
    """The addresses behind the broker's name."""
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
    """When the broker's certificate expires, in seconds since 1970; it is trusted and made out to the host's name."""
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
    """Publishes an empty message that nobody keeps, under another client id.

    Returns:
        Whether the broker tells of refusals at all; MQTT 3.1.1 does not.
    """
    with _connect_beside(settings, timeout_s) as connection:
        connection.send(Message(topic, b"", qos=1))
        refusal = _refusal(connection, connection.take_acks, settings, timeout_s)
        connection.close()
    if refusal is not None:
        raise BrokerRefused(f"messages on {topic} are rejected ({refusal})", where=settings.address,
                            remedy="Allow them in the broker's access list")  # fmt: skip
    return connection.protocol == "MQTT 5"


def probe_subscriptions(
    settings: BrokerSettings, topic_filters: Sequence[str], *, timeout_s: float = CONNECT_TIMEOUT_S
) -> list[str]:
    """Asks for messages, under other client ids: one for each filter, as a broker may refuse it by hanging up.

    Returns:
        The topic filters that the broker refuses. Some brokers refuse none, and pass on only what a client may read.
    """
    refused = []
    for topic_filter in topic_filters:
        with _connect_beside(settings, timeout_s) as connection:
            connection.subscribe([Subscription(topic_filter)])
            if _refusal(connection, connection.take_subscribed, settings, timeout_s) is not None:
                refused.append(topic_filter)
            connection.close()
    return refused


def probe_retained(settings: BrokerSettings, topic: str, *, timeout_s: float = CONNECT_TIMEOUT_S) -> Received | None:
    """What the broker keeps on a topic, asked for under another client id; None if nothing comes soon."""
    with _connect_beside(settings, timeout_s) as connection:
        connection.subscribe([Subscription(topic, send_retained=True)])
        give_up_s = time.monotonic() + min(_RETAINED_WITHIN_S, timeout_s)
        received: list[Received] = []
        while not received and connection.fault is None and (left_s := give_up_s - time.monotonic()) > 0:
            connection.wait(left_s)
            heard = connection.take_received()
            received = [message for message in heard if message.retained and message.topic == topic]
        connection.close()
    return received[0] if received else None


def probe_client_id(settings: BrokerSettings, *, timeout_s: float = CONNECT_TIMEOUT_S) -> bool | None:
    """Whether another client is connected under the settings' own client id. It is pushed out, and will come back.

    Returns:
        True also for a client that was cut off within the last seconds; None where the broker does not tell.
    """
    with connect(settings, resume=True, timeout_s=timeout_s) as connection:
        connection.close()
        return connection.resumed if connection.protocol == "MQTT 5" else None


def _connect_beside(settings: BrokerSettings, timeout_s: float) -> Connection:
    return connect(replace(settings, client_id=new_client_id()), timeout_s=timeout_s)


def _refusal(
    connection: Connection, take: Callable[[], Sequence[Ack]], settings: BrokerSettings, timeout_s: float
) -> str | None:
    """Why the broker refuses what was just said, by the first answer that can be taken; None if it does not."""
    give_up_s = time.monotonic() + timeout_s
    while connection.fault is None and (left_s := give_up_s - time.monotonic()) > 0:
        connection.wait(left_s)
        if answers := take():
            return answers[0].refusal
    if isinstance(connection.fault, faults.BrokenOff):
        return connection.fault.how
    raise connection.fault or BrokerUnreachable(
        "did not answer a request in time", where=settings.address, remedy="Look into the broker's log"
    )
