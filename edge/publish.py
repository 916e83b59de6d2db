"""The way to the broker: one thread that connects, keeps the connection, and starts anew for ever.

Events go through the outbox, so that none is lost; of everything else only the newest message of each topic counts.
Whatever happens to the broker, `publish` returns at once and raises nothing.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Self

from edge.backoff import Backoff
from edge.contract.errors import UserError
from edge.domain import Message
from edge.errors import BrokerUnreachable
from edge.message import CLIENT, fingerprint, status_message
from edge.mqtt import BrokerSettings, CommandHandler, PublisherStats
from edge.mqtt.bell import Bell
from edge.mqtt.caution import Caution
from edge.mqtt.commands import Commands, without_result
from edge.mqtt.connection import CONNECT_TIMEOUT_S, Connection, connect, speaks_mqtt5
from edge.mqtt.delivery import Delivery
from edge.mqtt.faults import BrokenOff, Unanswered, Unwanted
from edge.mqtt.logbook import Logbook
from edge.mqtt.mqtt5_trial import Mqtt5Trial
from edge.mqtt.packets import Ack, Received, Said, Subscription, is_topic
from edge.mqtt.states import States
from edge.outbox import Outbox
from edge.payloads import Status
from edge.topics import Topics

log = logging.getLogger(__name__)

_LONGEST_WAIT_S = 1.0
_LONGEST_PAUSE_AWAY_S = 8.0
"""A broker that was away is to be found soon after its return; one that says no would only be annoyed."""
_HUNG_UP = "it hangs up on this device for it"


class MqttPublisher:
    """Publishes messages and answers commands for one device, for as long as its context is open.

    Args:
        settings: The broker's.
        topics: The device's.
        session: Number of the agent's start.
        outbox: Where durable messages wait. It stays open until the publisher's context is left.
        commands: What each command does. The handlers run on the publisher's thread and are to be quick.
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
        commands: Mapping[str, CommandHandler] | None = None,
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
        self._commands = Commands(topics=topics, handlers=commands or {})
        self._home_assistant_status = home_assistant_status
        self._on_delivered = on_delivered
        self._announce_within_s = announce_within_s
        self._backoff = backoff or Backoff()
        self._mqtt5 = Mqtt5Trial(partial(speaks_mqtt5, settings, timeout_s=CONNECT_TIMEOUT_S))
        self._stop_timeout_s = stop_timeout_s
        self._online = status_message(topics, Status.ONLINE, session=session, client_id=settings.client_id)
        self._offline = status_message(topics, Status.OFFLINE, session=session, client_id=settings.client_id)
        self._heard_commands = [Subscription(topic, tell_retained=True) for topic in topics.commands(groups)]
        self._unheard: list[Subscription] = []
        self._states = States(rank=self._rank)
        self._states.put(self._online, now_s=time.monotonic())
        self._bell = Bell()
        self._stopping = threading.Event()
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._logbook = Logbook(settings)
        self._caution = Caution()
        self._announce_at_s = float("inf")

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

    def _notices_to_hear(self) -> list[Subscription]:
        topics = [self._topics.status, self._home_assistant_status]
        return [Subscription(topic) for topic in topics if topic is not None]

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
                self._logbook.trouble(error)
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
            if connection.protocol == "MQTT 5":
                self._caution = Caution()
            self._caution.begin()
            # Before the connection counts as one: what is published from then on has not waited.
            delivery = Delivery(outbox=self._outbox, connection=connection, left_alone=self._caution.left_alone)
            started_s = time.monotonic()
            self._logbook.connected(connection.protocol)
            try:
                self._serve(connection, delivery, started_s)
            finally:
                self._logbook.disconnected(held_s=time.monotonic() - started_s)

    def _serve(self, connection: Connection, delivery: Delivery, started_s: float) -> None:
        """Talks until the connection breaks, the broker turns out to speak MQTT 5, or the publisher is to stop.

        Raises:
            BrokerError: The connection broke.
        """
        self._unheard = [*self._heard_commands, *self._notices_to_hear()]
        self._states.resend()
        self._mqtt5.connected(connection)
        while connection.fault is None:
            self._listen(connection)
            if self._stopping.is_set():
                self._leave(connection, delivery)
                return
            self._settle(connection.take_acks(), delivery)
            self._settle_subscriptions(connection.take_subscribed())
            self._speak(connection, delivery)
            if self._logbook.steady(time.monotonic() - started_s):
                self._backoff.reset()
            if connection.protocol != "MQTT 5" and self._mqtt5.succeeded() and delivery.idle:
                log.info("%s: changing over to MQTT 5", self._settings.address)
                connection.close()
                return
            connection.wait(min(_LONGEST_WAIT_S, max(0.0, self._announce_at_s - time.monotonic())))
        self._settle(connection.take_acks(), delivery)  # what came just before the end need not be sent again
        self._settle_subscriptions(connection.take_subscribed())
        if connection.protocol != "MQTT 5" and isinstance(connection.fault, BrokenOff):
            self._find_out_why(connection, held_s=time.monotonic() - started_s)
        raise connection.fault

    def _find_out_why(self, connection: Connection, *, held_s: float) -> None:
        """With MQTT 3.1.1, the broker may have refused something by hanging up."""
        tried_again = connection.unanswered is not None and self._caution.blames(connection.unanswered)
        guilty = self._caution.broken_off(connection.unanswered, careful=connection.careful, held_s=held_s)
        if guilty is None:
            return
        self._backoff.reset()  # the next connection may hold
        if guilty.listening:
            self._logbook.deaf(guilty.topic, _HUNG_UP)
        elif tried_again and self._states.clears(guilty.topic):
            self._forsake(guilty.topic)
        else:
            self._logbook.rejection(Ack(0, guilty.topic, _HUNG_UP, forbidden=True), lost=False)

    def _speak(self, connection: Connection, delivery: Delivery) -> None:
        if time.monotonic() >= self._announce_at_s:
            self._announce_at_s = float("inf")
            self._states.resend()
        connection.careful = self._caution.needed
        self._ask(connection)
        left_alone = self._caution.left_alone
        for message in self._states.take(connection.room, now_s=time.monotonic(), without=left_alone):
            connection.send(message)
        delivery.send()
        if connection.careful and connection.unanswered is None and delivery.idle:
            self._caution.all_answered()

    def _ask(self, connection: Connection) -> None:
        """Subscribes to all that it has not yet, but for what the broker is known to refuse."""
        shunned = [wanted for wanted in self._unheard if self._caution.shuns(Said(wanted.topic_filter, listening=True))]
        connection.subscribe([wanted for wanted in self._unheard if wanted not in shunned])
        self._unheard = shunned

    def _settle(self, acks: Sequence[Ack], delivery: Delivery) -> None:
        for ack in acks:
            if self._abandoned.is_set():
                return  # outbox and state are the next agent's
            self._caution.answered(Said(ack.topic))
            lost = delivery.settle(ack)
            if ack.forbidden and self._states.clears(ack.topic):
                self._forsake(ack.topic)
            elif ack.refusal is not None:
                self._logbook.rejection(ack, lost=lost)
            else:
                self._delivered(ack.topic)

    def _forsake(self, topic: str) -> None:
        """Gives up clearing a topic, or it would be tried at each connection."""
        self._logbook.left_behind(topic)
        self._delivered(topic)

    def _delivered(self, topic: str) -> None:
        self._states.delivered(topic)
        self._on_delivered(topic)

    def _settle_subscriptions(self, answers: Sequence[Ack]) -> None:
        for answer in answers:
            self._caution.answered(Said(answer.topic, listening=True))
            if answer.refusal is not None:
                self._logbook.deaf(answer.topic, answer.refusal)

    def _listen(self, connection: Connection) -> None:
        for received in connection.take_received():
            if received.topic == self._topics.status:
                self._hear_own_status(received)
            elif received.topic == self._home_assistant_status:
                self._hear_home_assistant(received)
            elif any(command.matches(received.topic) for command in self._heard_commands):
                self._obey(received, connection)
            else:
                # A session that the broker has kept listens to what was subscribed under an earlier configuration.
                log.debug("%s: not meant for this device any more", received.topic)

    def _hear_own_status(self, received: Received) -> None:
        if received.retained:
            return
        we = fingerprint(self._settings.client_id)
        speaker = dict(received.user_properties).get(CLIENT, we)
        if speaker != we and received.payload == self._online.payload:  # a will may be of this device's former id
            self._logbook.namesake(self._topics.device, speaker, we)
        if received.payload == self._offline.payload:
            log.info("a late will said that this device is offline; corrected")
            self._states.put(self._online, now_s=time.monotonic())
        elif not received.payload:
            log.info("another device that had this name has cleared its topics; everything is said again")
            self._states.resend()

    def _hear_home_assistant(self, received: Received) -> None:
        if received.payload == b"online" and not received.retained:
            delay_s = random.uniform(0, self._announce_within_s)  # noqa: S311  # jitter keeps no secret
            self._announce_at_s = time.monotonic() + delay_s

    def _obey(self, received: Received, connection: Connection) -> None:
        if received.retained:
            log.warning("%s: a retained command is ignored: it would be carried out at every start", received.topic)
            return
        response = self._commands.answer(received.topic, received.payload, wall_s=time.time())
        if received.response_topic != response.topic:
            self._reply(response, None, connection)
        if received.response_topic is not None:
            elsewhere = replace(response, topic=received.response_topic)
            self._reply(elsewhere, received.correlation_data, connection)

    def _reply(self, response: Message, correlation_data: bytes | None, connection: Connection) -> None:
        if not is_topic(response.topic):
            log.warning("%.60s: a command is not answered there: that is no topic to publish on", response.topic)
            return
        if not connection.fits(response, correlation_data=correlation_data):
            why = f"the answer is too large for the broker, which takes {connection.largest_bytes} bytes"
            log.warning("%s: %s", response.topic, why)
            response = without_result(response, why=why)
        connection.send(response, correlation_data=correlation_data)

    def _leave(self, connection: Connection, delivery: Delivery) -> None:
        """Delivers what is left, says `offline` and waits until the broker has heard it, all within limits.

        A broker that has not confirmed it is left without a goodbye, so that it publishes the last will.
        """
        give_up_s = time.monotonic() + self._stop_timeout_s
        last_call_s = give_up_s - self._stop_timeout_s / 3
        while self._may_go_on(connection) and time.monotonic() < last_call_s:
            self._settle(connection.take_acks(), delivery)
            if delivery.idle and self._states.idle(without=self._caution.left_alone):
                break
            self._speak(connection, delivery)
            connection.wait(0.1)
        if self._abandoned.is_set():
            return
        number = connection.send(self._offline)
        heard = False
        while self._may_go_on(connection) and not heard and time.monotonic() < give_up_s:
            connection.wait(0.1)
            acks = connection.take_acks()
            self._settle(acks, delivery)
            heard = any(ack.number == number and ack.refusal is None for ack in acks)
        if heard:
            connection.close()
        log.info("%s: disconnected%s", self._settings.address, "" if heard else "; the broker did not confirm it")

    def _may_go_on(self, connection: Connection) -> bool:
        return connection.fault is None and not self._abandoned.is_set()
