"""The contents of MQTT packets: messages, acknowledgements, subscriptions, and their MQTT 5 properties."""

from __future__ import annotations

from dataclasses import dataclass

from paho.mqtt.client import topic_matches_sub
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge.domain import Message

_WILL_DELAY_S = 5
_SESSION_EXPIRY_S = 15
"""The session outlives a short break of the network: when it ends, the broker publishes the will without delay."""
_MAXIMUM_PACKET_BYTES = 1 << 20
"""Far more than any message that an agent subscribes to. With MQTT 5, the broker does not send larger ones."""
_MAX_TOPIC_BYTES = 1000
"""The protocol's own limit is 65,535."""
_PERMANENT = 0x99
"""Payload format invalid: the message is rejected for its content, so a retry is pointless."""
_FORBIDDEN = frozenset({0x87, 0x90})
"""Not authorized; and topic name invalid, which means that this client may not use it, as the topic is well-formed."""
_MAX_TOPIC_LEVELS = 200
"""Mosquitto drops the connection over a topic with more."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message from the broker.

    Attributes:
        retained: Whether the broker had retained it, or (MQTT 5, `retain_as_published`) it was published as retained.
        response_topic, correlation_data: Where the sender expects the response, and how to mark it (MQTT 5).
        user_properties: The sender's user properties (MQTT 5).
    """

    topic: str
    payload: bytes
    retained: bool
    response_topic: str | None = None
    correlation_data: bytes | None = None
    user_properties: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """A PUBLISH or SUBSCRIBE that the broker has to acknowledge, identified by its topic.

    Attributes:
        topic: The topic of a message, or the topic filter of a subscription.
        subscribe: Whether it is a subscription.
        response: Whether it is a response to a command, which is sent once and never retried. All responses on the
            device's own topics count as one operation, under a topic filter.
    """

    topic: str
    subscribe: bool = False
    response: bool = False


@dataclass(frozen=True, slots=True)
class Ack:
    """The outcome of an operation: the broker's PUBACK or SUBACK, or why a message was not even sent.

    Attributes:
        send_id: What `Connection.send` returned for the message.
        operation: What is acknowledged.
        rejection: Why the broker rejected it (MQTT 5, or a SUBACK); None if it was accepted.
        permanent: Whether the broker would reject it at any time. Other rejections may be temporary: a quota becomes
            free, a right is granted.
        forbidden: Whether it was rejected because this client lacks the right.
        unsent: Whether it was not sent, as it exceeds a limit that the broker has announced.
    """

    send_id: int
    operation: Operation
    rejection: str | None = None
    permanent: bool = False
    forbidden: bool = False
    unsent: bool = False

    @property
    def topic(self) -> str:
        """The topic of the message, or the topic filter of the subscription."""
        return self.operation.topic


@dataclass(frozen=True, slots=True)
class Subscription:
    """A topic filter and the options of its subscription.

    Attributes:
        topic_filter: May contain wildcards.
        retain_as_published: Whether a message that is published as retained keeps its retain flag (MQTT 5). Otherwise
            only those that the broker had retained before the subscription have it.
        send_retained: Whether the broker sends the messages that it has retained (with MQTT 3.1.1, it always does).
    """

    topic_filter: str
    retain_as_published: bool = False
    send_retained: bool = False

    def matches(self, topic: str) -> bool:
        """Whether messages on `topic` belong to this subscription."""
        return topic_matches_sub(self.topic_filter, topic)


def connect_properties(*, resume: bool) -> Properties:
    """Returns the properties of CONNECT; `resume` lets the session outlive a short break of the connection."""
    properties = _properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = _SESSION_EXPIRY_S if resume else 0
    properties.MaximumPacketSize = _MAXIMUM_PACKET_BYTES
    return properties


def will_properties(message: Message) -> Properties:
    """Returns the properties of the will, with a delay in case the client comes back soon."""
    properties = _message_properties(message, PacketTypes.WILLMESSAGE)
    properties.WillDelayInterval = _WILL_DELAY_S
    return properties


def publish_properties(message: Message, correlation_data: bytes | None = None) -> Properties:
    """Returns the properties of PUBLISH."""
    properties = _message_properties(message, PacketTypes.PUBLISH)
    if correlation_data is not None:
        properties.CorrelationData = correlation_data
    return properties


def disconnect_properties() -> Properties:
    """Returns the properties of DISCONNECT, which ends the session together with the connection."""
    properties = _properties(PacketTypes.DISCONNECT)
    properties.SessionExpiryInterval = 0
    return properties


def subscribe_options(subscription: Subscription) -> SubscribeOptions:
    """Returns the options of SUBSCRIBE.

    By default the broker sends no retained messages: commands and notices count only at the moment they are published.
    """
    handling = SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE
    if not subscription.send_retained:
        handling = SubscribeOptions.RETAIN_DO_NOT_SEND
    return SubscribeOptions(qos=1, retainAsPublished=subscription.retain_as_published, retainHandling=handling)


def publish_size_bytes(message: Message, properties: Properties) -> int:
    """Returns the size of a message's PUBLISH packet (MQTT 5)."""
    properties_bytes = len(properties.pack())  # type: ignore[no-untyped-call]  # paho publishes no type for it
    packet_id_bytes = 2 if message.qos else 0
    remaining_bytes = 2 + len(message.topic.encode()) + packet_id_bytes + properties_bytes + len(message.payload)
    length_bytes = -(-remaining_bytes.bit_length() // 7)
    return 1 + length_bytes + remaining_bytes


def ack(send_id: int, operation: Operation, reason: ReasonCode) -> Ack:
    """Returns the outcome that the reason code of a PUBACK or SUBACK stands for."""
    if not reason.is_failure:
        return Ack(send_id, operation)
    return Ack(
        send_id,
        operation,
        str(reason),
        permanent=reason.value == _PERMANENT,
        forbidden=reason.value in _FORBIDDEN,
    )


def is_valid_topic(name: str) -> bool:
    """Whether a topic name that another client chose can be published on."""
    fits = 0 < len(name.encode()) <= _MAX_TOPIC_BYTES and name.count("/") < _MAX_TOPIC_LEVELS
    return fits and not set(name) & {"+", "#", "\0"}


def _message_properties(message: Message, packet: int) -> Properties:
    properties = _properties(packet)
    properties.ContentType = message.content_type
    if message.expiry_s is not None:
        properties.MessageExpiryInterval = message.expiry_s
    if message.user_properties:
        properties.UserProperty = list(message.user_properties)
    return properties


def _properties(packet: int) -> Properties:
    return Properties(packet)  # type: ignore[no-untyped-call]  # paho publishes no type for it
