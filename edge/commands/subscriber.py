"""A subscriber that reconnects after connection failures, for `edge watch` and `edge demo`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence

from edge.errors import BrokerError, BrokerRefused
from edge.mqtt import BrokerSettings
from edge.mqtt.connect import CONNECT_TIMEOUT_S, connect
from edge.mqtt.connection import Connection
from edge.mqtt.packets import Ack, Received, Subscription

log = logging.getLogger(__name__)

_TICK_S = 0.25
_RETRY_S = 2.0


def subscribe(
    settings: BrokerSettings, topic_filters: Sequence[str], *, on_state: Callable[[BrokerError | None], None]
) -> Iterator[Received | None]:
    """Receives messages, starting with the retained ones.

    Args:
        settings: How to connect to the broker.
        topic_filters: Topic filters to subscribe to; may contain wildcards.
        on_state: Called with None when connected, and with the error when the connection fails.

    Yields:
        Each message, and None a few times per second so that the caller can do other work.

    Raises:
        BrokerRefused: The broker rejects the connection or all subscriptions. If it cannot be reached, connecting is
            retried. The same applies if the broker rejects the client after having accepted it before: the settings
            are valid, and the broker or a proxy is probably restarting.
    """
    subscriptions = [Subscription(topic_filter, send_retained=True) for topic_filter in topic_filters]
    accepted = False
    while True:
        try:
            with connect(settings, timeout_s=CONNECT_TIMEOUT_S) as connection:
                _subscribe(connection, subscriptions, settings)
                accepted = True
                on_state(None)
                yield from _receive(connection)
        except BrokerError as error:
            if isinstance(error, BrokerRefused) and not accepted:
                raise
            on_state(error)
        retry_at_s = time.monotonic() + _RETRY_S
        while time.monotonic() < retry_at_s:
            yield None
            time.sleep(_TICK_S)


def _subscribe(connection: Connection, subscriptions: Sequence[Subscription], settings: BrokerSettings) -> None:
    """Subscribes and waits for the acknowledgements; raises if all subscriptions are rejected."""
    connection.subscribe(subscriptions)
    acks: list[Ack] = []
    deadline_s = time.monotonic() + CONNECT_TIMEOUT_S
    while len(acks) < len(subscriptions) and connection.fault is None and time.monotonic() < deadline_s:
        connection.wait(_TICK_S)
        acks += connection.take_subacks()
    if connection.fault is not None:
        raise connection.fault
    rejected = [ack for ack in acks if ack.rejection is not None]
    for ack in rejected:
        log.warning("the broker rejected the subscription to %s (%s)", ack.topic, ack.rejection)
    if acks and len(rejected) == len(acks):
        raise BrokerRefused("the broker rejected all subscriptions", where=settings.address,
                            remedy="Allow them in the broker's access list")  # fmt: skip


def _receive(connection: Connection) -> Iterator[Received | None]:
    tick_at_s = time.monotonic()
    while connection.fault is None:
        connection.wait(max(0.0, tick_at_s - time.monotonic()))
        yield from connection.take_received()
        if time.monotonic() >= tick_at_s:
            yield None
            tick_at_s = time.monotonic() + _TICK_S
    raise connection.fault
