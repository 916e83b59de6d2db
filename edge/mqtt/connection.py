"""One connection to the broker, from CONNECT to DISCONNECT, driven by one thread.

Each connection is a fresh paho client, and this module runs its network loop instead of leaving that to paho. paho
would keep its own copy of unacknowledged messages and send them again after a reconnect, besides the outbox; its
reconnect delay has no jitter; its protocol version is fixed; and its thread cannot be stopped while a broker hangs.
Without paho's threads its callbacks run inside `wait`, so nothing here needs a lock.
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
from edge.mqtt.in_flight import InFlight
from edge.mqtt.packets import Ack, Operation, Received, Subscription
from edge.mqtt.settings import BrokerSettings
from edge.mqtt.waker import Waker

log = logging.getLogger(__name__)

_CLOSE_TIMEOUT_S = 1.0
_MAX_IN_FLIGHT = 20
_ACK_TIMEOUT_S = 60.0
"""A broker may drop a message silently. MQTT 5 allows sending it again only over another connection [MQTT-4.4.0-1]."""


class Connection:
    """An established MQTT connection. Not thread-safe. Leaving the context closes it without DISCONNECT.

    Args and Raises: as for `connect.connect`, for one version of the protocol.

    Attributes:
        fallback_reason: Why the connection does not use MQTT 5, if that was tried first.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        protocol: MQTTProtocolVersion,
        *,
        will: Message | None,
        waker: Waker | None,
        resume: bool,
        cancelled: Callable[[], bool],
        timeout_s: float,
        fallback_reason: faults.Mqtt5Unsupported | None = None,
    ) -> None:
        self.fallback_reason = fallback_reason
        self._settings = settings
        self._cancelled = cancelled
        self._v5 = protocol == MQTTProtocolVersion.MQTTv5
        self._waker = waker
        self._session_present = False
        self._connack: tuple[ReasonCode, Properties | None] | None = None
        self._fault: BrokerError | None = None
        self._last_send_id = 0
        self._queue: deque[Callable[[], None]] = deque()  # sends that wait for send quota
        self._in_flight = InFlight(receive_maximum=_MAX_IN_FLIGHT)
        self._acks: list[Ack] = []
        self._received: list[Received] = []
        self._subacks: list[Ack] = []
        self._client = self._new_client(protocol, timeout_s)
        if will is not None:
            self._set_will(will)
        with contextlib.ExitStack() as on_error:
            on_error.callback(self._close_socket)
            self._open(resume=resume or will is not None)
            self._await_connack(timeout_s)
            on_error.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._close_socket()

    @property
    def protocol(self) -> str:
        """The name of the protocol version."""
        return "MQTT 5" if self._v5 else "MQTT 3.1.1"

    @property
    def provisional(self) -> bool:
        """Whether this is MQTT 3.1.1 only for lack of a CONNACK to MQTT 5, which the broker may support after all."""
        return isinstance(self.fallback_reason, faults.NoConnack)

    @property
    def session_present(self) -> bool:
        """Whether the broker still had a session of this client id, as its CONNACK says."""
        return self._session_present

    @property
    def fault(self) -> BrokerError | None:
        """Why the connection ended; None while it stands."""
        return self._fault

    @property
    def serial(self) -> bool:
        """Whether to send one operation at a time, each with QoS 1 so that it is acknowledged. May change any time."""
        return self._in_flight.serial

    @serial.setter
    def serial(self, serial: bool) -> None:
        self._in_flight.serial = serial

    @property
    def unacknowledged(self) -> list[Operation]:
        """The operations in flight, in the order in which they were sent."""
        return self._in_flight.operations

    @property
    def send_quota(self) -> int:
        """How many more QoS 1 messages may be sent at once; `send` queues those beyond that."""
        return max(0, self._in_flight.send_quota - self.queued)

    @property
    def queued(self) -> int:
        """How many operations wait for send quota."""
        return len(self._queue)

    @property
    def maximum_packet_size(self) -> int | None:
        """The size in bytes of the largest packet that the broker accepts (MQTT 5); None if it announced no limit."""
        _, properties = self._connack or (None, None)
        return getattr(properties, "MaximumPacketSize", None)

    def fits(self, message: Message, *, correlation_data: bytes | None = None) -> bool:
        """Whether the broker accepts a message of this size."""
        limit = self.maximum_packet_size
        if limit is None:
            return True
        return packets.publish_size_bytes(message, packets.publish_properties(message, correlation_data)) <= limit

    def wait(self, timeout_s: float) -> None:
        """Runs the network loop once: waits until there is something to do, the waker is woken, or time is up."""
        sock = self._client.socket()
        if sock is None:
            return
        if isinstance(sock, ssl.SSLSocket) and sock.pending():
            timeout_s = 0.0  # data that is decrypted already does not make the socket readable
        writable = selectors.EVENT_WRITE if self._client.want_write() else 0
        with selectors.PollSelector() as selector:
            selector.register(sock, selectors.EVENT_READ | writable)
            if self._waker is not None:
                selector.register(self._waker, selectors.EVENT_READ)
            selector.select(timeout_s)
        if self._waker is not None:
            self._waker.clear()
        # Calling both regardless of what is ready costs one system call, and spares the bookkeeping.
        self._client.loop_read()
        self._client.loop_write()
        self._client.loop_misc()
        while self._queue and self._in_flight.send_quota:
            self._queue.popleft()()
        if self._fault is None and self._in_flight.oldest_age_s > _ACK_TIMEOUT_S:
            self._fault = faults.ack_timeout(self._settings, _ACK_TIMEOUT_S)

    def send(
        self, message: Message, *, correlation_data: bytes | None = None, operation: Operation | None = None
    ) -> int:
        """Sends a message.

        A QoS 1 message without send quota is queued, and sent by `wait` when it is its turn. A message that is too
        large for the broker is not sent; it gets an `Ack` that says so, whatever its QoS.

        Args:
            message: The message.
            correlation_data: Sent along with it (MQTT 5).
            operation: What the message's acknowledgement is about, if not just its topic.

        Returns:
            The id that its `Ack` will carry.
        """
        self._last_send_id += 1
        if self.serial:
            message = replace(message, qos=1)
        operation = operation or Operation(message.topic)
        publish = partial(self._publish, self._last_send_id, message, correlation_data, operation)
        if not self.fits(message, correlation_data=correlation_data):
            rejection = f"larger than its limit of {self.maximum_packet_size} bytes"
            self._acks.append(Ack(self._last_send_id, operation, rejection, permanent=True, unsent=True))
        elif message.qos and not self.send_quota:
            self._queue.append(publish)
        else:
            publish()
        return self._last_send_id

    def subscribe(self, subscriptions: Sequence[Subscription]) -> None:
        """Sends a SUBSCRIBE for each; `take_subacks` returns the acknowledgements."""
        for subscription in subscriptions:
            if self.serial and not self.send_quota:
                self._queue.append(partial(self._subscribe, subscription))
            else:
                self._subscribe(subscription)

    def take_acks(self) -> list[Ack]:
        """Returns the outcomes of `send` since the last call."""
        acks, self._acks = self._acks, []
        return acks

    def take_subacks(self) -> list[Ack]:
        """Returns the outcomes of `subscribe` since the last call."""
        subacks, self._subacks = self._subacks, []
        return subacks

    def take_received(self) -> list[Received]:
        """Returns the messages received since the last call."""
        received, self._received = self._received, []
        return received

    def close(self) -> None:
        """Disconnects cleanly: upon DISCONNECT, the broker discards the will and the session."""
        self._client.disconnect(properties=packets.disconnect_properties() if self._v5 else None)
        give_up_s = time.monotonic() + _CLOSE_TIMEOUT_S
        # The broker closes the connection once it has read the DISCONNECT, and so all that was sent before it.
        while self._client.socket() is not None and time.monotonic() < give_up_s:
            self.wait(0.1)
        self._close_socket()

    def _subscribe(self, subscription: Subscription) -> None:
        options = {"options": packets.subscribe_options(subscription)} if self._v5 else {"qos": 1}
        _, packet_id = self._client.subscribe(subscription.topic_filter, **options)
        if packet_id is not None:
            self._in_flight.add(packet_id, Operation(subscription.topic_filter, subscribe=True))

    def _publish(self, send_id: int, message: Message, correlation_data: bytes | None, operation: Operation) -> None:
        properties = packets.publish_properties(message, correlation_data) if self._v5 else None
        info = self._client.publish(message.topic, message.payload, message.qos, message.retain, properties)
        if message.qos:
            self._in_flight.add(info.mid, operation, send_id=send_id)

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
        properties = packets.will_properties(will) if self._v5 else None
        self._client.will_set(will.topic, will.payload, will.qos, will.retain, properties)

    def _open(self, *, resume: bool) -> None:
        arguments: dict[str, Any] = {}
        if self._v5:
            # A clean start would end the previous session, and so publish the will whose delay is still running.
            arguments = {"clean_start": not resume, "properties": packets.connect_properties(resume=resume)}
        try:
            self._client.connect(self._settings.host, self._settings.port, self._settings.keepalive_s, **arguments)
        except UnicodeError as error:
            raise faults.unreachable(socket.gaierror(str(error)), self._settings) from error
        except OSError as error:
            raise faults.unreachable(error, self._settings) from error

    def _await_connack(self, timeout_s: float) -> None:
        give_up_s = time.monotonic() + timeout_s
        while self._connack is None and self._fault is None and time.monotonic() < give_up_s:
            self.wait(min(0.5, timeout_s))
        if self._connack is None:
            raise faults.no_connack(self._settings, closed=self._fault is not None)
        reason, _ = self._connack
        if reason.is_failure:
            raise faults.refused(reason, self._settings, mqtt5=self._v5)

    def _close_socket(self) -> None:
        sock = self._client.socket()
        if sock is not None:
            sock.close()

    def _on_socket_open(self, *_: object) -> None:
        if self._cancelled():
            raise faults.ConnectCancelled("the connection attempt was cancelled", where=self._settings.address)

    def _on_connect(
        self,
        _client: object,
        _data: object,
        flags: paho.ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        self._session_present = flags.session_present
        self._connack = reason, properties
        self._in_flight.receive_maximum = min(_MAX_IN_FLIGHT, getattr(properties, "ReceiveMaximum", _MAX_IN_FLIGHT))

    def _on_disconnect(
        self, _client: object, _data: object, flags: paho.DisconnectFlags, reason: ReasonCode, _properties: object
    ) -> None:
        self._fault = faults.lost(reason, self._settings, from_broker=flags.is_disconnect_packet_from_server)

    def _on_publish(self, _client: object, _data: object, mid: int, reason: ReasonCode, _properties: object) -> None:
        pending = self._in_flight.pop(mid)
        if pending is not None:
            self._acks.append(packets.ack(pending.send_id, pending.operation, reason))

    def _on_subscribe(
        self, _client: object, _data: object, mid: int, reasons: list[ReasonCode], _properties: object
    ) -> None:
        pending = self._in_flight.pop(mid)
        if pending is not None:
            self._subacks += [packets.ack(pending.send_id, pending.operation, reason) for reason in reasons]

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError as error:
            log.debug("%s: skipping a message whose topic is not UTF-8 (%s)", self._settings.address, error)
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
