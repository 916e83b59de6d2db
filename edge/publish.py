"""The way to the broker: one thread that connects, keeps the connection, and starts anew for ever.

Events go through the outbox, so that none is lost; of everything else only the newest message of each topic counts.
Whatever happens to the broker, `publish` returns at once and raises nothing.
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
from edge.mqtt.bell import Bell
from edge.mqtt.caution import Caution
from edge.mqtt.commands import Commands
from edge.mqtt.connection import Connection
from edge.mqtt.dial import CONNECT_TIMEOUT_S, connect, speaks_mqtt5
from edge.mqtt.faults import Unanswered, Unwanted
from edge.mqtt.hearing import Hearing
from edge.mqtt.logbook import Logbook
from edge.mqtt.mqtt5_trial import Mqtt5Trial
from edge.mqtt.session import Session
from edge.mqtt.states import States
from edge.outbox import Outbox
from edge.payloads import Status
from edge.topics import Topics

log = logging.getLogger(__name__)

_LONGEST_WAIT_S = 1.0
_LONGEST_PAUSE_AWAY_S = 8.0
"""A broker that was away is to be found soon after its return; one that says no would only be annoyed."""


class MqttPublisher:
    """Publishes messages and answers commands for one device, for as long as its context is open.

    Args:
        settings: The broker's.
        topics: The device's.
        session: Number of the agent's start.
        outbox: Where durable messages wait. It stays open until the publisher's context is left.
        groups: The groups of the fleet whose commands the device follows too.
        home_assistant_status: The topic on which Home Assistant says that it started, to announce everything again.
        on_delivered: Told the topic of each message with QoS 1 that the broker has taken.
        announce_within_s: Over how long devices spread their announcements then.
        backoff: How long to wait between attempts; while nobody answers, eight seconds at the most.
        stop_timeout_s: How long leaving the context may take to deliver what is left and to say goodbye.

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
        self._mqtt5 = Mqtt5Trial(partial(speaks_mqtt5, settings, timeout_s=CONNECT_TIMEOUT_S))
        self._stop_timeout_s = stop_timeout_s
        self._online = status_message(topics, Status.ONLINE, session=session, client_id=settings.client_id)
        self._offline = status_message(topics, Status.OFFLINE, session=session, client_id=settings.client_id)
        self._states = States(rank=self._rank)
        self._states.put(self._online, now_s=time.monotonic())
        self._bell = Bell()
        self._stopping = threading.Event()
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._logbook = Logbook(settings)
        self._caution = Caution()
        self._handlers: dict[str, CommandHandler] = {}
        self._hearing = Hearing(
            topics=topics,
            commands=Commands(topics=topics, handlers=self._handlers),
            groups=groups,
            home_assistant_status=home_assistant_status,
            announce_within_s=announce_within_s,
            client_id=settings.client_id,
            birth=self._online,
            will=self._offline,
            states=self._states,
            logbook=self._logbook,
        )

    def __enter__(self) -> Self:
        """Starts to connect, and does not wait for it."""
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        self._bell.ring()
        self._thread.join(self._stop_timeout_s + _LONGEST_WAIT_S)
        if self._thread.is_alive():
            self._abandoned.set()
            log.warning("%s: stopping without a goodbye: the network does not answer", self._settings.address)

    def obey(self, handlers: Mapping[str, CommandHandler]) -> None:
        """Says what each command does, before the context is entered.

        The handlers run on the publisher's thread and are to be quick.
        """
        self._handlers.update(handlers)

    def publish(self, message: Message) -> None:
        """Takes a message: a durable one into the outbox, any other in place of the last one on its topic."""
        if message.durable:
            self._outbox.put(message)
        else:
            self._states.put(message, now_s=time.monotonic())
        self._bell.ring()

    @property
    def stats(self) -> PublisherStats:
        """How delivery fares now."""
        return self._logbook.stats(queue_depth=self._outbox.depth, dropped=self._outbox.dropped)

    @property
    def link(self) -> str:
        """Whether the broker is reached, for people. May be asked several times a second."""
        return self._logbook.link

    def _rank(self, topic: str) -> int:
        """The birth, then what the device is, its announcement to Home Assistant, and how things stand."""
        if topic in (self._topics.status, self._topics.info):
            return int(topic == self._topics.info)
        return 3 if topic.startswith(f"{self._topics.root}/") else 2

    def _run(self) -> None:
        while not self._stopping.is_set():
            refused = True
            try:
                self._connect_and_serve()
            except Unwanted as error:
                log.debug("%s", error)
            except UserError as error:
                refused = not isinstance(error, BrokerUnreachable | Unanswered)
                self._logbook.trouble(error, explained=self._caution.explains)
            except Exception as error:  # noqa: BLE001  # logged there with its traceback; the thread must not die
                self._logbook.surprise(error)
            self._stopping.wait(self._backoff.delay_s(at_most_s=math.inf if refused else _LONGEST_PAUSE_AWAY_S))
        self._bell.close()

    def _connect_and_serve(self) -> None:
        with connect(
            self._settings,
            will=self._offline,
            bell=self._bell,
            mqtt5=self._mqtt5.promising,
            wanted=lambda: not self._abandoned.is_set(),
            timeout_s=CONNECT_TIMEOUT_S,
        ) as connection:
            if self._abandoned.is_set():
                return  # the device's next agent may be at work already: nothing is said in its name
            # Before the connection counts as one: what is published from then on has not waited.
            session = self._begin(connection)
            self._logbook.connected(connection.protocol)
            try:
                self._serve(connection, session)
            finally:
                self._logbook.disconnected(held_s=session.held_s)

    def _begin(self, connection: Connection) -> Session:
        self._mqtt5.connected(connection)
        return Session(
            connection=connection,
            outbox=self._outbox,
            states=self._states,
            hearing=self._hearing,
            caution=self._caution,
            logbook=self._logbook,
            on_delivered=self._on_delivered,
            abandoned=self._abandoned.is_set,
        )

    def _serve(self, connection: Connection, session: Session) -> None:
        """Talks until the connection breaks, the broker turns out to speak MQTT 5, or the publisher is to stop.

        Raises:
            BrokerError: The connection broke.
        """
        while connection.fault is None:
            if self._stopping.is_set():
                heard = session.say_goodbye(self._offline, timeout_s=self._stop_timeout_s)
                doubt = "" if heard else "; the broker did not confirm it"
                log.info("%s: disconnected%s", self._settings.address, doubt)
                return
            session.listen()
            session.settle()
            session.speak()
            if self._logbook.steady(session.held_s):
                self._backoff.reset()
            if connection.protocol != "MQTT 5" and self._mqtt5.succeeded() and session.delivered:
                log.info("%s: changing over to MQTT 5", self._settings.address)
                self._caution = Caution()
                connection.close()
                return
            connection.wait(min(_LONGEST_WAIT_S, self._hearing.patience_s))
        session.listen()  # the broker takes what came just before the end for heard
        session.settle()  # and that need not be sent again
        if session.find_out_why():
            self._backoff.reset()
        raise connection.fault
