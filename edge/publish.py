"""The MQTT publisher: one thread that connects to the broker, delivers messages, and reconnects forever.

Events go through the outbox, so that none is lost; of all other messages only the newest of each topic is sent.
Whatever happens to the broker, `publish` returns at once and does not raise.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Self

from edge.backoff import Backoff
from edge.contract.errors import UserError
from edge.domain import Message
from edge.errors import BrokerUnreachable
from edge.message import status_message
from edge.mqtt import BrokerSettings, CommandHandler, PublisherStats
from edge.mqtt.commands import Commands
from edge.mqtt.connect import CONNECT_TIMEOUT_S, connect, supports_mqtt5
from edge.mqtt.connection import Connection
from edge.mqtt.faults import ConnectCancelled, NoConnack
from edge.mqtt.inbound import Inbound
from edge.mqtt.monitor import Monitor
from edge.mqtt.mqtt5_probe import Mqtt5Probe
from edge.mqtt.quarantine import Quarantine
from edge.mqtt.retained import RetainedMessages
from edge.mqtt.session import Session
from edge.mqtt.waker import Waker
from edge.outbox import Outbox
from edge.payloads import Status
from edge.topics import Topics

log = logging.getLogger(__name__)

_MAX_WAIT_S = 1.0
_MAX_DELAY_UNREACHABLE_S = 8.0
"""So that a broker is found soon after it comes back. One that refuses connections is not bothered that often."""


class MqttPublisher:
    """Publishes messages and responds to commands for one device while its context is open.

    Args:
        settings: The broker settings.
        topics: The device's topics.
        session: Number of the agent's start.
        outbox: The queue of durable messages. Has to stay open until the publisher's context is left.
        groups: The fleet groups whose commands the device follows too.
        home_assistant_status: The topic of Home Assistant's birth, after which everything is announced again.
        on_delivered: Called with the topic of each QoS 1 message that the broker has accepted.
        announce_within_s: The limit of that announcement's random delay, so that a fleet does not announce at once.
        backoff: Delays between attempts to connect; limited to eight seconds while the broker is unreachable.
        stop_timeout_s: How long leaving the context may take to deliver what is left and to disconnect cleanly.

    Raises:
        ConfigError: A TLS file cannot be used.
    """

    def __init__(
        self,
        *,
        settings: BrokerSettings,
        topics: Topics,
        session: int,
        outbox: Outbox,
        groups: Sequence[str] = (),
        home_assistant_status: str | None = None,
        on_delivered: Callable[[str], None] = lambda _topic: None,
        announce_within_s: float = 5.0,
        backoff: Backoff | None = None,
        stop_timeout_s: float = 2.0,
    ) -> None:
        settings.check_files()
        self._settings = settings
        self._topics = topics
        self._outbox = outbox
        self._on_delivered = on_delivered
        self._backoff = backoff or Backoff()
        self._mqtt5 = Mqtt5Probe(partial(supports_mqtt5, settings, timeout_s=CONNECT_TIMEOUT_S))
        self._stop_timeout_s = stop_timeout_s
        self._online = status_message(topics, Status.ONLINE, session=session, client_id=settings.client_id)
        self._offline = status_message(topics, Status.OFFLINE, session=session, client_id=settings.client_id)
        self._retained = RetainedMessages(rank=self._rank)
        self._retained.put(self._online, now_s=time.monotonic())
        self._waker = Waker()
        self._stopping = threading.Event()
        self._abandoned = threading.Event()  # set when the thread did not stop in time
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._monitor = Monitor(settings)
        self._quarantine = Quarantine()
        self._handlers: dict[str, CommandHandler] = {}
        self._inbound = Inbound(
            topics=topics,
            commands=Commands(topics=topics, handlers=self._handlers),
            groups=groups,
            home_assistant_status=home_assistant_status,
            announce_within_s=announce_within_s,
            client_id=settings.client_id,
            birth=self._online,
            will=self._offline,
            retained=self._retained,
            monitor=self._monitor,
        )

    def __enter__(self) -> Self:
        """Starts to connect, without waiting for the connection."""
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        self._waker.wake()
        self._thread.join(self._stop_timeout_s + _MAX_WAIT_S)
        if self._thread.is_alive():
            self._abandoned.set()
            log.warning("%s: stopping without a clean disconnect: the network does not respond", self._settings.address)

    def set_command_handlers(self, handlers: Mapping[str, CommandHandler]) -> None:
        """Sets the command handlers, by command name. Has to be called before the context is entered.

        The handlers run on the publisher's thread, so they must not block for long.
        """
        self._handlers.update(handlers)

    def publish(self, message: Message) -> None:
        """Queues a message for sending: a durable one in the outbox; any other replaces the last one on its topic."""
        if message.durable:
            self._outbox.put(message)
        else:
            self._retained.put(message, now_s=time.monotonic())
        self._waker.wake()

    @property
    def stats(self) -> PublisherStats:
        """Health of the delivery."""
        return self._monitor.stats(queue_depth=self._outbox.depth, dropped=self._outbox.dropped)

    @property
    def link(self) -> str:
        """The connection status in words. Cheap: may be read several times a second."""
        return self._monitor.link

    def _rank(self, topic: str) -> int:
        """Returns a topic's place in the order of sending: status, info, Home Assistant's discovery, then states."""
        if topic in (self._topics.status, self._topics.info):
            return int(topic == self._topics.info)
        return 3 if topic.startswith(f"{self._topics.root}/") else 2

    def _run(self) -> None:
        while not self._stopping.is_set():
            unreachable = False
            try:
                self._connect_and_serve()
            except ConnectCancelled as error:
                log.debug("%s", error)
            except UserError as error:
                unreachable = isinstance(error, BrokerUnreachable | NoConnack)
                self._monitor.connection_failed(error, explained=self._quarantine.explains_drops)
            except Exception as error:  # noqa: BLE001  # logged with its traceback; the thread must survive
                self._monitor.connection_crashed(error)
            self._stopping.wait(self._backoff.delay_s(at_most_s=_MAX_DELAY_UNREACHABLE_S if unreachable else math.inf))
        self._waker.close()

    def _connect_and_serve(self) -> None:
        with connect(
            self._settings,
            will=self._offline,
            waker=self._waker,
            mqtt5=self._mqtt5.try_mqtt5,
            cancelled=self._abandoned.is_set,
            timeout_s=CONNECT_TIMEOUT_S,
        ) as connection:
            if self._abandoned.is_set():
                return  # a successor with the same topics and client id may be running already
            # First, so that events published once `stats` says connected do not count as historical.
            session = self._begin(connection)
            self._monitor.connected(connection.protocol)
            try:
                self._serve(connection, session)
            finally:
                self._monitor.disconnected(lifetime_s=session.lifetime_s)

    def _begin(self, connection: Connection) -> Session:
        self._mqtt5.connected(connection)
        return Session(
            connection=connection,
            outbox=self._outbox,
            retained=self._retained,
            inbound=self._inbound,
            quarantine=self._quarantine,
            monitor=self._monitor,
            on_delivered=self._on_delivered,
            abandoned=self._abandoned.is_set,
        )

    def _serve(self, connection: Connection, session: Session) -> None:
        """Sends and receives until the connection ends, a better one with MQTT 5 is possible, or the publisher stops.

        Raises:
            BrokerError: The connection ended.
        """
        while connection.fault is None:
            if self._stopping.is_set():
                confirmed = session.disconnect(self._offline, timeout_s=self._stop_timeout_s)
                suffix = "" if confirmed else "; the broker did not confirm it"
                log.info("%s: disconnected%s", self._settings.address, suffix)
                return
            session.handle_received()
            session.process_acks()
            session.send_due()
            if self._monitor.check_stable(session.lifetime_s):
                self._backoff.reset()
            if connection.protocol != "MQTT 5" and self._mqtt5.poll() and session.delivered:
                log.info("%s: switching to MQTT 5", self._settings.address)
                self._quarantine = Quarantine()
                connection.close()
                return
            connection.wait(min(_MAX_WAIT_S, self._inbound.announcement_in_s))
        session.handle_received()  # the broker will not send again what arrived just before the end
        session.process_acks()  # nor does this client have to send again what was acknowledged
        if session.diagnose_drop():
            self._backoff.reset()
        raise connection.fault
