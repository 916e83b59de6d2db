"""Listening to a broker for as long as somebody looks on, through all its outages."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence

from edge.errors import BrokerError, BrokerRefused
from edge.mqtt import BrokerSettings
from edge.mqtt.connection import Connection
from edge.mqtt.dial import CONNECT_TIMEOUT_S, connect
from edge.mqtt.packets import Ack, Received, Subscription

log = logging.getLogger(__name__)

_TICK_S = 0.25
_RETRY_S = 2.0


def listen(
    settings: BrokerSettings, topic_filters: Sequence[str], *, on_state: Callable[[BrokerError | None], None]
) -> Iterator[Received | None]:
    """Receives messages, those that the broker had kept first.

    Args:
        settings: The broker's.
        topic_filters: What to listen to; may hold wildcards.
        on_state: Told why there is no connection, and None when there is one.

    Yields:
        Each message; and None a few times a second, so that the caller can see to other things.

    Raises:
        BrokerRefused: The broker says no, or lets this client listen to none of these. That it cannot be reached is no
            error, but tried again; and so is a refusal once it has let us listen: the settings are right, and it is a
            broker or proxy that is just starting.
    """
    subscriptions = [Subscription(topic_filter, send_retained=True) for topic_filter in topic_filters]
    welcome = False
    while True:
        try:
            with connect(settings, timeout_s=CONNECT_TIMEOUT_S) as connection:
                _subscribe(connection, subscriptions, settings)
                welcome = True
                on_state(None)
                yield from _hear(connection)
        except BrokerError as error:
            if isinstance(error, BrokerRefused) and not welcome:
                raise
            on_state(error)
        retry_at_s = time.monotonic() + _RETRY_S
        while time.monotonic() < retry_at_s:
            yield None
            time.sleep(_TICK_S)


def _subscribe(connection: Connection, subscriptions: Sequence[Subscription], settings: BrokerSettings) -> None:
    """Waits for the broker's answers, of which one has to be yes."""
    connection.subscribe(subscriptions)
    answers: list[Ack] = []
    give_up_s = time.monotonic() + CONNECT_TIMEOUT_S
    while len(answers) < len(subscriptions) and connection.fault is None and time.monotonic() < give_up_s:
        connection.wait(_TICK_S)
        answers += connection.take_subscribed()
    if connection.fault is not None:
        raise connection.fault
    refused = [answer for answer in answers if answer.refusal is not None]
    for answer in refused:
        log.warning("the broker does not let this client listen to %s (%s)", answer.topic, answer.refusal)
    if answers and len(refused) == len(answers):
        raise BrokerRefused("the broker lets this client listen to nothing", where=settings.address,
                            remedy="Allow it in the broker's access list")  # fmt: skip


def _hear(connection: Connection) -> Iterator[Received | None]:
    tick_at_s = time.monotonic()
    while connection.fault is None:
        connection.wait(max(0.0, tick_at_s - time.monotonic()))
        yield from connection.take_received()
        if time.monotonic() >= tick_at_s:
            yield None
            tick_at_s = time.monotonic() + _TICK_S
    raise connection.fault
