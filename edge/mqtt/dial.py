"""The way to a connection: which version of the protocol is tried, and under whose name."""

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
from edge.mqtt.bell import Bell
from edge.mqtt.connection import Connection
from edge.mqtt.settings import BrokerSettings

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0


def connect(
    settings: BrokerSettings,
    *,
    will: Message | None = None,
    bell: Bell | None = None,
    resume: bool = False,
    mqtt5: bool = True,
    wanted: Callable[[], bool] = lambda: True,
    timeout_s: float,
) -> Connection:
    """Connects with MQTT 5, or with 3.1.1 if the broker does not speak MQTT 5.

    MQTT 5 is tried first, so that an updated broker is noticed. One that says nothing to it, or hangs up, may have had
    a weak moment; the connection with 3.1.1 is then a makeshift.

    Args:
        settings: The broker's.
        will: What the broker publishes when the connection breaks.
        bell: Interrupts `Connection.wait`.
        resume: Whether to take up a session of this client id that the broker still has (MQTT 5); with a will, always.
        mqtt5: Whether to try MQTT 5, which takes its time with a broker that says nothing to it.
        wanted: Asked, once the network connection stands, whether to introduce the client to the broker: one that has
            the same client id is pushed off by that.
        timeout_s: For the network connection, and again for the broker's answer.

    Raises:
        Unwanted: It is not wanted any more.
        BrokerUnreachable: Nothing answers.
        BrokerRefused: The broker says no.
        ConfigError: A TLS file cannot be used.
    """
    dial = partial(Connection, settings, will=will, bell=bell, resume=resume, wanted=wanted, timeout_s=timeout_s)
    why_not = None
    if mqtt5:
        try:
            return dial(MQTTProtocolVersion.MQTTv5)
        except faults.NoMqtt5 as error:
            log.debug("%s: trying MQTT 3.1.1 (%s)", settings.address, error)
            why_not = error
    return dial(MQTTProtocolVersion.MQTTv311, why_not=why_not)


def speaks_mqtt5(settings: BrokerSettings, *, timeout_s: float) -> bool:
    """Whether the broker answers to MQTT 5, found out with a connection of another client id, and one version."""
    try:
        with Connection(
            replace(settings, client_id=new_client_id()),
            MQTTProtocolVersion.MQTTv5,
            will=None,
            bell=None,
            resume=False,
            wanted=lambda: True,
            timeout_s=timeout_s,
        ) as connection:
            connection.close()
    except UserError as error:
        return isinstance(error, BrokerRefused) and not isinstance(error, faults.NoMqtt5)  # a no is an answer
    return True
