"""One connection to the broker, from CONNECT to its end, driven by one thread.

Each connection is a fresh paho client, and this module runs its network loop instead of letting paho do so. paho would
keep its own copy of what is unacknowledged and send it again after a reconnect, beside the outbox; its waiting time
knows no jitter; its protocol version cannot change; and its thread cannot be stopped while a broker hangs. Without
paho's threads its callbacks run inside `wait`, so nothing here needs a lock.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge.domain import Message
from edge.errors import BrokerError
from edge.mqtt import faults, packets
from edge.mqtt.bell import Bell
from edge.mqtt.ledger import Ledger
from edge.mqtt.packets import Ack, Received, Said, Subscription
from edge.mqtt.settings import BrokerSettings

log = logging.getLogger(__name__)

_CLOSE_TIMEOUT_S = 1.0
_MOST_UNDER_WAY = 20
_ANSWER_TIMEOUT_S = 60.0
"""A broker may drop a message without a word. Only over another connection may it be sent again."""


class Connection:
    """An MQTT session that the broker has agreed to. Its methods are for one thread; leaving the context closes it.

    Args and Raises: as `dial.connect`, for one version of the protocol.

    Attributes:
        why_not: Why the connection is not one with MQTT 5, if that was tried.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        protocol: MQTTProtocolVersion,
        *,
        will: Message | None,
        bell: Bell | None,
        resume: bool,
        wanted: Callable[[], bool],
        timeout_s: float,
        why_not: faults.NoMqtt5 | None = None,
    ) -> None:
        self.why_not = why_not
        self._settings = settings
        self._wanted = wanted
        self._v5 = protocol == MQTTProtocolVersion.MQTTv5
        self._bell = bell
        self._resumed = False
        self._answer: tuple[ReasonCode, Properties | None] | None = None
        self._fault: BrokerError | None = None
        self._last_number = 0
        self._held_back: deque[Callable[[], None]] = deque()
        self._ledger = Ledger(most_messages=_MOST_UNDER_WAY)
        self._acks: list[Ack] = []
        self._received: list[Received] = []
        self._subscribed: list[Ack] = []
        self._client = self._new_client(protocol, timeout_s)
        if will is not None:
            self._set_will(will)
        with contextlib.ExitStack() as on_error:
            on_error.callback(self._hang_up)
            self._open(resume=resume or will is not None)
            self._await_answer(timeout_s)
            on_error.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._hang_up()

    @property
    def protocol(self) -> str:
        """The protocol's name, for people."""
        return "MQTT 5" if self._v5 else "MQTT 3.1.1"

    @property
    def makeshift(self) -> bool:
        """Whether the broker may speak a newer version all the same."""
        return isinstance(self.why_not, faults.Unanswered)

    @property
    def resumed(self) -> bool:
        """Whether the broker had a session of this client id that was not at its end."""
        return self._resumed

    @property
    def fault(self) -> BrokerError | None:
        """Why the connection ended; None while it stands."""
        return self._fault

    @property
    def careful(self) -> bool:
        """Whether to say one thing at a time, each so that the broker answers it. May be changed at any time."""
        return self._ledger.careful

    @careful.setter
    def careful(self, careful: bool) -> None:
        self._ledger.careful = careful

    @property
    def unanswered(self) -> list[Said]:
        """What the broker is to answer, in the order in which it was said."""
        return self._ledger.unanswered

    @property
    def room(self) -> int:
        """How many more messages with QoS 1 may be sent at once; beyond that, `send` holds them back."""
        return max(0, self._ledger.free - self.held_back)

    @property
    def held_back(self) -> int:
        """How many wait for their turn."""
        return len(self._held_back)

    @property
    def largest_bytes(self) -> int | None:
        """The largest packet that the broker takes (MQTT 5); None if it names no limit."""
        _, properties = self._answer or (None, None)
        return getattr(properties, "MaximumPacketSize", None)

    def fits(self, message: Message, *, correlation_data: bytes | None = None) -> bool:
        """Whether the broker takes a message of this size."""
        limit = self.largest_bytes
        return limit is None or packets.size_bytes(message, packets.publish(message, correlation_data)) <= limit

    def wait(self, timeout_s: float) -> None:
        """Lets the network work until something happens, the bell rings, or the time is over."""
        sock = self._client.socket()
        if sock is None:
            return
        if isinstance(sock, ssl.SSLSocket) and sock.pending():
            timeout_s = 0.0  # what is decrypted already does not make the socket readable
        writable = selectors.EVENT_WRITE if self._client.want_write() else 0
        with selectors.PollSelector() as selector:
            selector.register(sock, selectors.EVENT_READ | writable)
            if self._bell is not None:
                selector.register(self._bell, selectors.EVENT_READ)
            selector.select(timeout_s)
        if self._bell is not None:
            self._bell.silence()
        # Reading and writing when there is nothing to do costs one system call, and spares the bookkeeping.
        self._client.loop_read()
        self._client.loop_write()
        self._client.loop_misc()
        while self._held_back and self._ledger.free:
            self._held_back.popleft()()
        if self._fault is None and self._ledger.oldest_s > _ANSWER_TIMEOUT_S:
            self._fault = faults.unanswering(self._settings, _ANSWER_TIMEOUT_S)

    def send(self, message: Message, *, correlation_data: bytes | None = None, said: Said | None = None) -> int:
        """Hands a message to the network. Returns a number by which its `Ack` is known.

        `said` is what the broker's answer is about, where that is not just the message's topic.

        One with QoS 1 for which there is no room is held back, and sent by `wait` when its turn has come. One that is
        too large for the broker is not sent; its `Ack` says so, whatever its QoS.
        """
        self._last_number += 1
        if self.careful:
            message = replace(message, qos=1)
        said = said or Said(message.topic)
        publish = partial(self._publish, self._last_number, message, correlation_data, said)
        if not self.fits(message, correlation_data=correlation_data):
            refusal = f"larger than the {self.largest_bytes} bytes that it takes"
            self._acks.append(Ack(self._last_number, said, refusal, hopeless=True, unsent=True))
        elif message.qos and not self.room:
            self._held_back.append(publish)
        else:
            publish()
        return self._last_number

    def subscribe(self, subscriptions: Sequence[Subscription]) -> None:
        """Asks for messages; `take_subscribed` has the answers."""
        for subscription in subscriptions:
            if self.careful and not self.room:
                self._held_back.append(partial(self._ask, subscription))
            else:
                self._ask(subscription)

    def take_acks(self) -> list[Ack]:
        """The acknowledgements since the last call."""
        acks, self._acks = self._acks, []
        return acks

    def take_subscribed(self) -> list[Ack]:
        """The answers to `subscribe` since the last call."""
        subscribed, self._subscribed = self._subscribed, []
        return subscribed

    def take_received(self) -> list[Received]:
        """The messages since the last call."""
        received, self._received = self._received, []
        return received

    def close(self) -> None:
        """Says goodbye, upon which the broker drops the will and the session."""
        self._client.disconnect(properties=packets.goodbye() if self._v5 else None)
        give_up_s = time.monotonic() + _CLOSE_TIMEOUT_S
        # The broker closes the connection when it has read the goodbye, and with it all that was sent before.
        while self._client.socket() is not None and time.monotonic() < give_up_s:
            self.wait(0.1)
        self._hang_up()

    def _ask(self, subscription: Subscription) -> None:
        how = {"options": packets.subscribe(subscription)} if self._v5 else {"qos": 1}
        _, mid = self._client.subscribe(subscription.topic_filter, **how)
        if mid is not None:
            self._ledger.add(mid, Said(subscription.topic_filter, listening=True))

    def _publish(self, number: int, message: Message, correlation_data: bytes | None, said: Said) -> None:
        properties = packets.publish(message, correlation_data) if self._v5 else None
        info = self._client.publish(message.topic, message.payload, message.qos, message.retain, properties)
        if message.qos:
            self._ledger.add(info.mid, said, number=number)

    def _new_client(self, protocol: MQTTProtocolVersion, timeout_s: float) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2, self._settings.client_id, protocol=protocol, reconnect_on_failure=False
        )
        client.connect_timeout = timeout_s
        if self._settings.username is not None:
            client.username_pw_set(self._settings.username, self._settings.password)
        if self._settings.tls is not None:
            client.tls_set_context(self._settings.tls.context())
        client.on_socket_open = self._on_socket_open
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        return client

    def _set_will(self, will: Message) -> None:
        properties = packets.will(will) if self._v5 else None
        self._client.will_set(will.topic, will.payload, will.qos, will.retain, properties)

    def _open(self, *, resume: bool) -> None:
        arguments: dict[str, Any] = {}
        if self._v5:
            # A clean start would end the old session, and that would send the will which is being kept back.
            arguments = {"clean_start": not resume, "properties": packets.hello(resume=resume)}
        try:
            self._client.connect(self._settings.host, self._settings.port, self._settings.keepalive_s, **arguments)
        except UnicodeError as error:
            raise faults.unreachable(socket.gaierror(str(error)), self._settings) from error
        except OSError as error:
            raise faults.unreachable(error, self._settings) from error

    def _await_answer(self, timeout_s: float) -> None:
        give_up_s = time.monotonic() + timeout_s
        while self._answer is None and self._fault is None and time.monotonic() < give_up_s:
            self.wait(min(0.5, timeout_s))
        if self._answer is None:
            raise faults.unanswered(self._settings, closed=self._fault is not None)
        reason, _ = self._answer
        if reason.is_failure:
            raise faults.refused(reason, self._settings, mqtt5=self._v5)

    def _hang_up(self) -> None:
        sock = self._client.socket()
        if sock is not None:
            sock.close()

    def _on_socket_open(self, *_: object) -> None:
        if not self._wanted():
            raise faults.Unwanted("the connection is not wanted any more", where=self._settings.address)

    def _on_connect(
        self,
        _client: object,
        _data: object,
        flags: paho.ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        self._resumed = flags.session_present
        self._answer = reason, properties
        self._ledger.most_messages = min(_MOST_UNDER_WAY, getattr(properties, "ReceiveMaximum", _MOST_UNDER_WAY))

    def _on_disconnect(
        self, _client: object, _data: object, flags: paho.DisconnectFlags, reason: ReasonCode, _properties: object
    ) -> None:
        self._fault = faults.lost(reason, self._settings, told=flags.is_disconnect_packet_from_server)

    def _on_publish(self, _client: object, _data: object, mid: int, reason: ReasonCode, _properties: object) -> None:
        owed = self._ledger.settle(mid)
        if owed is not None:
            self._acks.append(packets.ack(owed.number, owed.said, reason))

    def _on_subscribe(
        self, _client: object, _data: object, mid: int, reasons: list[ReasonCode], _properties: object
    ) -> None:
        owed = self._ledger.settle(mid)
        if owed is not None:
            self._subscribed += [packets.ack(owed.number, owed.said, reason) for reason in reasons]

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError as error:
            log.debug("%s: passed over, as its topic is not UTF-8 (%s)", self._settings.address, error)
            return
        self._received.append(
            Received(
                topic,
                bytes(message.payload),
                bool(message.retain),
                getattr(message.properties, "ResponseTopic", None),
                getattr(message.properties, "CorrelationData", None),
                tuple(getattr(message.properties, "UserProperty", ())),
            )
        )
